"""Who, or what of whom, was to be forgotten: how reports call it."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedneg.core.formats import name_clients
from fedneg.core.samples import POISONED


def samples_of(results: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what of each client was to go, by its id; {} where whole clients were."""
    found: Mapping[str, Any] = results.get("forget_samples") or {}
    return found


def name_forgotten(results: Mapping[str, Any]) -> str:
    """Return 'client 4', or '36 examples of client 4' where not all of it was to go."""
    samples = samples_of(results)
    if not samples:
        return name_clients(results["forget"])
    return " and ".join(
        f"{_count(found)} of client {client_id}" for client_id, found in samples.items()
    )


def _count(found: Mapping[str, Any]) -> str:
    """Return how many examples of one client, of whatever kind."""
    number = found.get("examples")
    kind = "poisoned " if found.get("chosen") == POISONED else ""
    one = "" if number == 1 else "s"
    return f"{'some' if number is None else number} {kind}example{one}"


def these(results: Mapping[str, Any]) -> str:
    """Return what a sentence points at: 'this client', or 'these examples'."""
    if samples_of(results):
        return "these examples"
    return "these clients" if len(results["forget"]) > 1 else "this client"


def whose(results: Mapping[str, Any], named: str) -> str:
    """Return a client that was named, or those of its examples that were to go."""
    return f"the chosen examples of {named}" if samples_of(results) else named


def short(results: Mapping[str, Any], between: str = " ") -> str:
    """Return client ids for a cell or a line: '1 4', or '72 examples of 1'."""
    samples = samples_of(results)
    if not samples:
        return between.join(map(str, results["forget"]))
    return ", ".join(f"{_count(found)} of {k}" for k, found in samples.items())


def listed(client_ids: Sequence[int], results: Mapping[str, Any]) -> str:
    """Return clients by name, or those of their examples that were to go."""
    return whose(results, name_clients(client_ids))
