"""What a state folder holds beside what its audit log says, file by file.

The log is the truth. A file that is missing although entries that came later in its
chain imply it, one without an entry, and one that says something else are *wrong*: they
are named, and nothing goes on. Where the newest entry of a chain stands alone, a kill
came between it and its act, which is then *completed*.

Longer than others: one function for each kind of file, all of one form.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from fedneg.core.errors import FedNegError
from fedneg.core.files import remove
from fedneg.core.parameters import digest_of_model
from fedneg.core.reading import open_regular, read_regular
from fedneg.ledger.checkpoint import Checkpoints
from fedneg.records.account import (
    ENDED,
    KEPT,
    MADE,
    MIGRATED,
    PURGING,
    ROLLBACK,
    SERVED,
    Account,
    Asked,
)
from fedneg.records.facts import SCHEMA, read_facts, write_facts
from fedneg.records.identity import disagreement, read_id
from fedneg.records.keyring import missing_keys, older_than
from fedneg.records.pins import LISTED, REMOVED, SEEN, Pin, Pins
from fedneg.records.receipts import read_receipt
from fedneg.records.requests import ACCEPTED, DONE, UNLEARNED, Request, Requests, logged
from fedneg.records.scan_windows import loaded


@dataclass(frozen=True)
class Difference:
    """A file that is not as the log says.

    Attributes
    ----------
    text : str
        For people; it names the file.
    complete : callable or None
        Does the act whose entry stands alone; None if it is wrong.
    is_of_log : bool
        Whether the log itself is the wrong one, so that nothing can be held to it.
    """

    text: str
    complete: Callable[[], object] | None = None
    is_of_log: bool = False


def settle(
    differences: Iterable[Difference], told: Callable[[str], object] = lambda text: None
) -> None:
    """Complete every act whose entry stands alone, and tell of it.

    Raises
    ------
    FedNegError
        If anything is wrong: nothing is completed then, and the first is named.
    """
    found = list(differences)
    wrong = [d.text for d in found if d.complete is None]
    if wrong:
        more = f"; and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise FedNegError(wrong[0] + more)
    for difference in found:
        if difference.complete is not None:
            difference.complete()
            told(difference.text)


# -- requests --------------------------------------------------------------------------


def of_requests(requests: Requests, account: Account) -> Iterator[Difference]:
    """Yield how the files of requests differ; who completes it holds the queue."""
    found = {request.client_id: request for request in requests.all()}
    newest = account.newest.get("requests", {"event": "", "facts": {}})
    for client_id, asked in account.requests.items():
        path = requests.folder / f"forget-{client_id}.json"
        request = found.pop(client_id, None)
        if request is None:
            if (
                asked.status == ACCEPTED
                and newest["event"] == ACCEPTED
                and newest["facts"]["client"] == client_id
            ):
                yield Difference(
                    f"{path} is made again from the audit log, without its reason",
                    _remaking(requests, client_id, asked.received, asked.due),
                )
            else:
                yield Difference(
                    f"{path} is missing, and the audit log says that forget-"
                    f"{client_id} is {asked.status}; restore it"
                )
            continue
        told = logged(request)
        for name in ("received", "due", "reason_sha256"):
            if told[name] != getattr(asked, name):
                what = name.removesuffix("_sha256")
                yield Difference(f"{path} has another {what} than the audit log says")
        yield from _of_status(requests, request, asked.status, newest)
    for client_id in found:
        yield Difference(
            f"{requests.folder / f'forget-{client_id}.json'} has no entry in the audit "
            "log: it was not accepted there"
        )


def _of_status(
    requests: Requests, request: Request, status: str, newest: Mapping[str, Any]
) -> Iterator[Difference]:
    """Yield how far a request is by its file and how far by the log."""
    path = requests.folder / f"{request.id}.json"
    if request.is_open == (status != DONE):
        return  # accepted or unlearned: the checkpoint decides
    if (
        request.status not in (ACCEPTED, DONE)
        and newest["event"] == DONE
        and request.client_id in newest["facts"]["clients"]
    ):
        done = replace(request, status=DONE)
        yield Difference(
            f"{request.id} is marked done, as the audit log says",
            lambda: requests.write(done),
        )
        return
    yield Difference(
        f"{path} says that it is {request.status}, and the audit log that it is "
        f"{status}"
    )


def _remaking(
    requests: Requests, client_id: int, received: str, due: str
) -> Callable[[], object]:
    """Return what makes a request's file again, with an entry for it."""
    request = Request(client_id, received, due)

    def remake() -> None:
        requests.record(ACCEPTED, **logged(request), remade=True)
        requests.write(request)

    return remake


