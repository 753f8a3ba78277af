"""What a verdict in results.json says, in sentences for the terminal and the report.

Nothing is decided here: outcome and finding are taken as `fedneg.evaluation.judge` left
them. Absent keys and nulls give fewer words.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from fedneg.core.formats import name_clients, number, percent, whole_percent
from fedneg.evaluation.acquittal import MOST_MODELS
from fedneg.evaluation.decision import (
    FORGOTTEN,
    INCONCLUSIVE,
    IS_RETRAINED,
    NOT_FORGOTTEN,
    TOOK_NO_PART,
)
from fedneg.evaluation.influence import MIN_OUT
from fedneg.reports.conclusions import count, poison_name
from fedneg.reports.verdict_values import (
    OPEN,
    OVERSHOT,
    TRACES,
    WITHIN,
    Residual,
    canaries_of,
    have_failed,
    in_order,
    interval,
    is_alone,
    is_earlier,
    is_found,
    is_worse,
    marker_rate,
    models_of,
    name_whose,
    residuals_of,
)
from fedneg.reports.whom import listed, these, whose

EXPECTED = {"original": NOT_FORGOTTEN, "retrained": FORGOTTEN}
# Of a quality: less is none lost.
_NO_LOSS = 0.0005
_ALONE = ": no finding, and too much to acquit"
EARLIER = (
    "This is a verdict of the earlier judge, which held gaps against thresholds and "
    "had no interval: run it again for one of today's."
)


def describe_outcome(verdict: Mapping[str, Any]) -> str:
    """Return the outcome, with what was found where that is another word."""
    outcome, finding = str(verdict["outcome"]), verdict.get("finding")
    return f"{outcome} ({finding})" if finding in (TRACES, OVERSHOT) else outcome


def describe_finding(results: Mapping[str, Any]) -> list[str]:
    """Return what a verdict says, in plain sentences that have their numbers.

    Parameters
    ----------
    results : mapping
        With a verdict.

    Returns
    -------
    list of str
        The planted trick; what the client taught, of several the worst one, with what
        was lost of the quality; what would tell where nothing can be told; canaries.
        Of an earlier judge's verdict only that it is one.
    """
    verdict = results["verdict"]
    if verdict.get("finding") == TOOK_NO_PART:
        absent = verdict.get("absent") or results["forget"]
        return [
            f"{_capital(name_clients(absent))} {TOOK_NO_PART}: nothing of "
            f"{'them' if len(absent) > 1 else 'it'} is in the model, and there was "
            "nothing to forget."
        ]
    if verdict.get("finding") == IS_RETRAINED:
        return [
            "It is a retrained model, bit for bit: what seems to point to "
            f"{these(results)} is chance."
        ]
    if is_earlier(verdict):
        return [EARLIER]
    said = [*_describe_marker(results), *_describe_influence(results)]
    lost = describe_lost(verdict)
    if lost and said:
        said[-1] += f"; {lost}"
    elif lost:
        said = [_capital(lost)]
    said += [*_describe_doubt(verdict), *_describe_canaries(verdict)]
    return [f"{sentence}." for sentence in said]


def describe_lost(verdict: Mapping[str, Any]) -> str:
    """Return what the model lost in quality against retrained ones; '' if not known."""
    lost = number(verdict.get("quality_lost"))
    if lost is None:
        return ""
    if abs(lost) < _NO_LOSS:
        return "no accuracy lost"
    return f"accuracy {'lost' if lost > 0 else 'won'} {abs(lost):.3f}"


def describe_marker(results: Mapping[str, Any]) -> str:
    """Return how often a planted trick works; '' where there is none."""
    return next(_describe_marker(results), "")


def _describe_marker(results: Mapping[str, Any]) -> Iterator[str]:
    verdict = results["verdict"]
    after, never = (marker_rate(verdict, name) for name in ("judged", "references"))
    if after is None or never is None:
        return
    before = marker_rate(models_of(verdict).get("original") or {}, "judged")
    whom = these(results)
    things = "inputs" if results.get("task") else "images"
    trick = "The planted trick worked on {} of {}"
    if poison_name(results) == "label_flip":
        trick = "The flipped labels were answered on {} of {}"
    shares = f"{percent(never)} in models that never saw {whom}"
    if before is None:
        said = trick.format(percent(after), things) + f" after, {shares}"
    else:
        said = trick.format(percent(before), things)
        said += f" before, {percent(after)} after, {shares}"
    if is_found(verdict, "marker"):
        said += ": more often than chance explains"
    elif is_alone(verdict, "marker", verdict["marker"]):
        said += _ALONE
    yield said


def _describe_influence(results: Mapping[str, Any]) -> Iterator[str]:
    """Yield what can be seen of the worst client, and of whom nothing is known."""
    verdict = results["verdict"]
    ordered, several = in_order(verdict), len(results["forget"]) > 1
    unknown = [k for (k, _), one in residuals_of(verdict).items() if one is None]
    if ordered:
        worst = ordered[0]
        whom = these(results)
        if several:
            whom = whose(results, name_whose(worst.whose))
        if worst.ordinary and not several:
            whom = f"the ordinary examples of {whom}"
        if len({one.client_id for one in ordered}) > 1:
            whom += f", the worst of {len({one.client_id for one in ordered})},"
        said = f"What {whom} taught: {describe_residual(worst)}"
        yield said
    if unknown:
        whom = listed(unknown, results) if several else these(results)
        rest = "else " if verdict.get("marker") else ""
        yield f"What {rest}{whom} taught cannot be told"


def _describe_doubt(verdict: Mapping[str, Any]) -> Iterator[str]:
    """Yield why it is open how much can be seen, and what would tell."""
    worst = next(iter(in_order(verdict)), None)
    # Where another score stands in the way no number of models is known to help.
    if (
        worst is not None
        and worst.status == OPEN
        and not (worst.partial or worst.is_stopped)
    ):
        yield _capital(describe_resolution(verdict, worst))
    unknown = [k for (k, _), one in residuals_of(verdict).items() if one is None]
    failed = [k for k in unknown if have_failed(verdict, k)]
    if len(failed) == 1:
        yield (
            f"A model that was trained with {name_clients(failed)} knows its examples "
            "worse than those that were not, and cannot show what it taught"
        )
    elif failed:
        yield (
            f"Models that were trained with {name_clients(failed)} know their examples "
            "worse than those that were not, and cannot show what they taught"
        )
    if len(failed) < len(unknown):
        yield _capital(_why_unknown(verdict))


def describe_residual(one: Residual) -> str:
    """Return how much of what a client taught can be seen, with its interval."""
    share = whole_percent(one.rho)
    if one.status == OVERSHOT:
        low, high = whole_percent(-one.high), whole_percent(-one.low)
        return (
            f"more than all of it was taken away, by {whole_percent(-one.rho)} % of it "
            f"(between {low} and {high} %), so that one can see that somebody was "
            "taken out"
        )
    if one.alone and one.rho < 0:
        seems = "it seems that more than all of it was taken away"
        return f"{seems} ({share} %, {interval(one)}){_ALONE}"
    if one.alone:
        return f"{share} % of it can still be seen ({interval(one)}){_ALONE}"
    if one.status == OPEN and one.partial:
        return (
            f"{share} % of it can still be seen ({interval(one)}), nearly all in "
            "examples that models without it contradict: of the ordinary ones nothing "
            "can be told"
        )
    against = ""
    if one.status == OPEN and one.doubt is not None:
        against = f", and {one.doubt} speak against the model"
        against += _ALONE * one.is_stopped
    if one.status == OPEN and not one.within:
        open_ = f"how much of it can still be seen is open ({share} %, {interval(one)})"
        return open_ + against
    if one.status in (OPEN, WITHIN) and one.rho < 0.005:
        return f"none of it can be seen any more ({share} %, {interval(one)}){against}"
    return f"{share} % of it can still be seen ({interval(one)}){against}"


def describe_resolution(verdict: Mapping[str, Any], one: Residual) -> str:
    """Return what so many retrained models resolve, and how many would tell."""
    models = "models" if one.n_out is None else count(one.n_out, "model")
    said = f"{models} without it resolve {whole_percent(one.half)} % of it"
    needed = number(verdict.get("models_needed"))
    if needed is not None:
        return f"{said}; try verdict.retrainings={retrainings_for(int(needed))}"
    # Nobody looks for a way on where another test has decided, or stands in it.
    decided = verdict.get("outcome") != INCONCLUSIVE or verdict.get("objections")
    if decided or any(found.partial for found in in_order(verdict)):
        return said
    share = whole_percent(one.rho)
    return f"{said}; were it {share} % indeed, {MOST_MODELS} would not tell either"


def retrainings_for(models: int) -> int:
    """Return of how many retrainings so many are without the client.

    Of nine two are with it, of fewer than nine one (`fedneg.evaluation.looks`).
    """
    return next(n for n in range(4, 2 * models + 8) if n - max(1, 2 * n // 9) >= models)


def _why_unknown(verdict: Mapping[str, Any]) -> str:
    """Return why nothing can be said of a client's influence."""
    trained = number(verdict.get("retrainings"))
    if trained == 0:
        return (
            "no model was retrained to compare with: it takes reference=true and at "
            f"least verdict.retrainings={MIN_OUT + 1}"
        )
    if trained is not None and trained < MIN_OUT + 1:
        return (
            f"it takes at least {MIN_OUT + 1} retrainings, and there were "
            f"{int(trained)}; try verdict.retrainings={MIN_OUT + 1}"
        )
    return (
        "models trained with it differ from models trained without it by no more than "
        "chance, or it did not answer"
    )


