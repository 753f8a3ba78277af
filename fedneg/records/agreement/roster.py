"""The roster of keys, held to the log."""

from collections.abc import Callable, Iterator

from fedneg.records.account import Account
from fedneg.records.agreement.difference import Difference
from fedneg.records.pins import LISTED, REMOVED, SEEN, Pin, Pins


def of_roster(pins: Pins, account: Account) -> Iterator[Difference]:
    """Yield how the roster differs; who completes it holds it."""
    there = pins.all()
    newest = account.newest.get("roster")
    for client_id in sorted(there.keys() | account.pins.keys()):
        logged_pin, pin = account.pins.get(client_id), there.get(client_id)
        if pin == logged_pin:
            continue
        if (
            newest is not None
            and newest["event"] in (LISTED, SEEN, REMOVED)
            and newest["facts"]["client"] == client_id
        ):
            yield Difference(
                f"{pins.path} is made to have {_key(logged_pin)} for client "
                f"{client_id}, as the audit log says",
                _putting(pins, client_id, logged_pin),
            )
            continue
        yield Difference(
            f"{pins.path} has {_key(pin)} for client {client_id}, and the audit log "
            f"{_key(logged_pin)}"
        )


def _putting(pins: Pins, client_id: int, pin: Pin | None) -> Callable[[], object]:
    return lambda: pins.put(client_id, pin)


def _key(pin: Pin | None) -> str:
    return "no key" if pin is None else f"key {pin.key[:16]} ({pin.source})"
