"""Some of a client's training examples: which of them are to be forgotten.

The client stays with the rest of its data. `forget_samples` says of each client which
examples go; a message then says which part of its examples a client is to train on, or
to be asked about: all of them, the rest, or those that go.
"""

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from fedneg.core.errors import FedNegError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# What of its examples a client is to work on.
ALL, REST, GONE = PARTS = ("all", "rest", "gone")
# Those that its attack has poisoned, or planted.
POISONED = "poisoned"
# A share, indices, or POISONED.
Chosen = float | tuple[int, ...] | str
KEY = "forget_samples"


def chosen_samples(values: object, *, clients: int) -> dict[int, Chosen]:
    """Return what is chosen of each client's examples, by client id, in order.

    Parameters
    ----------
    values : mapping or None
        Of client ids, as whole numbers or their digits: to a share between 0 and 1, a
        list of indices into the client's training examples, or ``"poisoned"``.
    clients : int
        How many there are.

    Raises
    ------
    FedNegError
        For anything else.
    """
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise FedNegError(
            f"{KEY} must say of each client what is to go, e.g. {{4: 0.25}}, or be "
            f"null, got {values!r}"
        )
    found: dict[int, Chosen] = {}
    for key, value in values.items():
        client_id = _client_id(key, clients)
        if client_id in found:
            raise FedNegError(f"{KEY} must name each client once, got {client_id}")
        found[client_id] = _chosen(client_id, value)
    return dict(sorted(found.items()))


def _client_id(key: object, clients: int) -> int:
    """Return a client id; in JSON it is a text."""
    if isinstance(key, str) and key.isdecimal():
        key = int(key)
    if isinstance(key, bool) or not isinstance(key, int) or not 0 <= key < clients:
        raise FedNegError(
            f"{KEY} must name client ids from 0 to {clients - 1} "
            f"(clients={clients}), got {key!r}"
        )
    return key


def _chosen(client_id: int, value: object) -> Chosen:
    """Return one client's choice, checked as far as it can be without its data."""
    if value == POISONED:
        return POISONED
    if isinstance(value, list | tuple):
        return _indices(client_id, value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FedNegError(
            f"{KEY} of client {client_id} must be a share of its examples, a list of "
            f"their indices, or {POISONED}, got {value!r}"
        )
    if value == 1:
        raise _everything(client_id, "a share of 1")
    if not 0 < value < 1:
        raise FedNegError(
            f"{KEY} of client {client_id} must be a share above 0 and below 1, "
            f"got {value:g}"
        )
    return float(value)


def _indices(client_id: int, value: list[Any] | tuple[Any, ...]) -> tuple[int, ...]:
    """Return indices of examples, in order."""
    whose = f"{KEY} of client {client_id}"
    if not value:
        raise FedNegError(f"{whose} must name at least one example, got none")
    for index in value:
        if isinstance(index, bool) or not isinstance(index, int) or index < 0:
            raise FedNegError(
                f"{whose} must be indices of examples, whole numbers from 0, "
                f"got {index!r}"
            )
    if twice := sorted({index for index in value if value.count(index) > 1}):
        raise FedNegError(f"{whose} must name each example once, got {twice[0]} twice")
    return tuple(sorted(value))


def _everything(client_id: int, got: str) -> FedNegError:
    """Return what to say where nothing of a client would stay."""
    return FedNegError(
        f"{KEY} must leave client {client_id} an example, got {got}; "
        f"forget={client_id} forgets the client"
    )


def check_alone(
    samples: Mapping[int, Chosen],
    forget: Collection[int],
    state: str | None,
    experiment: str | None,
) -> None:
    """Raise FedNegError where whole clients are to be forgotten, too.

    Parameters
    ----------
    samples : mapping
        Of `chosen_samples`; not empty.
    forget, state, experiment
        As of `Config`.
    """
    whom = list(samples)
    if list(forget) not in ([], whom):
        raise FedNegError(
            f"forget must be null, or the clients of {KEY}, {whom}, got "
            f"{list(forget)}: whole clients and examples are forgotten one after the "
            "other"
        )
    if state is not None:
        raise FedNegError(
            f"with state=DIR whole clients are forgotten, by request, got {KEY} of "
            f"{whom}"
        )
    if experiment:
        raise FedNegError(f"experiment={experiment} cannot have {KEY}")


def check_attack(
    samples: Mapping[int, Chosen], attack: str, attackers: Collection[int]
) -> None:
    """Raise FedNegError where examples do not go with the attack.

    Parameters
    ----------
    attack : str
        Its name.
    attackers : collection of int
        Client ids.
    """
    if samples and attack == "model_replacement":
        raise FedNegError(
            f"attack={attack} lengthens the update of all of a client's examples, and "
            f"{KEY} cannot take some of them; forget the client"
        )
    for client_id, chosen in samples.items():
        if chosen == POISONED and client_id not in attackers:
            raise FedNegError(
                f"{KEY}={{{client_id}: {POISONED}}} needs an attack of client "
                f"{client_id}, got attack={attack}"
            )


def places_of(
    chosen: Chosen,
    count: int,
    *,
    seed: int,
    client_id: int,
    poisoned: "Callable[[], NDArray[np.int64]]",
) -> "NDArray[np.int64]":
    """Return the places of the examples that go, ascending.

    Parameters
    ----------
    chosen : float, tuple of int or str
        As `chosen_samples` gives it.
    count : int
        How many examples the client trains on.
    seed, client_id : int
        Of the stream that a share is drawn from, without replacement.
    poisoned : callable
        () -> the places of the poisoned ones.

    Raises
    ------
    FedNegError
        If an index is out of range, or none of the examples would go, or all.
    """
    # Settings are checked where nothing is drawn, and whoever asks for help waits.
    import numpy as np

    from fedneg.core.seeding import rng

    whose = f"{KEY} of client {client_id}"
    if isinstance(chosen, float):
        number = round(chosen * count)
        order = rng(seed, "forget samples", 0, client_id).permutation(count)
        places = np.sort(order[:number])
    elif isinstance(chosen, str):
        places = np.sort(poisoned())
    else:
        if chosen[-1] >= count:  # before it is a number of 8 bytes
            raise FedNegError(
                f"{whose} must be indices from 0 to {count - 1}, its training "
                f"examples, got {chosen[-1]}"
            )
        places = np.array(chosen, dtype=np.int64)
    if not len(places):
        got = f"a share of {chosen:g}" if isinstance(chosen, float) else chosen
        raise FedNegError(
            f"{whose} must take at least one of its {count} examples, got {got}"
        )
    if len(places) == count:
        raise _everything(client_id, f"all {count}")
    return places.astype(np.int64)
