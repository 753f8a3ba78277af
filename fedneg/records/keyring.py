"""What the keys folder knows of its federation, and lacks: for who holds it.

The keys are kept apart from the state, and are restored apart from it. They know the
last entry of the log (head.py) and, of a sealed federation, whose keys were destroyed:
by both a state is found out that was restored from before a purge, log and all.
"""

from collections.abc import Iterator
from pathlib import Path

from fedneg.core.errors import FedNegError
from fedneg.ledger.checkpoint import Checkpoints
from fedneg.records.account import Account
from fedneg.records.head import HEAD_NAME, contradiction, read_head
from fedneg.records.sealed import keys_of
from fedneg.records.vault import Vault

VAULT_NAME = "clients"


def older_than(keys: Path, account: Account) -> str:
    """Return how a log is older than what the keys know; empty if it is not.

    Others may add to both meanwhile: the keys are read first, and the log again before
    anything is said.

    Raises
    ------
    FedNegError
        If the keys cannot be read, or an entry of the log is broken.
    """
    said = _older_than(keys, account)
    if said:
        fresh = Account(account.path, account.public).refresh()
        said = _older_than(keys, fresh)
    return said


def _older_than(keys: Path, account: Account) -> str:
    head = read_head(keys / HEAD_NAME)
    if head is not None:
        digest = account.digest_of(head.seq)
        said = contradiction(account.path, keys / HEAD_NAME, head, digest)
        if said:
            return said
    # An old log says nothing of purges.
    vault = Vault(keys / VAULT_NAME)
    gone = set() if account.is_old else vault.destroyed() - account.purged
    if gone:
        first = min(gone)
        return (
            f"{vault.folder / f'client-{first}.destroyed'} says that the key of client "
            f"{first} was destroyed when it was forgotten, and the log {account.path} "
            "does not say that it was: it is older than the keys; restore the newer "
            "one, with its state"
        )
    return ""


def missing_keys(
    keys: Path, checkpoints: Checkpoints, account: Account
) -> Iterator[str]:
    """Yield which keys are missing of the checkpoints that a run may go on from."""
    vault = Vault(keys / VAULT_NAME)
    said: set[str] = set()
    named = {number for number, _ in account.restorable()}
    for number in sorted(named & set(checkpoints.rounds()), reverse=True):
        try:
            needed = keys_of(checkpoints.data(number))
        except (OSError, ValueError, FedNegError):
            continue  # damaged: `restore` says so, and does not use it
        for name in sorted(needed - said):
            path = vault.folder / f"{name}.key"
            if not path.exists():
                said.add(name)
                yield (
                    f"{path} is missing, and the checkpoint of round {number} in "
                    f"{checkpoints.folder} is sealed with it; restore it"
                )
