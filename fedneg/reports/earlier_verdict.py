"""Why a verdict of the earlier judge is what it is: lines of evidence with thresholds.

Absent keys and nulls give fewer words.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from fedneg.core.formats import MISSING, name_clients, number
from fedneg.evaluation.decision import (
    FORGOTTEN,
    INCONCLUSIVE,
    IS_RETRAINED,
    NOT_FORGOTTEN,
    TOOK_NO_PART,
)

Evidence = Mapping[str, Any]
ABSTAINS = "abstains"
# With one of these alone nothing was called forgotten.
PROVES_NOTHING_ALONE = frozenset({"js_divergence", "disagreement", "relearn_ratio"})
NAMES = {
    "attack_success_gap": "attack success",
    "as_trained_accuracy_gap": "accuracy as trained",
    "membership_auc": "membership AUC",
    "lira_auc": "LiRA AUC",
    "canary_auc": "canary AUC",
    "relearn_ratio": "relearning time",
    "js_divergence": "JS divergence",
    "disagreement": "disagreement",
}
# The metric of results.json of which a line's value is the gap.
_METRICS = {
    "attack_success_gap": "attack_success_rate",
    "as_trained_accuracy_gap": "forget_accuracy_as_trained",
}


def evidence_of(verdict: Mapping[str, Any]) -> list[Evidence]:
    """Return the lines of evidence; an empty list without any."""
    return list(verdict.get("evidence") or ())


def name_evidence(piece: Evidence) -> str:
    """Return the name of a line as people say it; one that is not known as it is."""
    return NAMES.get(str(piece.get("name")), str(piece.get("name")))


def deciding_evidence(verdict: Mapping[str, Any]) -> list[Evidence]:
    """Return the lines that the outcome rests on; none where it is inconclusive."""
    outcome = verdict["outcome"]
    found = [
        piece for piece in evidence_of(verdict) if piece.get("decision") == outcome
    ]
    if outcome == FORGOTTEN:
        found = [e for e in found if e.get("name") not in PROVES_NOTHING_ALONE]
    return found


def describe_value(piece: Evidence, digits: int = 4) -> str:
    """Return a line's value, with its sign where it is a gap; a dash for null."""
    sign = "+" if piece.get("name") in _METRICS else "-"
    return _write(piece.get("value"), digits, sign)


def describe_allowed(piece: Evidence, digits: int = 4) -> str:
    """Return what a line's value may be, as 'at most 0.02'; a dash without threshold.

    Relearning is the one that must not be *below* its threshold; an AUC has a threshold
    on either side, and the results name the one that counted.
    """
    if number(piece.get("threshold")) is None:
        return MISSING
    bound = "at least" if _is_lower_bound(piece) else "at most"
    return f"{bound} {_write(piece['threshold'], digits)}"


def _write(value: object, digits: int, sign: str = "-") -> str:
    """Return a number, a dash for null; `sign` as in a format."""
    found = number(value)
    if found is None:
        return MISSING
    return f"{found:{sign}.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _is_lower_bound(piece: Evidence) -> bool:
    """Return whether the threshold is the least that the value may be."""
    if piece.get("name") == "relearn_ratio":
        return True
    value, threshold = number(piece.get("value")), number(piece.get("threshold"))
    below = value is not None and threshold is not None and value < threshold
    return below and piece.get("decision") == NOT_FORGOTTEN


def describe_evidence(piece: Evidence, metrics: Mapping[str, Any] | None = None) -> str:
    """Return a line as half a sentence: what, why, and both numbers.

    Parameters
    ----------
    piece : mapping
        An entry of ``verdict.evidence``.
    metrics : mapping, optional
        The model's entry in ``models``: of a gap, the value itself is told as well.
    """
    value, threshold = number(piece.get("value")), number(piece.get("threshold"))
    digits = 2  # more only where two would make equal what is not
    if value is not None and threshold is not None:
        while digits < 4 and f"{value:.{digits}f}" == f"{threshold:.{digits}f}":
            digits += 1
    own = number((metrics or {}).get(_METRICS.get(str(piece.get("name")), "")))
    name = name_evidence(piece) + ("" if own is None else f" {own:.2f}")
    values = [] if value is None else [describe_value(piece, digits)]
    if threshold is not None:
        allowed = describe_allowed(piece, digits).removeprefix("at most ")
        values.append(f"allowed {allowed}")
    shown = f" ({', '.join(values)})" if values else ""
    return f"{name} {piece.get('why') or ''}".strip() + shown


def describe_reason(results: Mapping[str, Any], *, most: int | None = None) -> str:
    """Return in half a sentence why the outcome is what it is.

    Parameters
    ----------
    results : mapping
        With a verdict.
    most : int, optional
        Lines told in full; further ones are only named.
    """
    verdict = results["verdict"]
    if verdict.get("finding") == TOOK_NO_PART:
        return f"{name_clients(results['forget'])} {TOOK_NO_PART}"
    if verdict.get("finding") == IS_RETRAINED:
        return "it is a retrained model, bit for bit: what points to the " + (
            "clients is chance" if len(results["forget"]) > 1 else "client is chance"
        )
    decided = deciding_evidence(verdict)
    if not decided:
        if verdict["outcome"] == INCONCLUSIVE:
            return "; ".join(_describe_doubt(verdict))
        return ""
    models = results.get("models") or {}
    metrics = models.get(verdict.get("model")) or {}
    said = [describe_evidence(piece, metrics) for piece in decided[:most]]
    rest = [] if most is None else [name_evidence(piece) for piece in decided[most:]]
    if rest:
        said.append(f"also {', '.join(rest)}")
    return "; ".join(said)


def _describe_doubt(verdict: Mapping[str, Any]) -> Iterator[str]:
    """Yield why no line decided."""
    pieces = evidence_of(verdict)
    whys = [str(piece.get("why") or "") for piece in pieces]
    counts = [re.search(r"(\d+) other .*, (\d+) needed", why) for why in whys]
    few = min((int(m[1]), int(m[2])) for m in counts if m) if any(counts) else None
    measured = [
        piece
        for piece, why, counted in zip(pieces, whys, counts, strict=True)
        if why != "not measured" and not counted
    ]
    weak = [e for e in measured if str(e.get("why") or "").startswith("no power")]
    others = [piece for piece in measured if piece not in weak]
    proofless = [piece for piece in others if piece.get("decision") == FORGOTTEN]
    if few:
        models = "retrained model" if few[0] == 1 else "retrained models"
        yield f"only {few[0]} {models} to compare with, {few[1]} needed"
    elif not measured:
        yield "nothing was measured that could tell"
    elif len(weak) == len(measured):
        yield "no line of evidence had power"
    if proofless:
        names = " and ".join(name_evidence(piece) for piece in proofless)
        one = len(proofless) == 1
        yield f"{names} {'proves' if one else 'prove'} nothing alone"
    for piece in others:
        if piece.get("decision") == ABSTAINS:
            yield describe_evidence(piece)
