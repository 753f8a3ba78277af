"""Receipts, held to the log: no other, none missing, and of this federation."""

from collections.abc import Iterator
from pathlib import Path

from fedneg.core.errors import FedNegError
from fedneg.ledger.tensors import sha256_of
from fedneg.records.account import Account
from fedneg.records.agreement.difference import Difference
from fedneg.records.receipts import read_receipt
from fedneg.records.requests import DONE


def of_receipts(folder: Path, account: Account) -> Iterator[Difference]:
    """Yield how the receipts differ from those that the log names."""
    there = {p.name: p for p in sorted(folder.glob("[!.]*"))}
    for client_id, asked in account.requests.items():
        path = folder / f"forget-{client_id}.json"
        found = there.pop(path.name, None)
        if found is None:
            if asked.status == DONE:
                yield Difference(
                    f"{path} is missing, and the audit log says that forget-"
                    f"{client_id} is done; restore it"
                )
            continue
        # Before it is done a kill may have left the receipt before the last.
        valid = asked.receipts[-1:] if asked.status == DONE else asked.receipts
        if _sha256(path) not in valid:
            yield Difference(
                f"{path} is not the receipt of forget-{client_id} that the audit log "
                "names: its sha256 is another"
            )
    for path in there.values():
        yield Difference(f"{path} is no receipt that the audit log names")


def of_contents(
    folder: Path, account: Account, federation: str
) -> Iterator[Difference]:
    """Yield how receipts differ by what they say; their signatures are good."""
    for path in sorted(folder.glob("[!.]*.json")):
        try:
            receipt = read_receipt(path, account.public)
        except FedNegError:
            continue  # named by who reads them first
        if receipt.get("federation") != federation:
            yield Difference(
                f"{path} is of federation {receipt.get('federation')!r:.60}, and this "
                f"is {federation}"
            )


def _sha256(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise FedNegError(f"{path} cannot be read: {error.strerror}") from None
