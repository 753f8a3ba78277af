"""Read a verdict of results.json: its tests, and residual influence client by client.

Nulls, NaN and what is missing are read as not known; nothing is decided here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fedneg.core.formats import MISSING, number, whole_percent
from fedneg.evaluation.acquittal import FAILED, INFLUENCE, MARGINS, WORSE, doubt_of
from fedneg.evaluation.scores import DOUBTS

# Whose examples: a client's, all of them or (True) the ordinary ones alone.
Whose = tuple[int, bool]
# What an influence comes to by itself: beside the judge's finding of the whole model.
TRACES, OVERSHOT, WITHIN, OPEN = "traces left", "overshot", "within", "cannot tell"
_ALPHA = 0.05


@dataclass(frozen=True)
class Residual:
    """A client's residual influence on a model, with its interval.

    `p_value` is adjusted for all tests of the model; None where it is not known.
    `status` is one of `TRACES`, `OVERSHOT`, `WITHIN` and `OPEN`. `ordinary`: measured
    on the examples that models without the client do not contradict alone; `partial`:
    these could not be measured, though the others are nearly all of it. `alone`: it
    speaks against the model by its own p, and is no finding (`is_alone`). `doubt`:
    which other score does; `within`: whether the interval is within the margins.
    """

    client_id: int
    ordinary: bool
    partial: bool
    alone: bool
    doubt: str | None
    within: bool
    rho: float
    low: float
    high: float
    n_in: int | None
    n_out: int | None
    p_value: float | None
    status: str

    @property
    def whose(self) -> Whose:
        """Whose examples it is measured on."""
        return self.client_id, self.ordinary

    @property
    def is_stopped(self) -> bool:
        """Whether another score is all that stands in the way of an acquittal."""
        return self.status == OPEN and self.doubt is not None and self.within

    @property
    def half(self) -> float:
        """Half of the interval: what so many retrained models resolve."""
        return (self.high - self.low) / 2

    def beyond(self, margins: tuple[float, float]) -> float:
        """Return how far the interval reaches out of margins; below 0: not at all."""
        return max(margins[0] - self.low, self.high - margins[1])


def verdict_of(results: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the verdict; None in older results and where nobody was forgotten."""
    verdict = results.get("verdict")
    return verdict if isinstance(verdict, Mapping) and verdict.get("outcome") else None


def is_earlier(verdict: Mapping[str, Any]) -> bool:
    """Return whether the earlier judge left it: lines with thresholds."""
    return "influence" not in verdict


