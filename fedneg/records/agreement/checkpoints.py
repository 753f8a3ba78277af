"""Checkpoints, held to the log: which there may be, and what is in them."""

from collections.abc import Callable, Iterator

from fedneg.core.errors import FedNegError
from fedneg.core.files import remove
from fedneg.core.parameters import digest_of_model
from fedneg.ledger.checkpoint import Checkpoints
from fedneg.ledger.checkpoint_files import DamagedCheckpointError
from fedneg.records.account import ENDED, KEPT, PURGING, ROLLBACK, Account
from fedneg.records.agreement.difference import Difference
from fedneg.records.kept import Kept
from fedneg.records.requests import UNLEARNED


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
            kept = Kept.read(checkpoints, number)
        except DamagedCheckpointError:
            continue  # `restore` says so, and does not use it
        gone = sorted(set(kept.contains) & account.forgotten)
        if _is_known(account, number, kept.model) and not gone:
            good += 1
        else:
            strangers.append((number, gone))
    # Nobody is told to remove the only one there is.
    remedy = "remove it" if good else "bring a later one from a backup"
    for number, gone in strangers:
        stem = checkpoints.stem(number)
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
        elif event == PURGING and number != place:
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
        stem = self.checkpoints.stem(number)
        try:
            self.checkpoints.verify(number)
            if not known or (account.settings or {}).get("encrypt"):
                return ""  # `of_checkpoints` names it; only who has the keys reads it
            rows = self.checkpoints.rows(number, -1)
            if digest_of_model(rows["global"]) not in known:
                return f"{stem} holds another model than the audit log says"
        except FedNegError as error:
            return str(error)
        return ""


def of_whole(whole: Whole, account: Account) -> Iterator[Difference]:
    """Yield checkpoints that are missing or damaged, and numbers that no head names.

    For who only looks: a run goes back to the one before, and says so.
    """
    checkpoints, standing = whole.checkpoints, account.standing
    there = checkpoints.rounds()
    if standing is not None and standing not in there:
        yield Difference(
            f"{checkpoints.stem(standing)}.json is missing, and the "
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
        except FedNegError:
            continue  # who looks and who restores say so
        if not same:
            yield Difference(
                f"{checkpoints.stem(number)} is not as the last run left it, by the "
                "audit log; bring it back from a backup"
            )
