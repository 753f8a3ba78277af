"""Has a model forgotten? One outcome from all lines of evidence, and never by a name.

The rule: one line with power that says 'not forgotten' decides so, whatever the others
say. Else one with power that says 'forgotten' is enough, unless it is of the kind that
proves nothing alone. Else it is inconclusive: evidence without power never passes, for
no model, a retrained one included.

Verification is fragile (Zhang et al., arXiv:2408.00929): 'forgotten' means that nothing
measured here found the client, not that nothing could.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from fedneg.core.verdict_settings import VerdictSettings
from fedneg.evaluation.decision import FORGOTTEN, NOT_FORGOTTEN, Evidence
from fedneg.evaluation.measurements import Case, Measurements, Utility
from fedneg.evaluation.rules import RULES

INCONCLUSIVE = "inconclusive"
# What is found beside an outcome, where the evidence alone does not tell it.
TOOK_NO_PART = "took part in no round"
IS_RETRAINED = "is a retrained model"
# Answers like a retrained model's are what a model without the client gives, and also
# what one with it gives on images that have nothing to do with the client. And the
# original knows at once by construction, so that relearning always seems to have power,
# while any disturbance makes a model learn late.
PROVES_NOTHING_ALONE = frozenset({"js_divergence", "disagreement", "relearn_ratio"})


@dataclass(frozen=True)
class Verdict:
    """The outcome (forgotten, not forgotten or inconclusive) and what it rests on.

    `overruled_by` is `TOOK_NO_PART` or `IS_RETRAINED`; None where the evidence counts.
    """

    outcome: str
    evidence: tuple[Evidence, ...]
    utility: Utility
    overruled_by: str | None = None

    def to_json(self) -> dict[str, object]:
        """Return the entry in results.json."""
        return {
            "outcome": self.outcome,
            "finding": self.overruled_by,
            "evidence": [piece.to_json() for piece in self.evidence],
            "utility": asdict(self.utility),
        }


def outcome_of(evidence: Iterable[Evidence]) -> str:
    """Return what lines of evidence come to together."""
    pieces = list(evidence)
    if any(piece.decision == NOT_FORGOTTEN for piece in pieces):
        return NOT_FORGOTTEN
    proofs = [piece for piece in pieces if piece.name not in PROVES_NOTHING_ALONE]
    if any(piece.decision == FORGOTTEN for piece in proofs):
        return FORGOTTEN
    return INCONCLUSIVE


def judge(
    judged: Measurements,
    *,
    original: Measurements,
    retrained: Sequence[Measurements],
    settings: VerdictSettings,
    took_part: bool = True,
) -> Verdict:
    """Return the verdict on a model.

    Parameters
    ----------
    judged : Measurements
        Of an unlearned, recovered, retrained or any other model, the original included.
    original : Measurements
        Of the model that was trained with everybody. It decides which lines have power.
    retrained : sequence of Measurements
        Of models that were trained without the forgotten clients, with different seeds.
        A judged model that is one of them (by its digest) is judged against the
        others. With fewer than ``settings.min_retrainings`` others all lines abstain.
    settings : VerdictSettings
        Chosen before anything was measured.
    took_part : bool
        Whether any client to be forgotten trained in a round that led to the judged
        model or to the original. If none did there is nothing to forget, whatever
        chance makes of the numbers: inconclusive.

    A judged model that is a retrained one, bit for bit, holds nothing of the clients:
    where the evidence says otherwise that is chance, and the outcome inconclusive.
    """
    case = Case(judged, original=original, retrained=retrained, settings=settings)
    evidence = tuple(rule(case) for rule in RULES)
    outcome, overruled_by = outcome_of(evidence), None
    if not took_part:
        outcome, overruled_by = INCONCLUSIVE, TOOK_NO_PART
    elif outcome == NOT_FORGOTTEN and any(
        judged.digest == model.digest for model in retrained
    ):
        outcome, overruled_by = INCONCLUSIVE, IS_RETRAINED
    return Verdict(outcome, evidence, case.utility, overruled_by)
