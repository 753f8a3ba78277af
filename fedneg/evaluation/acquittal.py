"""What it takes to acquit a model, beside that nothing was found.

The interval of each influence is to lie within margins that were set before; no test
alone, and no other score of the examples, is to speak against the model; and all that
was planted is to have been counted.
"""

from collections.abc import Collection, Mapping, Sequence
from numbers import Real

import numpy as np
from scipy.stats import t as student

from fedneg.evaluation.exact import Pairs, above_p_value
from fedneg.evaluation.influence import Influence
from fedneg.evaluation.marker import Marker
from fedneg.evaluation.seen import Seen

# Of rho: less than half of what the client taught, and no more than as much below 0.
MARGINS = (-1.0, 0.5)
# What a test says with such a p, were it the only one, acquits nobody, whatever a look
# may err: a model from which the trick alone was trained away is seldom beyond this.
# Of several clients each has its share.
DOUBT = 0.1
# Why what was planted acquits nobody; of an influence it is the score that does, or
# that models with the client failed.
SHOWS, WORSE, UNCOUNTED = "it shows", "worse than by chance", "not counted"
FAILED = "models with it failed"
# Whose influence a test is of follows.
INFLUENCE = "influence "
# How many models without the client a way on is looked for.
MOST_MODELS = 200


def check_bounds(alpha: object, margins: object) -> None:
    """Raise ValueError if alpha or margins are none."""
    if not isinstance(alpha, Real) or not 0 < float(alpha) < 1:
        raise ValueError(f"alpha must be in (0, 1), got {alpha!r}")
    given = list(margins) if isinstance(margins, Sequence | np.ndarray) else []
    two = [float(one) for one in given if isinstance(one, Real)]
    # At 1 lie the models with the client.
    if len(two) != 2 or len(given) != 2 or not two[0] < 0 < two[1] < 1:
        raise ValueError(
            "margins must be two numbers, below 0, and above 0 but below 1, got "
            f"{margins!r}"
        )


def doubt_of(clients: int) -> float:
    """Return below which p a test alone acquits nobody, of so many clients."""
    return DOUBT / max(1, clients)


def objections(
    models: Sequence[Seen],
    influence: Mapping[int, Influence | None],
    failed: Collection[int],
    marker: Marker | None,
    canaries: Mapping[int, Pairs],
    alpha: float,
) -> dict[str, str]:
    """Return what does not let a model be acquitted, by test, whatever a look may err.

    Where a trick works more often than in each model that never saw it, or canaries
    show an epsilon (`SHOWS`), where they are worse known than their twins (`WORSE`), or
    where there were some and the judged model says nothing of them (`UNCOUNTED`). Where
    another score speaks against an influence (its name, `fedneg.evaluation.scores`), or
    models that should show the client know it worse than others (`FAILED`).

    Parameters
    ----------
    models : sequence of Seen
        All, the judged one first.
    influence : mapping of int to Influence or None
        By leaving client.
    failed : collection of int
        Clients whose models know them worse than models without them.
    marker, canaries
        What was counted.
    alpha : float
    """
    leaving = influence.keys()
    doubt = doubt_of(len(leaving))
    bound, found = max(alpha, doubt), {f"{INFLUENCE}{k}": FAILED for k in failed}
    for client_id, one in influence.items():
        doubts = one.doubts if one is not None else {}
        worst = min(doubts, key=lambda name: doubts[name], default=None)
        if worst is not None and doubts[worst] < bound:
            found[f"{INFLUENCE}{client_id}"] = worst
    if marker is not None:
        if marker.p_value < bound or marker.worst_p_value < doubt:
            found["marker"] = SHOWS
    elif any(one.marker is not None for one in models):
        found["marker"] = UNCOUNTED
    planted = {k for one in models for k in one.canaries if k in leaving}
    for client_id in sorted(planted):
        pairs = canaries.get(client_id)
        if pairs is None or not pairs.count:
            said = UNCOUNTED
        elif pairs.epsilon or pairs.p_value < bound:
            said = SHOWS
        elif above_p_value(pairs.count - pairs.won, pairs.count, 0.5) < doubt:
            said = WORSE
        else:
            continue
        found[f"canaries {client_id}"] = said
    return found


def models_to_tell(
    found: Influence,
    margins: tuple[float, float],
    tests: int = 1,
    alpha: float | None = None,
    clients: int = 1,
) -> int | None:
    """Return how many models without the client would tell; None: over `MOST_MODELS`.

    Parameters
    ----------
    found : Influence
    margins : tuple of float
        As of `judge`.
    tests : int
        Of how many this is one: a finding has to stand beside all of them.
    alpha : float, optional
        What a judgement by more models may err; by default as much as this one.
    clients : int
        Who leave, of whom this is one.
    """
    alpha = alpha or found.alpha
    within = min(found.rho - margins[0], margins[1] - found.rho)
    for count in range(found.n_out + 1, MOST_MODELS + 1):
        spread = found.sd * np.sqrt(1 + 1 / count)

        def half(level: float, spread: float = spread, count: int = count) -> float:
            return float(student.ppf(1 - level / 2, count - 1)) * spread

        # Its interval is to be within the margins and to say nothing alone, or to leave
        # 0 out.
        is_clear = half(max(alpha, doubt_of(clients))) >= abs(found.rho)
        if (half(alpha) <= within and is_clear) or half(alpha / tests) < abs(found.rho):
            return count
    return None
