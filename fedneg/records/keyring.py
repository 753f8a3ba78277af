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

    Others may add to both meanwhile, and to the log first: what the keys know is read
    once, and the log again after it before anything is said.

    Raises
    ------
    FedNegError
        If the keys cannot be read, or an entry of the log is broken.
    """
    head, vault = read_head(keys / HEAD_NAME), Vault(keys / VAULT_NAME)
    destroyed = vault.destroyed()

    def said_by(log: Account) -> str:
        if head is not None:
            digest = log.digest_of(head.seq)
            said = contradiction(log.path, keys / HEAD_NAME, head, digest)
            if said:
                return said
        # An old log says nothing of purges.
        gone = set() if log.is_old else destroyed - log.purged
        if gone:
            first = min(gone)
            return (
                f"{vault.folder / f'client-{first}.destroyed'} says that the key of "
                f"client {first} was destroyed when it was forgotten, and the log "
                f"{log.path} does not say that it was: it is older than the keys; "
                "restore the newer one, with its state"
            )
        return ""

    said = said_by(account)
    return said and said_by(Account(account.path, account.public).refresh())


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
