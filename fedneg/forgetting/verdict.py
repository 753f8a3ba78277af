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

from fedneg.forgetting.decision import FORGOTTEN, NOT_FORGOTTEN, Evidence
from fedneg.forgetting.lines import LINES
from fedneg.forgetting.model_numbers import Case, ModelNumbers, Utility
from fedneg.forgetting.settings import VerdictSettings

INCONCLUSIVE = "inconclusive"
# Answers like a retrained model's are what a model without the client gives, and also
# what one with it gives on images that have nothing to do with the client. And the
# original knows at once by construction, so that relearning always seems to have power,
# while any disturbance makes a model learn late.
PROVES_NOTHING_ALONE = frozenset({"js_divergence", "disagreement", "relearn_ratio"})


@dataclass(frozen=True)
class Verdict:
    """The outcome (forgotten, not forgotten or inconclusive) and what it rests on."""

    outcome: str
    evidence: tuple[Evidence, ...]
    utility: Utility

    def to_json(self) -> dict[str, object]:
        """Return the entry in results.json."""
        return {
            "outcome": self.outcome,
            "evidence": [line.to_json() for line in self.evidence],
            "utility": asdict(self.utility),
        }


def outcome_of(evidence: Iterable[Evidence]) -> str:
    """Return what lines of evidence come to together."""
    lines = list(evidence)
    if any(line.decision == NOT_FORGOTTEN for line in lines):
        return NOT_FORGOTTEN
    proofs = [line for line in lines if line.name not in PROVES_NOTHING_ALONE]
    if any(line.decision == FORGOTTEN for line in proofs):
        return FORGOTTEN
    return INCONCLUSIVE


def judge(
    judged: ModelNumbers,
    *,
    original: ModelNumbers,
    retrained: Sequence[ModelNumbers],
    settings: VerdictSettings,
) -> Verdict:
    """Return the verdict on a model.

    Parameters
    ----------
    judged : ModelNumbers
        Of an unlearned, recovered, retrained or any other model, the original included.
    original : ModelNumbers
        Of the model that was trained with everybody. It decides which lines have power.
    retrained : sequence of ModelNumbers
        Of models that were trained without the forgotten clients, with different seeds.
        A judged model that is one of them (by its fingerprint) is judged against the
        others. With fewer than ``settings.min_retrainings`` others all lines abstain.
    settings : VerdictSettings
        Chosen before anything was measured.
    """
    case = Case(judged, original=original, retrained=retrained, settings=settings)
    evidence = tuple(line(case) for line in LINES)
    return Verdict(outcome_of(evidence), evidence, case.utility)
