"""What a strategy and its roster ask, and tell, of whoever composes a federation."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from fedneg.core.parameters import Vector


def nobody() -> Collection[int]:
    """Return no client ids."""
    return frozenset()


def any_model(before: Vector, after: Vector) -> bool:
    """Return that every round may stand."""
    return True


def unheard(*said: object) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Hooks:
    """Made once, before the federation, and handed down to its strategy and roster.

    By default nobody is out, every round stands, and nobody is told anything.

    Attributes
    ----------
    excluded : callable
        () -> client ids that are out whatever a phase says; asked before and after
        every round.
    accept : callable
        (before, after) -> whether a round that leaving clients trained may stand; two
        vectors of shape (d,): the global parameters where the phase, or the method,
        began, and after the round.
    on_reply : callable
        Told of every reply of a round: how many have answered, of how many.
    on_wait : callable
        Told, in a sentence for people, which clients are waited for.
    on_refused : callable
        Told, once, of a client id that a node claims (None: it claims none) and why
        that node is refused.
    """

    excluded: Callable[[], Collection[int]] = nobody
    accept: Callable[[Vector, Vector], bool] = any_model
    on_reply: Callable[[int, int], None] = unheard
    on_wait: Callable[[str], None] = unheard
    on_refused: Callable[[int | None, str], None] = unheard


NO_HOOKS = Hooks()