# -- scan windows ----------------------------------------------------------------------


def of_scan_windows(
    folder: Path, checkpoints: Checkpoints, account: Account
) -> Iterator[Difference]:
    """Yield which scan windows of the forgotten are not those that the log names.

    By them alone a purge, and every later one, knows what to look for.
    """
    for client_id, asked in account.requests.items():
        if asked.fingerprints is None or _is_repeated(client_id, checkpoints, account):
            continue
        path = folder / f"forget-{client_id}.json"
        wrong = _wrong_scan_windows(path, client_id, asked)
        if wrong:
            yield Difference(
                f"{path} {wrong}, and forget-{client_id} is {asked.status}: what is "
                "left of the client would be looked for by nobody; restore it"
            )


def _wrong_scan_windows(path: Path, client_id: int, asked: Asked) -> str:
    """Return what is wrong with a client's file; of an old log, it must be one."""
    try:
        data = read_regular(path)
        found, _, _ = loaded(data)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except ValueError:
        return "holds no scan windows"
    if found != client_id:
        return f"is of client {found}"
    if asked.fingerprints and hashlib.sha256(data).hexdigest() != asked.fingerprints:
        return "is not the one that the audit log names: its sha256 is another"
    return ""


def _is_repeated(client_id: int, checkpoints: Checkpoints, account: Account) -> bool:
    """Return whether a kill came before the checkpoint by which a client is out.

    The unlearn round is then repeated, and writes the file anew.
    """
    newest = account.newest.get("run")
    if newest is None or newest["event"] != UNLEARNED:
        return False
    facts = newest["facts"]
    written = facts.get("fingerprints", {str(k) for k in facts["clients"]})
    if str(client_id) not in written:
        return False
    try:
        return bool(checkpoints.facts(facts["round"])["model"] != facts["model"])
    except (OSError, ValueError, KeyError, TypeError):
        return True


# -- the roster ------------------------------------------------------------------------


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


# -- receipts --------------------------------------------------------------------------


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
        return _digest(path)
    except OSError as error:
        raise FedNegError(f"{path} cannot be read: {error.strerror}") from None


