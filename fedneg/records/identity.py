"""Which federation a state folder and a keys folder belong to: one id, in both.

The id is made once, when the keys are first needed, which may be before the first run.
It is the first entry of the log, and stands in ``federation.id`` of both folders: keys
that sealed one federation must not serve, or be destroyed for, another.
"""

import os
import uuid
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from fedneg.core.errors import FedNegError
from fedneg.core.files import make_folder, write_bytes
from fedneg.core.locks import locked
from fedneg.core.reading import read_regular
from fedneg.ledger.tensors import sync_folder
from fedneg.records.account import BEGUN, Account
from fedneg.records.audit import AuditLog
from fedneg.records.head import HEAD_NAME, read_head
from fedneg.records.keyring import VAULT_NAME, older_than
from fedneg.records.pins import Pins
from fedneg.records.signing import PRIVATE_NAME, PUBLIC_NAME, OperatorKey

ID_NAME, LOG_NAME, LOCK_NAME = "federation.id", "audit.jsonl", "federation.lock"


def check_apart(state: Path, keys: Path) -> None:
    """Raise FedNegError if one folder is the other, or lies in it.

    A backup of the state would hold the keys, and what was destroyed would come back.
    """
    one, other = (Path(os.path.realpath(path)) for path in (state, keys))
    if one == other:
        raise FedNegError(f"keys must be another folder than state, got {keys} as both")
    if one in other.parents or other in one.parents:
        raise FedNegError(
            f"keys and state must lie beside each other, not one in the other, got "
            f"keys={keys} and state={state}"
        )


def read_id(folder: Path) -> str:
    """Return the id that a folder bears; empty if none.

    Raises
    ------
    FedNegError
        If the file cannot be read, or holds no id.
    """
    path = folder / ID_NAME
    try:
        return str(uuid.UUID(read_regular(path).decode().strip()))
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise FedNegError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise FedNegError(f"{path} must hold a federation's id; it is damaged") from (
            None
        )


def write_id(folder: Path, found: str) -> None:
    """Let a folder bear an id, on the disk when it returns."""
    write_bytes(folder / ID_NAME, f"{found}\n".encode())
    sync_folder(folder)


def disagreement(state: Path, keys: Path, logged: str) -> str:
    """Return how the ids of state, keys and log contradict each other; else empty.

    A folder that bears none yet contradicts nothing.
    """
    mine, theirs = read_id(state), read_id(keys)
    if mine and theirs and mine != theirs:
        return (
            f"the keys in {keys} belong to federation {theirs}, and the state in "
            f"{state} is federation {mine}"
        )
    for folder, found in ((state, mine), (keys, theirs)):
        if found and logged and found != logged:
            return (
                f"{state / LOG_NAME} is the log of federation {logged}, and {folder} "
                f"belongs to federation {found}"
            )
    return ""


def claim(
    state: Path, keys: Path, told: Callable[[str], object] = lambda text: None
) -> tuple[OperatorKey, Account]:
    """Return the key that signs for a state, and its log; made if all is new.

    Nothing is written unless state, keys and log are one federation's, or all new.

    Parameters
    ----------
    told : callable
        Told of what was missing of the keys, and could be made again.

    Raises
    ------
    FedNegError
        If they are not, with both ids and folders; or if the keys know more than the
        log.
    """
    contradiction = disagreement(state, keys, "")
    if contradiction:
        raise FedNegError(contradiction)
    if is_new(state):
        return _begin(state, keys)
    if not (keys / PRIVATE_NAME).exists():
        raise FedNegError(
            f"{keys} does not hold the keys of the federation in {state}: it has no "
            f"{PRIVATE_NAME}; restore it, or name the right folder with keys"
        )
    log = state / LOG_NAME
    if not log.exists() or not log.stat().st_size:
        raise FedNegError(
            f"{log} is missing or empty, and {state} holds the state of a federation; "
            "restore the log from the same backup"
        )
    lost = not (keys / PUBLIC_NAME).exists()
    key = OperatorKey.load_or_create(keys)
    if lost:
        # The private key gives it, and the log says whether that is the right one.
        told(f"{keys / PUBLIC_NAME} was missing, and is made again from {PRIVATE_NAME}")
    account = Account(log, key.public).refresh()
    contradiction = disagreement(state, keys, account.federation)
    contradiction = contradiction or older_than(keys, account)
    if contradiction:
        raise FedNegError(contradiction)
    if not account.is_old and not (read_id(state) and read_id(keys)):
        bind(state, keys, account.federation)
    return key, account


def bind(state: Path, keys: Path, found: str) -> None:
    """Write an id where it is missing: a kill may have come between."""
    with locked(keys / LOCK_NAME, "the keys"):
        contradiction = disagreement(state, keys, found)
        if contradiction:
            raise FedNegError(contradiction)
        _bind(state, keys, found)


def has_not_begun(state: Path, keys: Path) -> bool:
    """Return whether nothing is in either folder but what a first start may leave.

    A kill may have come before the log's first entry.
    """
    used = read_id(keys) or read_head(keys / HEAD_NAME) or _sealing(keys)
    return is_new(state) and not used


def is_new(state: Path) -> bool:
    """Return whether nothing of a federation is in a folder.

    A kill may have left a log without an entry; and older versions wrote a roster
    without a log.
    """
    for name in (ID_NAME, "federation.json"):
        if (state / name).exists():
            return False
    for name in ("checkpoints", "requests", "receipts"):
        if any((state / name).glob("[!.]*")):
            return False
    log = state / LOG_NAME
    return not log.exists() or b"\n" not in read_regular(log)


def _begin(state: Path, keys: Path) -> tuple[OperatorKey, Account]:
    """Make an id, and write it into the log, the state and the keys, in this order."""
    make_folder(keys)
    with locked(keys / LOCK_NAME, "the keys"):
        if is_new(state):  # somebody else may have begun it meanwhile
            _refuse_used(state, keys)
            pins = Pins(state / "roster.json").all()
            key, found = OperatorKey.load_or_create(keys), str(uuid.uuid4())
            log = AuditLog(state / LOG_NAME, key, head=keys / HEAD_NAME)
            roster = {str(k): asdict(pin) for k, pin in pins.items()}
            log.append(BEGUN, id=found, **({"roster": roster} if roster else {}))
            _bind(state, keys, found)
    return claim(state, keys)


def _refuse_used(state: Path, keys: Path) -> None:
    """Raise FedNegError if keys belong, or once belonged, to a federation."""
    theirs = read_id(keys)
    if theirs:
        raise FedNegError(
            f"the keys in {keys} belong to federation {theirs}, and there is nothing "
            f"of it in {state}; name another keys folder, or restore its state"
        )
    sealing = _sealing(keys)
    if sealing:
        raise FedNegError(
            f"the keys in {keys} sealed another federation ({sealing[0]}), and there "
            f"is nothing of it in {state}; name another keys folder"
        )


def _sealing(keys: Path) -> list[str]:
    return sorted(path.name for path in (keys / VAULT_NAME).glob("[!.]*"))


def _bind(state: Path, keys: Path, found: str) -> None:
    for folder in (state, keys):
        if not read_id(folder):
            write_id(folder, found)