def models_of(verdict: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the finding of every model that was judged, by name."""
    found = verdict.get("models")
    found = found if isinstance(found, Mapping) else {}
    return {str(k): one for k, one in found.items() if isinstance(one, Mapping)}


def later_of(verdict: Mapping[str, Any]) -> list[tuple[int, Mapping[str, Any]]]:
    """Return what was found after further rounds: how many, and the finding, in order.

    What an entry does not have is as in the verdict itself.
    """
    found = []
    for entry in verdict.get("later") or ():
        if not isinstance(entry, Mapping):
            continue
        rounds = number(entry.get("rounds_after"))
        if rounds is not None:
            found.append((int(rounds), {**verdict, "p_values": None, **entry}))
    return sorted(found, key=lambda one: one[0])


def margins_of(verdict: Mapping[str, Any]) -> tuple[float, float]:
    """Return the margins of rho that were set before; the usual ones if not told."""
    found = [number(value) for value in verdict.get("margins") or ()]
    if len(found) != 2 or found[0] is None or found[1] is None:
        return MARGINS
    return found[0], found[1]


def alpha_of(verdict: Mapping[str, Any]) -> float:
    """Return how many errors of all tests together were allowed."""
    return number(verdict.get("alpha")) or _ALPHA


def adjusted(verdict: Mapping[str, Any], test: str) -> float | None:
    """Return a test's adjusted p; None where it is not known."""
    return number((verdict.get("p_values") or {}).get(test))


def is_found(verdict: Mapping[str, Any], test: str) -> bool:
    """Return whether a test found anything."""
    p_value = adjusted(verdict, test)
    return p_value is not None and p_value < alpha_of(verdict)


def is_alone(verdict: Mapping[str, Any], test: str, found: Mapping[str, Any]) -> bool:
    """Return whether a test speaks against a model, and is no finding.

    Were it the only one it would be one, or nearly: such a test acquits nobody.

    Parameters
    ----------
    found : mapping
        What it says, with a p that is not adjusted.
    """
    p_value = number(found.get("p_value"))
    alone = p_value is not None and p_value < max(
        doubt_of(len(verdict.get("influence") or ())), alpha_of(verdict)
    )
    objects = test in (verdict.get("objections") or {})
    return (alone or objects) and not is_found(verdict, test)


def is_worse(verdict: Mapping[str, Any], test: str) -> bool:
    """Return whether canaries are worse known than chance would have them."""
    return (verdict.get("objections") or {}).get(test) == WORSE


def have_failed(verdict: Mapping[str, Any], client_id: int) -> bool:
    """Return whether models with a client know it worse than models without it."""
    test = f"{INFLUENCE}{client_id}"
    return (verdict.get("objections") or {}).get(test) == FAILED


def residuals_of(verdict: Mapping[str, Any]) -> dict[Whose, Residual | None]:
    """Return each leaving client's influence; None where nothing can be said of it.

    Of a client whose ordinary examples were measured by themselves there are two.

    Parameters
    ----------
    verdict : mapping
        ``verdict`` of results.json, or an entry of its ``models``.
    """
    influence = verdict.get("influence")
    if not isinstance(influence, Mapping):
        return {}
    found: dict[Whose, Residual | None] = {}
    for k, one in influence.items():
        if not str(k).isdigit():
            continue
        client_id = int(k)
        found[client_id, False] = _residual((client_id, False), one, verdict)
        rest = one.get("rest") if isinstance(one, Mapping) else None
        if rest is not None:
            found[client_id, True] = _residual((client_id, True), rest, verdict)
    return found


def _residual(
    whose: Whose, found: object, verdict: Mapping[str, Any]
) -> Residual | None:
    if not isinstance(found, Mapping):
        return None
    client_id, ordinary = whose
    partial = found.get("is_partial") is True
    rho, low, high = (number(found.get(name)) for name in ("rho", "low", "high"))
    if rho is None or low is None or high is None:
        return None
    test, margins = f"{INFLUENCE}{client_id}", margins_of(verdict)
    against = (verdict.get("objections") or {}).get(test)
    # Of all examples or of the ordinary ones: which of these is not told.
    doubt = against if against in DOUBTS and not ordinary else None
    if ordinary:
        test += ", ordinary examples"
    alone = is_alone({**verdict, "objections": None}, test, found)
    within = margins[0] <= low and high <= margins[1]
    if is_found(verdict, test):
        status = TRACES if rho >= 0 else OVERSHOT
    else:
        status = WITHIN if within and not (partial or alone or doubt) else OPEN
    return Residual(
        client_id,
        ordinary,
        partial,
        alone,
        doubt,
        within,
        rho,
        low,
        high,
        _count(found.get("n_in")),
        _count(found.get("n_out")),
        adjusted(verdict, test),
        status,
    )


def _count(value: object) -> int | None:
    found = number(value)
    return None if found is None else int(found)


def worst_of(verdict: Mapping[str, Any]) -> Residual | None:
    """Return the influence that decides: found before open before within margins.

    Of several that were found the farthest from 0, of others the one whose interval
    reaches farthest out of the margins. None without any.
    """
    ordered = in_order(verdict)
    return ordered[0] if ordered else None


def in_order(verdict: Mapping[str, Any]) -> list[Residual]:
    """Return the influences that are known, the worst first (`worst_of`)."""
    margins = margins_of(verdict)
    rank = (TRACES, OVERSHOT, OPEN, WITHIN)

    def key(one: Residual) -> tuple[float, float]:
        far = abs(one.rho) if one.status in (TRACES, OVERSHOT) else one.beyond(margins)
        return rank.index(one.status), -far

    known = [one for one in residuals_of(verdict).values() if one is not None]
    return sorted(known, key=key)


def name_whose(whose: Whose) -> str:
    """Return 'client 3', or 'the ordinary examples of client 3'."""
    client_id, ordinary = whose
    return f"{'the ordinary examples of ' if ordinary else ''}client {client_id}"


def dots_of(
    verdict: Mapping[str, Any], whose: Whose
) -> Iterator[tuple[str, list[float]]]:
    """Yield 'out' and 'in' with rho of each such model, where they are known."""
    client_id, ordinary = whose
    found = (verdict.get("influence") or {}).get(str(client_id)) or {}
    if ordinary:
        found = found.get("rest") or {}
    for name in ("out", "in"):
        values = [number(value) for value in found.get(name) or ()]
        known = [value for value in values if value is not None]
        if known:
            yield name, known


def interval(one: Residual) -> str:
    """Return 'between -20 and 26 %', with a minus sign."""
    return f"between {whole_percent(one.low)} and {whole_percent(one.high)} %"


def short_interval(one: Residual | None) -> str:
    """Return '3 % (-20 to 26)' for a table, a dash where nothing is known."""
    if one is None:
        return MISSING
    low, high = whole_percent(one.low), whole_percent(one.high)
    return f"{whole_percent(one.rho)} % ({low} to {high})"


def marker_rate(verdict: Mapping[str, Any], which: str) -> float | None:
    """Return how often a planted trick worked; None where it was not counted.

    Parameters
    ----------
    which : str
        judged: in the judged model; references: in models that never saw it.
    """
    one = (verdict.get("marker") or {}).get(which) or {}
    hits, total = number(one.get("hits")), number(one.get("count"))
    return None if hits is None or not total else hits / total


@dataclass(frozen=True)
class Canaries:
    """Pairs of canaries of a client: how many are won, of how many."""

    client_id: int
    won: int
    total: int


def canaries_of(verdict: Mapping[str, Any]) -> list[Canaries]:
    """Return the pairs of each client that has any."""
    found = []
    for k, one in (verdict.get("canaries") or {}).items():
        won, total = (number((one or {}).get(name)) for name in ("won", "count"))
        if won is not None and total and str(k).isdigit():
            found.append(Canaries(int(k), int(won), int(total)))
    return found
