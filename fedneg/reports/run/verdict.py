"""The report's verdict: its banner, the tests behind it, and the judge's controls.

Nothing is decided here: outcomes are those of `fedneg.evaluation.judge`, as they stand
in results.json.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from fedneg.core.formats import MISSING, number, whole_percent
from fedneg.evaluation.decision import FORGOTTEN, NOT_FORGOTTEN
from fedneg.reports.conclusions import count
from fedneg.reports.html.figures import MODELS, Picture
from fedneg.reports.html.page import Page, badge, name_with_note, prose
from fedneg.reports.run.curves import draw_curves
from fedneg.reports.run.influence import draw_influence, draw_later
from fedneg.reports.run.measured import add_measured
from fedneg.reports.verdict_tests import deciding_tests
from fedneg.reports.verdict_text import (
    EXPECTED,
    control_warnings,
    describe_controls,
    describe_finding,
    describe_outcome,
)
from fedneg.reports.verdict_values import (
    OPEN,
    WITHIN,
    Residual,
    alpha_of,
    is_earlier,
    later_of,
    margins_of,
    models_of,
    name_whose,
    residuals_of,
    short_interval,
    verdict_of,
    worst_of,
)
from fedneg.reports.whom import samples_of

_FORGOTTEN = "\N{LEFT SINGLE QUOTATION MARK}Forgotten\N{RIGHT SINGLE QUOTATION MARK}"
_KINDS = {FORGOTTEN: "good", NOT_FORGOTTEN: "bad"}  # any other is open


def add_banner(page: Page, results: Mapping[str, Any]) -> None:
    """Add what was found, in sentences, and how far it goes; failed controls as notes.

    The last line is what 'forgotten' means.
    """
    verdict = verdict_of(results)
    if verdict is None:
        return
    warnings = control_warnings(verdict)
    for warning in warnings:
        page.notice(warning)
    outcome = str(verdict["outcome"])
    clients = "clients" if len(results["forget"]) > 1 else "client"
    if samples_of(results):
        clients = "examples"
    means = "means" if outcome == FORGOTTEN else "would only mean"
    limit = (
        f"{_FORGOTTEN} {means} that nothing measured here found the {clients}, not "
        "that nothing could (Zhang et al., arXiv:2408.00929)."
    )
    said = [_unbroken(" ".join(describe_finding(results)))]
    if warnings:
        said.append("But a control failed: do not rely on this. See the note above.")
    page.verdict(
        _KINDS.get(outcome, "open"),
        f"Verdict on the {verdict.get('model') or 'judged'} model",
        describe_outcome(verdict),
        [*filter(None, said), limit],
    )


def add_evidence(page: Page, results: Mapping[str, Any]) -> list[Picture]:
    """Add the section of a verdict: its tests, the controls, and every measurement.

    Returns
    -------
    list of Picture
        The figures that the section has.
    """
    verdict = verdict_of(results)
    if verdict is None:
        return []
    page.section("Evidence for the verdict")
    pictures = [] if is_earlier(verdict) else _add_tests(page, results, verdict)
    _add_models(page, results, verdict)
    curves = draw_curves(results.get("evidence") or {})
    if curves is not None:
        page.figure(
            curves,
            "Each of a client's examples by itself: of how many an attack says that "
            "the model was trained on them, beside how often it says so of models that "
            "were retrained without (LiRA, Carlini et al., arXiv:2112.03570, with the "
            "bank as models that were). On the dashed line it only guesses. Shown, and "
            "decides nothing.",
        )
        pictures.append(curves)
    add_measured(page, results)
    return pictures


def _add_tests(
    page: Page, results: Mapping[str, Any], verdict: Mapping[str, Any]
) -> list[Picture]:
    """Add the axis of residual influence, and the tests that decide."""
    axis, later = draw_influence(verdict), draw_later(verdict)
    low, high = map(whole_percent, margins_of(verdict))
    if axis is not None:
        page.figure(
            axis,
            f"How much of what {_whom(results, 'a client')} taught can be seen. Dots: "
            f"models that never saw {_it(results)}, around 0, and models trained with "
            f"{_it(results)}, around 100. Bars: the models of "
            f"this run with their intervals{_coverage(verdict)}. "
            f"Shaded: from {low} to {high}, where the whole interval must lie for "
            "\N{LEFT SINGLE QUOTATION MARK}forgotten\N{RIGHT SINGLE QUOTATION MARK}.",
        )
    tests = deciding_tests(results)
    if tests:
        page.table(
            pd.DataFrame(
                {
                    "test": [one.name for one in tests],
                    "finds": [badge(one.look, one.decision) for one in tests],
                    "p": [_p_value(one.p_value) for one in tests],
                    "what it says": [prose(_unbroken(one.said)) for one in tests],
                },
                dtype=object,
            ),
            caption="Tests that decide. A p below "
            f"{alpha_of(verdict):g} is a finding; it is adjusted for all of the tests "
            "together (Holm)",
            formats={"p": str},
            headers={"p": "adjusted p"},
        )
    if later is not None:
        page.figure(
            later,
            f"What can be seen of {_it(results)} after further rounds of "
            f"{'all clients' if samples_of(results) else 'the remaining clients'}, "
            "beside retrained models that went on as long. Shaded: the margins.",
        )
        page.table(
            _later(verdict),
            caption="The same judge after further rounds",
            formats={"residual influence": str},
        )
    page.facts(_terms(results, verdict))
    return [picture for picture in (axis, later) if picture is not None]


def _coverage(verdict: Mapping[str, Any]) -> str:
    """Return what share of retrained models an interval holds, '' if not known.

    Of a model of which the first look could tell it is another than of the rest.
    """
    alphas = {
        f"{100 * (1 - alpha):.3g} %"
        for name, one in models_of(verdict).items()
        if residuals_of(one) and (alpha := number(one.get("alpha"))) is not None
    }
    if len(alphas) == 1:
        return f" ({alphas.pop()})"
    if len(alphas) == 2:
        narrow, wide = sorted(alphas)
        return f" ({wide} where the first look could tell, else {narrow})"
    return ""


def _later(verdict: Mapping[str, Any]) -> pd.DataFrame:
    """Return what was found after further rounds, a row per client and round."""
    rows = [
        {
            "after rounds": rounds,
            "of": name_whose(whose),
            "residual influence": _unbroken(short_interval(one)),
            "by itself": _unbroken(_alone(one)),
            "finding, of the model": str(found.get("finding") or MISSING),
        }
        for rounds, found in later_of(verdict)
        for whose, one in residuals_of(found).items()
    ]
    return pd.DataFrame(rows, dtype=object)


def _alone(one: Residual | None) -> str:
    """Return what an influence comes to, beside the finding of the whole model."""
    if one is None:
        return OPEN
    return "within the margins" if one.status == WITHIN else one.status


def _whom(results: Mapping[str, Any], client: str = "the client") -> str:
    """Return whose residual influence it is."""
    return "the chosen examples" if samples_of(results) else client


def _it(results: Mapping[str, Any]) -> str:
    return "them" if samples_of(results) else "it"


def _terms(results: Mapping[str, Any], verdict: Mapping[str, Any]) -> dict[str, object]:
    """Return what the words of the section mean, of those that stand there."""
    some, it = bool(samples_of(results)), _it(results)
    terms: dict[str, object] = {}
    if residuals_of(verdict):
        low, high = map(whole_percent, margins_of(verdict))
        terms["Residual influence (rho)"] = (
            f"How far a model has gone from models that never saw {_whom(results)} to "
            f"models that were trained with {it}, on "
            + ("these examples" if some else "the client's own training examples")
            + f": 0 % as if {'they' if some else 'it'} had never been there, 100 % as "
            "in the original, below 0 overshot. "
            "The interval is as wide as retrained models differ by chance."
        )
        terms["Margins"] = _unbroken(
            f"{low} % and {high} % (verdict.margins), set before the run. "
            f"{_FORGOTTEN} wants the whole interval between them: that nothing was "
            "found is not enough."
        )
    trained = number(verdict.get("retrainings"))
    if trained is not None:
        worst = worst_of(verdict)
        known = worst is not None and worst.n_in is not None
        told = (
            f"{worst.n_out} without {_whom(results)}, {worst.n_in} with {it}"
            if worst is not None and known
            else count(int(trained), "training")
        )
        second = (number(verdict.get("looks")) or 1) > 1
        terms["Retrained models"] = (
            f"{told}: from other initial parameters and seeds, for as many rounds. "
            f"What chance does is how those without {_whom(results)} differ."
            + second
            * " The first look could not tell; this is the second."
        )
    if number(verdict.get("epsilon")) is not None:
        terms["Epsilon"] = (
            "Of differential privacy, at least (95 % sure): 0 where nothing of a "
            "canary shows, and the larger the more does."
        )
    return terms


def _p_value(value: float | None) -> str:
    """Return a p-value as people write it."""
    if value is None:
        return MISSING
    return "under 0.0001" if value < 0.0001 else f"{value:.4f}"


def _add_models(
    page: Page, results: Mapping[str, Any], verdict: Mapping[str, Any]
) -> None:
    """Add what the same judge says of every model, and where the answer is known."""
    found, controls = models_of(verdict), verdict.get("controls") or {}
    outcomes = (verdict.get("outcomes") or {}) | controls
    names = [name for name in MODELS if outcomes.get(name)]
    if not names:
        return
    judged = verdict.get("model")
    rows = [
        {
            "model": name_with_note(name, "judged" if name == judged else ""),
            "residual influence": _worst(found.get(name)),
            "outcome": badge(_KINDS.get(str(outcomes[name]), "open"), outcomes[name]),
            "known answer": EXPECTED.get(name, MISSING),
            "as expected": _as_expected(name, outcomes[name]),
            "found by": _found_by(found.get(name)),
        }
        for name in names
    ]
    frame = pd.DataFrame(rows, dtype=object)
    if not any(residuals_of(one) for one in found.values()):
        frame = frame.drop(columns="residual influence")
    if (frame["found by"] == MISSING).all():
        frame = frame.drop(columns="found by")
    several = any(len(residuals_of(one)) > 1 for one in found.values())
    page.table(
        frame,
        caption="The same judge on every model of the run, the controls, whose answer "
        "is known, included"
        + (
            "; of each the influence that was found, or else is farthest out"
            if several
            else ""
        ),
        formats={"residual influence": str} if "residual influence" in frame else {},
    )
    if said := describe_controls(verdict, _whom(results)):
        page.text(said)


def _found_by(found: Mapping[str, Any] | None) -> str:
    """Return the tests that find the client in a model; a dash where none does."""
    tests = deciding_tests({"verdict": found}) if found else []
    return ", ".join(one.name for one in tests if one.look == "bad") or MISSING


def _worst(found: Mapping[str, Any] | None) -> str:
    return _unbroken(short_interval(worst_of(found or {})))


def _as_expected(name: str, outcome: object) -> str:
    """Return whether a control came out as it must; a dash for what is none."""
    if name not in EXPECTED:
        return MISSING
    if outcome == EXPECTED[name]:
        return "yes"
    return "NO" if outcome in _KINDS else "no power"


def _unbroken(text: str) -> str:
    """Return text in which no percent sign stands alone on a line."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")