def _digest(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# -- checkpoints, and what the federation is -------------------------------------------


def of_checkpoints(checkpoints: Checkpoints, account: Account) -> Iterator[Difference]:
    """Yield checkpoints that the log does not name.

    Those that it names, and that a kill kept from being removed, are no difference:
    they go with the next one, and are not restored.
    """
    newest = account.newest.get("run", {"event": "", "facts": {}})
    event, place = newest["event"], newest["facts"].get("round", 0)
    strangers, good = [], 0
    for number in checkpoints.rounds():
        try:
            facts = checkpoints.facts(number)
            model, contains = facts.get("model"), set(facts["contains"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # damaged: `restore` says so, and does not use it
        gone = sorted(contains & account.forgotten)
        if _is_known(account, number, model) and not gone:
            good += 1
        else:
            strangers.append((number, gone))
    # Nobody is told to remove the only one there is.
    remedy = "remove it" if good else "bring a later one from a backup"
    for number, gone in strangers:
        stem = checkpoints.folder / f"round-{number:06d}"
        if gone:
            yield Difference(
                f"the checkpoint of round {number} in {checkpoints.folder} contains "
                f"client {gone[0]}, which was forgotten (forget-{gone[0]}); it is not "
                f"used, {remedy}"
            )
        elif event == ROLLBACK and number > place:
            yield Difference(
                f"{stem} is removed: the federation was rolled back to round {place}",
                _removing(checkpoints, number),
            )
        elif event == PURGING and number < place:
            yield Difference(
                f"{stem} is removed: it was being purged",
                _removing(checkpoints, number),
            )
        else:
            yield Difference(
                f"{stem} is no checkpoint that the audit log names since the last "
                f"rollback or purge; it is not used, {remedy}"
            )


def _is_known(account: Account, number: int, model: str | None) -> bool:
    """Return whether the log names a checkpoint; what it holds is not looked at.

    What an older fedneg wrote does not name its model; `restore` looks at that.
    """
    return any(n == number and model in (None, m) for n, m in account.known)


def _removing(checkpoints: Checkpoints, number: int) -> Callable[[], object]:
    return lambda: checkpoints.remove(number)


class Whole:
    """Which checkpoints are whole; one is read once while its files stay as they are.

    Parameters
    ----------
    checkpoints : Checkpoints
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints
        self._found: dict[object, str] = {}

    def damage(self, number: int, account: Account) -> str:
        """Return what is wrong with a checkpoint of the log; empty if nothing is."""
        stamp = (number, self.checkpoints.stamp(number))
        if stamp not in self._found:
            self._found[stamp] = self._damage(number, account)
        return self._found[stamp]

    def _damage(self, number: int, account: Account) -> str:
        known = {model for n, model in account.known if n == number}
        stem = self.checkpoints.folder / f"round-{number:06d}"
        try:
            self.checkpoints.verify(number)
            if not known or (account.settings or {}).get("encrypt"):
                return ""  # `of_checkpoints` names it; only who has the keys reads it
            rows = self.checkpoints.rows(number, -1)
            if digest_of_model(rows["global"]) not in known:
                return f"{stem} holds another model than the audit log says"
        except FedNegError as error:
            return str(error)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            return f"{stem} is damaged: {error}"
        return ""


def of_whole(whole: Whole, account: Account) -> Iterator[Difference]:
    """Yield checkpoints that are missing or damaged, and numbers that no head names.

    For who only looks: a run goes back to the one before, and says so.
    """
    checkpoints, standing = whole.checkpoints, account.standing
    there = checkpoints.rounds()
    if standing is not None and standing not in there:
        yield Difference(
            f"{checkpoints.folder / f'round-{standing:06d}.json'} is missing, and the "
            "audit log says that the federation stands there; bring that checkpoint "
            "back from a backup"
        )
    for number in there:
        damage = whole.damage(number, account)
        if damage and checkpoints.stamp(number):  # a run may just have removed it
            good = [n for n in there if n != number and not whole.damage(n, account)]
            remedy = (
                f"the one of round {good[-1]} is whole"
                if good
                else "bring it back from a backup"
            )
            yield Difference(f"{damage}; {remedy}")
    events = (KEPT, UNLEARNED, PURGING, ROLLBACK)
    newest = account.newest.get("run", {"event": ""})["event"]
    for path in checkpoints.unnamed():
        if newest in events:  # a kill came between writing or removing two files
            yield Difference(
                f"{path} is removed: no checkpoint names it",
                lambda path=path: remove(path),  # type: ignore[misc]
            )
        else:
            yield Difference(f"{path} is named by no checkpoint; remove it")


def of_rest(checkpoints: Checkpoints, account: Account) -> Iterator[Difference]:
    """Yield checkpoints that are not those with which the last run ended.

    Rows, history, and who is in the model: all that they hold beside the model.
    """
    if not account.is_newest(ENDED):
        return  # a run was killed, or there was a rollback
    left = account.newest["run"]["facts"].get("checkpoints", {})
    for number in checkpoints.rounds():
        try:
            same = left.get(str(number)) in (None, checkpoints.digest(number))
        except (OSError, ValueError, KeyError, TypeError, FedNegError):
            continue  # damaged: who looks and who restores say so
        if not same:
            yield Difference(
                f"{checkpoints.folder / f'round-{number:06d}'} is not as the last run "
                "left it, by the audit log; bring it back from a backup"
            )


def of_model(path: Path, account: Account) -> Iterator[Difference]:
    """Yield how the model in service is not the one that the log names.

    A run makes it again from its checkpoint.
    """
    served = account.served
    if served is None:
        return
    says = f"the audit log says that the model of round {served.round} is in service"
    try:
        if _digest(path) == served.sha256:
            return
        text = f"{path} is another model, and {says}"
    except FileNotFoundError:
        text = f"{path} is missing, and {says}"
    except OSError as error:
        text = f"{path} cannot be read ({error.strerror}), and {says}"
    yield Difference(text, _by_a_run if account.is_newest(SERVED) else None)


def _by_a_run() -> None:
    """Do nothing: only a run can make a model."""


def of_facts(path: Path, account: Account) -> Iterator[Difference]:
    """Yield how ``federation.json`` differs from what the log says was made.

    Raises
    ------
    FedNegError
        If the file cannot be understood.
    """
    found = read_facts(path)
    if found is None:
        if account.settings is not None and not account.is_newest(MADE):
            yield Difference(
                f"{path} is missing, and the audit log says that the federation was "
                "made; restore it"
            )
        return
    schema, facts = found
    if facts.id != account.federation:
        yield Difference(
            f"{path} is of federation {facts.id!r:.60}, and the audit log of "
            f"{account.federation}"
        )
    elif account.settings is None:
        yield Difference(f"{path} has no entry in the audit log")
    elif facts.fixed != account.settings:
        yield Difference(f"{path} has other settings than the audit log")
    told = asdict(facts)
    for name, value in account.made.items():
        if told[name] != value:
            yield Difference(
                f"{path} says {name}={told[name]!r:.80}, and the audit log "
                f"{value!r:.80}; restore it"
            )
    if schema != SCHEMA:
        if account.is_newest(MIGRATED):
            yield Difference(
                f"{path} is made to say that it is of schema {SCHEMA}",
                lambda: write_facts(path, facts),
            )
        else:
            yield Difference(
                f"{path} is of schema {schema}, and its log has entries of schema "
                f"{SCHEMA}; restore the file"
            )


# -- all of it -------------------------------------------------------------------------


def differences(
    folder: Path, keys: Path | None, account: Account, whole: Whole | None = None
) -> Iterator[Difference]:
    """Yield how a state folder differs from its log; for who only looks.

    Of a state of schema 1 there is nothing to compare before it is migrated. `keys` is
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
        checks = checks[:2]
    for differ in checks:
        try:
            yield from differ()
        except FedNegError as error:  # a file that is none of its kind
            yield Difference(str(error))


def of_ids(folder: Path, keys: Path | None, account: Account) -> Iterator[Difference]:
    """Yield how the ids of state, keys and log contradict each other."""
    keys = folder if keys is None else keys
    if not account.entries:
        yield Difference(f"{account.path} is empty", is_of_log=True)
    elif account.is_old and (read_id(folder) or read_id(keys)):
        yield Difference(
            f"{account.path} is an older log than that of federation "
            f"{read_id(folder) or read_id(keys)}; restore the newer one",
            is_of_log=True,
        )
    elif not account.is_old:
        contradiction = disagreement(folder, keys, account.federation)
        if contradiction:
            yield Difference(contradiction, is_of_log=True)


def of_keys(keys: Path | None, account: Account) -> Iterator[Difference]:
    """Yield how the log is older than what the keys know."""
    if keys is not None and account.entries:
        said = older_than(keys, account)
        if said:
            yield Difference(said, is_of_log=True)


def of_sealing(
    keys: Path | None, checkpoints: Checkpoints, account: Account
) -> Iterator[Difference]:
    """Yield the keys that are missing, and without which no run can go on."""
    if keys is not None:
        for text in missing_keys(keys, checkpoints, account):
            yield Difference(text)
