"""Canaries: random examples planted in a client's data, against ones held out.

A canary has a random label, so nothing but having been trained on it makes its loss
low. Held-out canaries are drawn the same way and never trained on: whatever tells the
planted from them is memory (Carlini et al. 2019, arXiv:1802.08232).
"""

import math

import numpy as np

from fedneg.evaluation.exact import Pairs, pairs_of
from fedneg.evaluation.membership import Floats, MembershipInput


def exposures(planted_losses: Floats, held_out_losses: Floats) -> Floats:
    """Return the exposure of each planted canary, in bits.

    Parameters
    ----------
    planted_losses, held_out_losses : arrays, shapes (P,) and (H,)
        Losses in nats; H is at least 1.

    Returns
    -------
    array, shape (P,)
        log2(H + 1) - log2(rank), with the rank of the canary's loss among it and the
        held-out ones, 1 the lowest. Equal losses share the middle of their ranks, so
        that a model that answers everything alike exposes little. At most log2(H + 1);
        about 1.44 on average, not 0, of a canary that was never trained on (see
        `chance_exposure`).

    Raises
    ------
    ValueError
        If an array is empty or holds a value that is not finite.

    References
    ----------
    Carlini et al., 'The Secret Sharer', arXiv:1802.08232, section 4, 'exposure'.
    Differs from the paper: the held-out canaries stand for all random ones.
    """
    given = MembershipInput.from_losses(planted_losses, held_out_losses)
    planted = -given.member_scores
    others = np.sort(-given.nonmember_scores)
    lower = np.searchsorted(others, planted, side="left")
    equal = np.searchsorted(others, planted, side="right") - lower
    rank = 1 + lower + equal / 2
    exposure: Floats = math.log2(others.size + 1) - np.log2(rank)
    return exposure


def chance_exposure(held_out: int) -> float:
    """Return the mean exposure, in bits, of a canary that was never trained on.

    Every rank 1..H+1 is then as likely as any other; 1/ln 2 = 1.44 for large H.

    Raises
    ------
    ValueError
        If there is no held-out canary.
    """
    if held_out < 1:
        raise ValueError(f"held_out must be at least 1, got {held_out}")
    ranks = np.arange(1, held_out + 2)
    return float(math.log2(held_out + 1) - np.log2(ranks).mean())


def canary_input(planted_losses: Floats, held_out_losses: Floats) -> MembershipInput:
    """Return planted against held-out canaries as a membership attack.

    Its AUC has 0.5 as its value without memory, and unlike the mean exposure does not
    depend on how many were held out: the verdict takes this one.
    """
    return MembershipInput.from_losses(planted_losses, held_out_losses)


def pairs_shown(planted_losses: Floats, held_out_losses: Floats, alpha: float) -> Pairs:
    """Return what canaries show of a model, each against its held-out twin.

    Of a pair with equal losses nothing can be said.

    Parameters
    ----------
    planted_losses, held_out_losses : arrays, shape (P,)
        Losses in nats, in one order.
    alpha : float
        In so many cases at most the bound of epsilon is too high.
    """
    planted, held_out = np.asarray(planted_losses), np.asarray(held_out_losses)
    won, lost = int((planted < held_out).sum()), int((planted > held_out).sum())
    return pairs_of(won, won + lost, alpha=alpha)
