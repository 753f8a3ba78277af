"""A whole state folder, held to its log, for who only looks: `fedneg audit`."""

from collections.abc import Callable, Iterator
from pathlib import Path

from fedneg.core.errors import FedNegError
from fedneg.ledger.checkpoint import Checkpoints
from fedneg.records.account import Account
from fedneg.records.agreement.checkpoints import (
    Whole,
    of_checkpoints,
    of_rest,
    of_whole,
)
from fedneg.records.agreement.difference import Difference, lasting
from fedneg.records.agreement.federation import (
    of_facts,
    of_ids,
    of_keys,
    of_model,
    of_sealing,
)
from fedneg.records.agreement.receipts import of_contents, of_receipts
from fedneg.records.agreement.requests import of_requests, of_scan_windows
from fedneg.records.agreement.roster import of_roster
from fedneg.records.migration import asked_in
from fedneg.records.pins import Pins
from fedneg.records.requests import Requests


def lasting_differences(
    folder: Path, keys: Path | None, account: Account
) -> list[Difference]:
    """Return the `differences` that last.

    A run, or who accepts a request, may be between an entry and its act.
    """
    whole = Whole(Checkpoints(folder / "checkpoints"))
    known = [account]

    def look() -> Iterator[Difference]:
        log = known.pop() if known else Account(account.path, account.public).refresh()
        return differences(folder, keys, log, whole)

    return lasting(look)


def differences(
    folder: Path, keys: Path | None, account: Account, whole: Whole | None = None
) -> Iterator[Difference]:
    """Yield how a state folder differs from its log; for who only looks.

    Of a state of schema 1 it is what keeps it from being migrated. `keys` is
    None for who has the public key alone; `whole` is for who looks several times.
    """
    whole = Whole(Checkpoints(folder / "checkpoints")) if whole is None else whole
    checkpoints = whole.checkpoints
    checks: list[Callable[[], Iterator[Difference]]] = [
        lambda: of_ids(folder, keys, account),
        lambda: of_keys(keys, account),
        lambda: of_facts(folder / "federation.json", account),
        lambda: of_requests(Requests(folder / "requests"), account),
        lambda: of_scan_windows(folder / "fingerprints", checkpoints, account),
        lambda: of_checkpoints(checkpoints, account),
        lambda: of_sealing(keys, checkpoints, account),
        lambda: of_rest(whole.checkpoints, account),
        lambda: of_whole(whole, account),
        lambda: of_model(folder / "model.safetensors", account),
        lambda: of_receipts(folder / "receipts", account),
        lambda: of_contents(folder / "receipts", account, account.federation),
        lambda: of_roster(Pins(folder / "roster.json"), account),
    ]
    if account.is_old:
        checks = [*checks[:2], lambda: _of_old(folder, account)]
    for differ in checks:
        try:
            yield from differ()
        except FedNegError as error:  # a file that is none of its kind
            yield Difference(str(error))


def _of_old(folder: Path, account: Account) -> Iterator[Difference]:
    """Yield nothing; raises FedNegError if a state cannot be migrated."""
    requests = Requests(folder / "requests")
    asked_in(requests, folder / "receipts", folder / "fingerprints", account)
    yield from ()
