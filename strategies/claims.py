"""Numbers that a client claims, and what may be believed of them.

A client may send anything. Each number that is used is named here, with what it can be;
all others are dropped where they come in.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeGuard

from fedneg.core.texts import one_line

# In nats per example. A model that is worse has diverged, whoever measured it; and what
# is summed and averaged of smaller ones overflows nowhere.
MAX_LOSS = 1e9
# Steps of one training, and writers of one client.
MAX_COUNT = 10**9
# Characters of what came in place of a number.
MAX_SHOWN = 60

PARTS = ("train", "val", "test")


def rate(name: str, value: object) -> float:
    """Return a claimed rate if it is a fraction, else raise ValueError."""
    if not _is_number(value) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a fraction from 0 to 1, got {shown(value)}")
    return float(value)


def loss(name: str, value: object) -> float:
    """Return a claimed loss, or distance, if it can be one, else raise ValueError."""
    if not _is_number(value) or not 0 <= value <= MAX_LOSS:
        raise ValueError(
            f"{name} must be a number from 0 to {MAX_LOSS:g}, got {shown(value)}"
        )
    return float(value)


def count(name: str, value: object, *, least: int = 0, most: int = MAX_COUNT) -> int:
    """Return a claimed count if it is whole and in its bounds, else raise ValueError.

    A float that is whole counts: some clients send all numbers as floats.
    """
    # A range test first: it is false for NaN, which int() would choke on.
    if not _is_number(value) or not least <= value <= most or int(value) != value:
        raise ValueError(
            f"{name} must be a whole number from {least} to {most}, got {shown(value)}"
        )
    return int(value)


# What clients say of a training or of a model, by name.
EXAMPLES = tuple(f"num_{part}" for part in PARTS)
KNOWN: dict[str, Callable[[str, object], float]] = {
    "running_loss": loss,
    "steps": count,
    "distance": loss,
    "num_writers": count,
    "trained_accuracy": rate,
    **{f"{part}_accuracy": rate for part in PARTS},
    **{f"{part}_loss": loss for part in PARTS},
}


def believed(
    metrics: Mapping[str, object],
    *,
    wanted: Iterable[str] = (),
    max_num_examples: int,
) -> dict[str, float]:
    """Return the known numbers among a reply's, checked; the rest is dropped.

    Parameters
    ----------
    wanted : iterable of str
        Those that must be there.
    max_num_examples : int
        What a count of examples may be at most.

    Raises
    ------
    ValueError
        If one is missing, or is not what its name says.
    """
    for name in wanted:
        if not _is_number(metrics.get(name)):
            raise ValueError(f"the reply has no {name}")
    found: dict[str, float] = {}
    for name, value in metrics.items():
        if name in EXAMPLES:
            found[name] = float(count(name, value, most=max_num_examples))
        elif name in KNOWN:
            found[name] = float(KNOWN[name](name, value))
    return found


def shown(value: object) -> str:
    """Return a claimed value as an error may show it, whatever it is."""
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:g}"
    if isinstance(value, str | bytes):
        return one_line(repr(value[:MAX_SHOWN]), MAX_SHOWN)
    return type(value).__name__


def reason_of(error: Exception) -> str:
    """Return why an answer is refused, as logs, files and terminals may hold it."""
    if isinstance(error, KeyError):
        return one_line(
            f"the reply has no {error.args[0] if error.args else 'content'}"
        )
    return one_line(str(error) or type(error).__name__)


def _is_number(value: object) -> TypeGuard[int | float]:
    """Return whether a value is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)
