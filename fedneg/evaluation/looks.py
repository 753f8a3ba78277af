"""How often a model is looked at, by how many references, and what each look may err.

The first look, at one model with the clients and three without, spends a fifth of
alpha; the second, at all references, the rest. It is had only where the first cannot
tell: together they err in at most alpha of the cases in which there is nothing to find.
Whoever has had the first look alone may have the second in another run.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from fedneg.core.verdict_settings import VerdictSettings
from fedneg.evaluation.acquittal import MARGINS
from fedneg.evaluation.influence import MIN_OUT
from fedneg.evaluation.judge import CANNOT_TELL, MARKER_ONLY, Finding, judge
from fedneg.evaluation.seen import Seen

FIRST_SHARE = 0.2
# What is to be found still, once a look is over.
OPEN = frozenset({CANNOT_TELL, MARKER_ONLY})


@dataclass(frozen=True)
class Look:
    """How many models with and without the clients, and what share may err.

    `next_alpha`: what a look at more models may err; None: as much.
    """

    n_in: int
    n_out: int
    alpha: float
    next_alpha: float | None = None

    @property
    def models(self) -> int:
        """How many references it takes."""
        return self.n_in + self.n_out


FIRST_IN, FIRST_OUT = 1, MIN_OUT


def looks_of(settings: VerdictSettings) -> tuple[Look, ...]:
    """Return the looks that there may be, in order.

    With fewer references than four none has the clients: residual influence needs one
    that has, and three that have not, and the others are of use for a marker. A bank
    serves as the models with the clients, all of it at every look.
    """
    alpha, most = settings.alpha, settings.references
    if settings.bank:
        return tuple(
            Look(settings.bank, look.n_out, look.alpha)
            for look in looks_of(replace(settings, bank=0))
        )
    if most < FIRST_IN + FIRST_OUT:
        return (Look(0, most, FIRST_SHARE * alpha, (1 - FIRST_SHARE) * alpha),)
    first = Look(FIRST_IN, FIRST_OUT, FIRST_SHARE * alpha, (1 - FIRST_SHARE) * alpha)
    if most == first.models:
        return (first,)
    n_in = max(FIRST_IN, 2 * most // 9)
    second = Look(n_in, most - n_in, (1 - FIRST_SHARE) * alpha)
    return (first, second) if settings.looks > 1 else (second,)


def looked_at(
    model: Seen,
    *,
    trained_with: Sequence[Seen],
    trained_without: Sequence[Seen],
    looks: Sequence[Look],
    clients: Collection[int] = (),
    absent: Collection[int] = (),
    margins: tuple[float, float] = MARGINS,
    poisoned: Collection[int] = (),
) -> list[Finding]:
    """Return what is found at each look that was needed; the last is what counts.

    Parameters
    ----------
    model, trained_with, trained_without, clients, absent, margins, poisoned
        As of `fedneg.evaluation.judge.judge`; each look takes the first references.
    looks : sequence of Look
        At least one. A look with fewer references than it asks for is not had, but for
        the first.
    """
    found: list[Finding] = []
    for look in looks:
        there = len(trained_with) >= look.n_in and len(trained_without) >= look.n_out
        if found and not there:
            break
        one = judge(
            model,
            trained_with=trained_with[: look.n_in],
            trained_without=trained_without[: look.n_out],
            clients=clients,
            absent=absent,
            alpha=look.alpha,
            margins=margins,
            poisoned=poisoned,
        )
        found.append(replace(one, next_alpha=look.next_alpha))
        if found[-1].finding not in OPEN:
            break
    return found