def _describe_canaries(verdict: Mapping[str, Any]) -> Iterator[str]:
    """Yield what planted canaries show, of the client of whom they show most."""
    found = canaries_of(verdict)
    if not found:
        return
    against = verdict.get("objections") or {}
    shown = max(
        found,
        key=lambda one: (f"canaries {one.client_id}" in against, one.won / one.total),
    )
    several = len(found) > 1
    whose = f" of {name_clients([shown.client_id])}" if several else ""
    said = (
        f"Of {shown.total} pairs of a canary{whose} that was planted and one that was "
        f"not, the model knows the planted one in {shown.won}"
    )
    epsilon = number(verdict.get("epsilon"))
    if epsilon:
        yield f"{said}: epsilon is at least {epsilon:.2g}"
    elif is_found(verdict, test := f"canaries {shown.client_id}"):
        yield f"{said}: more often than chance explains"
    elif is_worse(verdict, test):
        yield f"{said}: fewer than chance would have, and too few to acquit"
    elif is_alone(verdict, test, verdict["canaries"][str(shown.client_id)]):
        yield said + _ALONE
    else:
        yield f"{said}, as by chance"


def control_warnings(verdict: Mapping[str, Any]) -> list[str]:
    """Return a warning for each control that came out the wrong way."""
    controls = verdict.get("controls") or {}
    said = []
    if controls.get("original") == FORGOTTEN:
        said.append(
            "The control failed: the same judge calls the original model, which was "
            "trained with the forgotten data, forgotten. Do not rely on this verdict."
        )
    if controls.get("retrained") == NOT_FORGOTTEN:
        said.append(
            "The control failed: the same judge calls the retrained model, which never "
            "saw the forgotten data, not forgotten. Do not rely on this verdict."
        )
    return said


def describe_controls(verdict: Mapping[str, Any], whom: str = "the client") -> str:
    """Return what the controls say of the test, in a sentence; '' without controls."""
    controls = verdict.get("controls") or {}
    known = {k: controls[k] for k in EXPECTED if controls.get(k)}
    open_ones = [k for k, outcome in known.items() if outcome == INCONCLUSIVE]
    if not known:
        return ""
    if open_ones == ["original"]:
        return (
            f"The judge did not find {whom} even in the original model: the test "
            "had no power here."
        )
    if open_ones == ["retrained"]:
        return (
            "The control on the retrained model is inconclusive: the test had no power "
            f"here to tell a model that never saw {whom}."
        )
    if open_ones:
        return "Both controls are inconclusive: the test had no power here."
    if all(outcome == EXPECTED[k] for k, outcome in known.items()):
        one = "control" if len(known) == 1 else "controls"
        return f"As expected of the {one}: the test could tell what is known."
    return "A control came out the wrong way: see the note at the top of the page."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
