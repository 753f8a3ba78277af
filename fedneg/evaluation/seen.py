"""What the judge is shown of a model: losses and counts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real

import numpy as np
from numpy.typing import NDArray

from fedneg.evaluation.exact import rate_of

Losses = NDArray[np.float64]


# Beyond it counts are no counts, and exact tests of them not exact.
MOST_TRIES = 10**9


def check_ids(client_ids: object) -> tuple[int, ...]:
    """Return clients' ids; ValueError if these are none, or one no whole number."""
    is_one = isinstance(client_ids, str | bytes) or (
        isinstance(client_ids, np.ndarray) and not client_ids.ndim
    )
    if is_one or not isinstance(client_ids, Iterable):
        raise ValueError(f"several clients' ids are expected, got {client_ids!r}")
    found = tuple(client_ids)
    for client_id in found:
        if not isinstance(client_id, int | np.integer) or isinstance(client_id, bool):
            raise ValueError(f"a client's id is a whole number, got {client_id!r}")
    return tuple(map(int, found))


def _is_whole(value: object) -> bool:
    return isinstance(value, Real) and float(value).is_integer()


def are_as(values: Losses, others: Losses) -> bool:
    """Return whether losses, or scores, are others' but for rounding."""
    one, other = np.asarray(values, np.float64), np.asarray(others, np.float64)
    return one.shape == other.shape and np.allclose(one, other, rtol=1e-6, atol=1e-9)


def check_models(name: str, models: object) -> list["Seen"]:
    """Return models as a list; ValueError if they are none, or one is no `Seen`."""
    if isinstance(models, Mapping | Seen) or not isinstance(models, Iterable):
        raise ValueError(f"{name} takes a list of Seen, got {type(models).__name__}")
    found = list(models)
    for one in found:
        if not isinstance(one, Seen):
            raise ValueError(f"{name} takes Seen, got {type(one).__name__}")
    return found


def distinct(models: Iterable["Seen"]) -> list["Seen"]:
    """Return models, of those that are one but for rounding the first."""
    found: list[Seen] = []
    for model in models:
        if not any(model.is_as(other) for other in found):
            found.append(model)
    return found


@dataclass(frozen=True, eq=False)
class Seen:
    """What was seen of a model.

    Attributes
    ----------
    losses : mapping of int to float64 array, shape (N,)
        By leaving client: the loss of each of its N training examples, in one order
        for all models, at least 0. Of a cross-entropy in nats.
    quality : float, optional
        In [0, 1], higher is better.
    marker : tuple of int, optional
        How often a planted trick worked, and of how many times.
    canaries : mapping of int to (array, array)
        By leaving client: the losses of planted canaries and of their held-out twins,
        each of shape (P,).

    Raises
    ------
    ValueError
        If losses or canaries are not by client's id, an id is no whole number, a loss
        is negative, not finite or 1e100 and more, twins are not as many as canaries,
        quality is not in [0, 1], or a trick worked oftener than it was tried, or was
        tried more than `MOST_TRIES` times.
    """

    losses: Mapping[int, Losses] = field(default_factory=dict)
    quality: float | None = None
    marker: tuple[int, int] | None = None
    canaries: Mapping[int, tuple[Losses, Losses]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("losses", "canaries"):
            if not isinstance(given := getattr(self, name), Mapping):
                raise ValueError(
                    f"{name} are by client's id, as {{3: ..}}, got "
                    f"{type(given).__name__}"
                )
        check_ids((*self.losses, *self.canaries))
        for client_id, two in self.canaries.items():
            if not isinstance(two, Sequence | np.ndarray) or len(two) != 2:
                raise ValueError(
                    f"canaries of client {client_id} are two arrays, of planted ones "
                    f"and of their twins, got {two!r}"
                )
        arrays = [
            *self.losses.values(),
            *(a for two in self.canaries.values() for a in two),
        ]
        for given in arrays:
            try:
                values = np.asarray(given, np.float64)
            except (TypeError, ValueError):
                raise ValueError(f"losses must be numbers, got {given!r}") from None
            # Squares of what is larger are not finite; NaN is in no order.
            if values.ndim != 1 or not ((values >= 0) & (values < 1e100)).all():
                raise ValueError("losses must be of shape (N,), finite and at least 0")
        for planted, held_out in self.canaries.values():
            if len(planted) != len(held_out):
                raise ValueError(
                    f"every canary needs a twin, got {len(planted)} and {len(held_out)}"
                )
        quality, marker = self.quality, self.marker
        if quality is not None and (
            not isinstance(quality, Real) or not 0 <= float(quality) <= 1
        ):
            raise ValueError(f"quality must be in [0, 1], got {quality!r}")
        if marker is not None:
            given = marker.tolist() if isinstance(marker, np.ndarray) else marker
            if not isinstance(given, tuple | list) or not (
                len(given) == 2 and all(map(_is_whole, given))
            ):
                raise ValueError(f"marker must be two whole numbers, got {marker!r}")
            hits, tries = map(int, given)
            if tries > MOST_TRIES:
                raise ValueError(
                    f"a trick is tried {MOST_TRIES} times at most, got {tries}"
                )
            rate_of(hits, tries)  # which checks them
            object.__setattr__(self, "marker", (hits, tries))

    def is_as(self, other: "Seen") -> bool:
        """Return whether all that was seen of another model was seen of this one.

        But for rounding; where nobody's losses were seen nothing says so.
        """
        return (
            any(len(own) for own in self.losses.values())
            and self.quality == other.quality
            and self.marker == other.marker
            and self.losses.keys() == other.losses.keys()
            and self.canaries.keys() == other.canaries.keys()
            and all(are_as(own, other.losses[k]) for k, own in self.losses.items())
            and all(
                are_as(np.concatenate(own), np.concatenate(other.canaries[k]))
                for k, own in self.canaries.items()
            )
        )
