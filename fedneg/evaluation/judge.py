"""Has a model forgotten? Tests that were fixed before anything was measured.

Of every leaving client, its residual influence (influence.py) and its canaries; of the
model, the planted marker (exact.py). Together they err in at most alpha of the cases in
which there is nothing to find, whatever hangs on what (Holm). What acquits is not that
nothing was found, but that the influence's whole interval lies within margins that were
set before, and that no test alone speaks against it (acquittal.py): a model of which
nothing can be told is never 'forgotten'.

Verification is fragile (Zhang et al., arXiv:2408.00929; Thudi et al.,
arXiv:2110.11891): 'forgotten' means that these tests, with this power, did not find the
client.

A little longer than most: what a finding says of itself in words rests on the very
tests that decided it, and stands beside them.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

from fedneg.core.formats import fixed, name_clients
from fedneg.evaluation.acquittal import (
    FAILED,
    INFLUENCE,
    MARGINS,
    UNCOUNTED,
    WORSE,
    check_bounds,
    doubt_of,
    models_to_tell,
    objections,
)
from fedneg.evaluation.canary import pairs_shown
from fedneg.evaluation.client_influence import influence_of
from fedneg.evaluation.decision import (
    FORGOTTEN,
    INCONCLUSIVE,
    IS_RETRAINED,
    NOT_FORGOTTEN,
    TOOK_NO_PART,
)
from fedneg.evaluation.exact import Pairs, holm
from fedneg.evaluation.influence import Influence
from fedneg.evaluation.marker import Marker, marker_of
from fedneg.evaluation.scores import DOUBTS
from fedneg.evaluation.seen import Seen, check_ids, check_models, distinct

# What is found; the outcome follows from it (`OUTCOMES`).
GONE, TRACES, OVERSHOT = "forgotten", "traces left", "overshot"
MARKER_ONLY, CANNOT_TELL = "marker gone, the rest unmeasured", "cannot tell"
OUTCOMES = {
    GONE: FORGOTTEN,
    TRACES: NOT_FORGOTTEN,
    OVERSHOT: NOT_FORGOTTEN,
    MARKER_ONLY: INCONCLUSIVE,
    CANNOT_TELL: INCONCLUSIVE,
    TOOK_NO_PART: INCONCLUSIVE,
    IS_RETRAINED: INCONCLUSIVE,
}
# Of which no number says more.
ANSWERED = frozenset({TOOK_NO_PART, MARKER_ONLY, IS_RETRAINED})
# In how many cases a bound of epsilon is too high, of all clients' together.
EPSILON_ALPHA = 0.05


@dataclass(frozen=True)
class Finding:
    """What was found of a model.

    Attributes
    ----------
    outcome : str
        forgotten, not forgotten or inconclusive.
    finding : str
        A key of `OUTCOMES`.
    influence : dict of int to Influence or None
        By leaving client; None where nothing can be said of it.
    marker : Marker or None
    canaries : dict of int to Pairs
    p_values : dict of str to float
        Adjusted (Holm), by test.
    quality_lost : float or None
        Of the references' mean quality.
    margins : tuple of float
        Of rho.
    alpha : float
    next_alpha : float or None
        What a next judgement by more models may err; None: as much.
    objections : dict of str to str
        What stands, or would stand, in the way of an acquittal, by test
        (`fedneg.evaluation.acquittal.objections`); there too where the model was found.
    """

    outcome: str
    finding: str
    influence: dict[int, Influence | None]
    marker: Marker | None
    canaries: dict[int, Pairs]
    p_values: dict[str, float]
    quality_lost: float | None
    margins: tuple[float, float]
    alpha: float
    next_alpha: float | None = None
    objections: dict[str, str] = field(default_factory=dict)

    @property
    def epsilon(self) -> float | None:
        """The largest lower bound of epsilon that canaries show; None without any.

        Of all clients' bounds together at most 5 % err, whatever alpha is.
        """
        return max((p.epsilon for p in self.canaries.values()), default=None)

    @property
    def models_needed(self) -> int | None:
        """How many models without the clients would tell; None: nobody knows.

        If each client's influence stays what it was found to be, and the models as far
        apart: then its interval is within the margins, or does not hold 0. None where
        it is told already, and where something would stand in the way still: what was
        planted, models that failed, or other scores, once the intervals are narrow.
        """
        if OUTCOMES[self.finding] != INCONCLUSIVE:
            return None
        others = any(how not in DOUBTS for how in self.objections.values())
        if others or (self.objections and _are_within(self.influence, self.margins)):
            return None
        measured = [found for _, _, found in _measured(self.influence)]
        tests, alpha = max(1, len(self.p_values)), self.next_alpha or self.alpha
        needed = [
            models_to_tell(found, self.margins, tests, alpha, len(self.influence))
            for found in measured
        ]
        known = [count for count in needed if count is not None]
        if any(
            found is not None and found.is_partial for found in self.influence.values()
        ):
            return None
        return max(known) if known and len(known) == len(needed) else None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        found = asdict(self)
        found |= {"epsilon": self.epsilon, "margins": list(self.margins)}
        found["canaries"] = {str(k): one for k, one in found["canaries"].items()}
        found["influence"] = {
            str(k): None if one is None else one.to_json()
            for k, one in self.influence.items()
        }
        return found

    def __str__(self) -> str:
        """Return it as a sentence."""
        text = f"{self.outcome}: {self._found()}"
        lost = self.quality_lost
        if lost is None:
            return text
        return f"{text}; quality {'lost' if lost >= 0 else 'won'} {abs(lost):.3f}"

    def _found(self) -> str:
        unknown = [k for k, i in self.influence.items() if not i]
        partial = [k for k, i in self.influence.items() if i and i.is_partial]
        if self.finding == CANNOT_TELL and (unknown or partial):
            whose = "" if unknown else "the ordinary examples of "
            whose += name_clients(unknown or partial)
            against = "".join(f"{self._counted(test)}; " for test in self.objections)
            return f"{self.finding}; {against}nothing can be told of {whose}"
        if self.finding in ANSWERED:
            failed = [t for t, how in self.objections.items() if how == FAILED]
            return "; ".join([self.finding, *map(self._counted, failed)])
        deciding = self._deciding_test()
        shown = {name: (whose, one) for name, whose, one in _measured(self.influence)}
        if deciding is not None and deciding not in shown:
            return f"{self.finding}; {self._counted(deciding)}"
        worst = shown.get(deciding or "", self._worst())
        if worst is None:
            return self.finding
        whose, found = worst
        said = "" if self.finding == self.outcome else f"{self.finding}; "
        if self.finding == CANNOT_TELL:
            said += "".join(f"{self._counted(test)}; " for test in self.objections)
        said += (
            f"{fixed(found.rho, 2)} of what {whose} taught is seen "
            f"({fixed(found.low, 2)} to {fixed(found.high, 2)})"
        )
        if self.finding != CANNOT_TELL:
            return said
        needed = self.models_needed
        more = " more" if self.objections else ""
        way = "" if needed is None else f", about {needed} would tell{more}"
        return f"{said} with {found.n_out} models without it{way}"

    def _deciding_test(self) -> str | None:
        """Return which test a finding rests on most, 'influence ' left out.

        None where none does: what acquits are the intervals of all.
        """
        if OUTCOMES[self.finding] != NOT_FORGOTTEN:
            return None
        below = {name for name, _, i in _measured(self.influence) if i.rho < 0}
        names = {name.removeprefix(INFLUENCE): p for name, p in self.p_values.items()}
        right = {
            name: p
            for name, p in names.items()
            if p < self.alpha and (name in below) == (self.finding == OVERSHOT)
        }
        return min(right, key=lambda name: right[name], default=None)

    def _counted(self, test: str) -> str:
        """Return what a marker, canaries, or other scores show."""
        if test.startswith(INFLUENCE):
            client_id = int(test.removeprefix(INFLUENCE))
            whose, how = name_clients([client_id]), self.objections[test]
            if how == FAILED:
                return f"a model with {whose} knows it worse than those without it"
            found = self.influence[client_id]
            p_value = found.doubts[how] if found else 0.0
            return f"{how} of {whose} speak against it (p {p_value:.1g})"
        if self.objections.get(test) == UNCOUNTED:
            what = "the planted trick"
            if test != "marker":
                what = f"the canaries of {name_clients([_client_of(test)])}"
            return f"{what} cannot be counted beside those of other models"
        if test == "marker" and self.marker is not None:
            judged, others = self.marker.judged, self.marker.references
            return (
                f"the planted trick works {judged.hits} of {judged.count} times, "
                f"{others.hits} of {others.count} in models without it"
            )
        pairs = self.canaries[_client_of(test)]
        is_worse = self.objections.get(test) == WORSE
        fewer = ", fewer than chance would have" if is_worse else ""
        return (
            f"{pairs.won} of {pairs.count} planted canaries are better known than "
            f"their twins{fewer}"
        )

    def _worst(self) -> tuple[str, Influence] | None:
        """Return whose interval is farthest out of the margins."""
        low, high = self.margins
        return max(
            ((whose, found) for _, whose, found in _measured(self.influence)),
            key=lambda one: max(low - one[1].low, one[1].high - high),
            default=None,
        )


def judge(
    model: Seen,
    *,
    trained_with: Sequence[Seen] = (),
    trained_without: Sequence[Seen] = (),
    clients: Collection[int] = (),
    absent: Collection[int] = (),
    alpha: float = 0.05,
    margins: tuple[float, float] = MARGINS,
    poisoned: Collection[int] = (),
) -> Finding:
    """Return what a model still holds of clients that were to be forgotten.

    Anybody's model, made by any method: only losses and counts are looked at.

    Parameters
    ----------
    model : Seen
        The one that is judged. The leaving clients are those of whom anything was seen
        in any model: of one that is missing here nothing can be told.
    trained_with : sequence of Seen
        Of models that were trained with the clients, by other seeds: at least one for
        residual influence. With as many rounds as the judged one, too: else they show
        who trained for how long. An acquittal rests on them: where one knows a client
        worse than models without it do, nothing is said of that client. One that lacks
        a client's losses is none of that client's, and one that is given twice counts
        once.
    trained_without : sequence of Seen
        Of models that were trained without the clients: fresh initial parameters, other
        seeds, and as many rounds as the judged one had, repair included. At least
        three: that few are accused wrongly rests on them. One that is given twice
        counts once, and the judged model itself, given among them, not at all.
        That these numbers of rounds are right is not checked: beside models that were
        trained for longer an original may pass.
    clients : collection of int
        Leaving clients of whom perhaps nothing was seen in any model.
    absent : collection of int
        Leaving clients that took part in no round.
    alpha : float
        In so many cases at most a model that was trained without the clients is said to
        have traces, or to have overshot.
    margins : tuple of float
        Within which the interval of every rho must lie for 'forgotten', below 0 and
        above 0, but below 1, where models with the client lie; set before anything is
        measured.
    poisoned : collection of int
        Clients of whom poisoned examples alone were to go: that some of these look
        ordinary is chance, and they are not measured by themselves.

    Raises
    ------
    ValueError
        If a model is no `Seen`, numbers of losses differ between models, a client's id
        is no whole number, or alpha or margins are none.
    """
    check_bounds(alpha, margins)
    margins = (float(margins[0]), float(margins[1]))
    clients, absent, poisoned = map(check_ids, (clients, absent, poisoned))
    (model,) = check_models("model", [model])
    trained_with = check_models("trained_with", trained_with)
    trained_without = check_models("trained_without", trained_without)
    # One model given twice is one: two that agree but for rounding tell of no chance.
    trained_with = distinct(trained_with)
    trained_without = distinct(m for m in trained_without if not model.is_as(m))
    models = (model, *trained_with, *trained_without)
    seen = {k for one in models for k in (*one.losses, *one.canaries)}
    leaving = sorted((seen | set(clients)) - set(absent))
    measured_of = {
        k: influence_of(
            k, model, trained_with, trained_without, alpha=alpha, is_whole=k in poisoned
        )
        for k in leaving
    }
    influence = {k: one for k, (one, _) in measured_of.items()}
    failed = [k for k, (_, has_failed) in measured_of.items() if has_failed]
    marker = marker_of(model.marker, [m.marker for m in trained_without], alpha=alpha)
    planted = [k for k in leaving if k in model.canaries]
    canaries = {
        k: pairs_shown(*model.canaries[k], EPSILON_ALPHA / len(planted))
        for k in planted
    }
    measured = {INFLUENCE + name: one for name, _, one in _measured(influence)}
    tests = {name: one.p_value for name, one in measured.items()}
    tests |= {f"canaries {k}": pairs.p_value for k, pairs in canaries.items()}
    if marker is not None:
        tests["marker"] = marker.p_value
    p_values = holm(tests)
    found = {name for name, p_value in p_values.items() if p_value < alpha}
    below = {name for name, one in measured.items() if one.rho < 0}
    against = objections(models, influence, failed, marker, canaries, alpha)
    if not leaving and absent:
        finding = TOOK_NO_PART
    elif found - below:
        finding = TRACES
    elif found:
        finding = OVERSHOT
    elif (
        influence
        and _are_within(influence, margins)
        and min(tests.values()) >= max(alpha, doubt_of(len(leaving)))
        and not against
    ):
        finding = GONE
    elif marker is not None and not any(influence.values()):
        finding = MARKER_ONLY
    else:
        finding = CANNOT_TELL
    return Finding(
        OUTCOMES[finding],
        finding,
        influence,
        marker,
        canaries,
        p_values,
        _lost(model, trained_without),
        margins,
        alpha,
        objections=against,
    )


def _client_of(test: str) -> int:
    return int(test.removeprefix("canaries "))


def _measured(
    influence: Mapping[int, Influence | None],
) -> list[tuple[str, str, Influence]]:
    """Return all that was measured: a test's name, whose examples, and what."""
    found = []
    for k, one in influence.items():
        if one is None:
            continue
        client = name_clients([k])
        found.append((str(k), client, one))
        if one.rest is not None:
            name = f"{k}, ordinary examples"
            found.append((name, f"the ordinary examples of {client}", one.rest))
    return found


def _are_within(
    influence: Mapping[int, Influence | None], margins: tuple[float, float]
) -> bool:
    """Return whether all of it was measured, and no interval is out of the margins."""
    if any(one is None or one.is_partial for one in influence.values()):
        return False
    low, high = margins
    return all(
        low <= one.low and one.high <= high for _, _, one in _measured(influence)
    )


def _lost(model: Seen, references: Sequence[Seen]) -> float | None:
    """Return by how much the model is worse than the references' mean."""
    seen = [one.quality for one in references if one.quality is not None]
    return None if model.quality is None or not seen else fmean(seen) - model.quality
