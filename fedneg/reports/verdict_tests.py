"""The tests that a verdict in results.json rests on, for a table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedneg.core.formats import percent
from fedneg.reports.verdict_values import (
    OPEN,
    OVERSHOT,
    TRACES,
    WITHIN,
    Residual,
    adjusted,
    canaries_of,
    in_order,
    is_alone,
    is_found,
    marker_rate,
    name_whose,
    residuals_of,
    short_interval,
)

ALONE = "too much to acquit"


@dataclass(frozen=True)
class DecidingTest:
    """A test that decides: what it is, what it says, and its adjusted p.

    `decision` is what it finds; `look` good, bad or open.
    """

    name: str
    said: str
    p_value: float | None
    decision: str
    look: str


def deciding_tests(results: Mapping[str, Any]) -> list[DecidingTest]:
    """Return the tests that a verdict rests on, the worst client first."""
    verdict = results["verdict"]
    tests = [_influence_test(one) for one in in_order(verdict)]
    tests += [
        DecidingTest(f"residual influence, client {k}", "not known", None, OPEN, "open")
        for (k, _), one in residuals_of(verdict).items()
        if one is None
    ]
    after, never = (marker_rate(verdict, name) for name in ("judged", "references"))
    if after is not None and never is not None:
        said = f"{percent(after)}; models that never saw it {percent(never)}"
        tests.append(
            _counted("planted trick", said, verdict, "marker", verdict["marker"])
        )
    for one in canaries_of(verdict):
        name, said = f"canaries, client {one.client_id}", f"{one.won} of {one.total}"
        test = f"canaries {one.client_id}"
        found = verdict["canaries"][str(one.client_id)]
        tests.append(_counted(name, f"{said} pairs won", verdict, test, found))
    return tests


def _influence_test(one: Residual) -> DecidingTest:
    models = ", ".join(
        f"{number_of} {word} it"
        for number_of, word in ((one.n_in, "with"), (one.n_out, "without"))
        if number_of is not None
    )
    decision, look = {
        TRACES: (TRACES, "bad"),
        OVERSHOT: (OVERSHOT, "bad"),
        WITHIN: ("within the margins", "good"),
        OPEN: (OPEN, "open"),
    }[one.status]
    decision = ALONE if one.alone or one.is_stopped else decision
    said = short_interval(one) + (f"; models: {models}" if models else "")
    name = f"residual influence, {name_whose(one.whose)}"
    return DecidingTest(name, said, one.p_value, decision, look)


def _counted(
    name: str,
    said: str,
    verdict: Mapping[str, Any],
    test: str,
    found: Mapping[str, Any],
) -> DecidingTest:
    p_value = adjusted(verdict, test)
    if is_found(verdict, test):
        return DecidingTest(name, said, p_value, TRACES, "bad")
    if is_alone(verdict, test, found):
        return DecidingTest(name, said, p_value, ALONE, "open")
    return DecidingTest(name, said, p_value, "nothing found", "open")
