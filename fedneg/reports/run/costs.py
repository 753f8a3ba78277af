"""The report's costs: what the run took, and what forgetting cost beside retraining."""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from fedneg.core.formats import (
    MISSING,
    human_bytes,
    human_seconds,
    name_clients,
    number,
    plain,
    rate,
)
from fedneg.reports.html.page import Format, Page

_COSTS: dict[str, tuple[str, Format]] = {
    "rounds": ("rounds with clients", plain),
    "client_epochs": ("client-epochs", plain),
    "bytes_up": ("sent by clients", human_bytes),
    "bytes_down": ("sent to clients", human_bytes),
    "seconds": ("time", human_seconds),
    "online": ("who had to be online", lambda ids: _name_online(ids)),
    "server_bytes": ("kept by the server for it", human_bytes),
}


def add_costs(page: Page, results: Mapping[str, Any]) -> None:
    """Add what the run took in time, traffic and memory."""
    cost: Mapping[str, Any] = results.get("cost", {})
    names = {
        "train": "training",
        "unlearn": "forgetting",
        "recover": "repair",
        "retrain": "reference retraining",
    }
    facts: dict[str, object] = {
        f"Time, {name}": human_seconds(cost.get(f"{phase}_seconds"))
        for phase, name in names.items()
    }
    facts["Sent by clients"] = human_bytes(cost.get("bytes_up"))
    facts["Sent to clients"] = human_bytes(cost.get("bytes_down"))
    facts["Kept in the ledger"] = human_bytes(cost.get("ledger_bytes"))
    page.section("What it cost").facts(facts)
    if number(cost.get("reused_training")):
        page.text(
            "Training was not repeated: the federation was taken from an earlier run "
            "with the same configuration."
        )
    if number(cost.get("resumed_from_round")):
        page.text(f"The run was resumed after round {cost['resumed_from_round']}.")
    _add_comparison(page, cost)


def _add_comparison(page: Page, cost: Mapping[str, Any]) -> None:
    """Add forgetting (with repair) beside retraining, of what is known."""
    sides = {
        name: found
        for name in ("forgetting", "retraining")
        if isinstance(found := cost.get(name), Mapping)
    }
    if "forgetting" not in sides:
        return
    rows = {"cost": [label for label, _ in _COSTS.values()]} | {
        name: [form(found.get(key)) for key, (_, form) in _COSTS.items()]
        for name, found in sides.items()
    }
    page.table(
        pd.DataFrame(rows, dtype=object),
        caption="Forgetting, with the repair after it, beside retraining from scratch"
        if "retraining" in sides
        else "Forgetting, with the repair after it",
        formats=dict.fromkeys(sides, str),
    )
    page.text(*describe_speed_up(cost.get("speed_up") or {}))


def _name_online(client_ids: Any) -> str:
    """Return who had to be reachable, a dash where it is not known."""
    if client_ids is None:
        return MISSING
    return name_clients(client_ids) if client_ids else "nobody"


def describe_speed_up(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield how forgetting compares with retraining at equal test accuracy, if known.

    Parameters
    ----------
    found : mapping
        ``cost.speed_up``; `method` and `reference` in client-epochs, null where the
        accuracy was never reached.
    """
    accuracy, ratio = number(found.get("accuracy")), number(found.get("ratio"))
    method, reference = number(found.get("method")), number(found.get("reference"))
    if accuracy is None:
        return
    level = f"To a test accuracy of {rate(accuracy)}"
    if method is None or reference is None:
        who = "forgetting" if method is None else "retraining"
        yield f"{level} {who} never came, so that there is no speed-up to tell."
        return
    spent = f"forgetting took {method:g} client-epochs, retraining {reference:g}"
    if ratio is None or ratio <= 0:
        yield f"{level} {spent}."
    elif ratio >= 1:
        yield f"{level} {spent}: {ratio:.3g} times as many."
    else:
        yield f"{level} {spent}: forgetting was the dearer one, {1 / ratio:.3g} times."
