"""`fedneg audit`: the log of a federation, and every file in its folder held to it.

It ends with exit code 0 only if all that it read holds; otherwise with one line that
names the first thing that does not.
"""

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from fedneg.cli.options import StateOption
from fedneg.cli.parsing import Command, application
from fedneg.core.errors import FedNegError
from fedneg.core.texts import printable
from fedneg.records.account import Account
from fedneg.records.agreement.folder import lasting_differences
from fedneg.records.audit import AuditCheck, check
from fedneg.records.identity import LOG_NAME, has_not_begun, is_new
from fedneg.records.receipts import read_receipt
from fedneg.records.signing import (
    PRIVATE_NAME,
    PUBLIC_NAME,
    PublicKey,
    keys_folder,
    load_public,
)
from fedneg.records.strangers import lasting_strangers
from fedneg.records.walk import shown

# Of a list, so many are shown.
SHOWN = 12

app = application()


def _digest(text: str) -> str:
    """Return a digest as the log writes it; for Typer's `parser`."""
    if not re.fullmatch("[0-9a-f]{64}", text.lower()):
        raise typer.BadParameter(f"must be 64 hexadecimal digits, got {text!r}")
    return text.lower()


@app.command("audit", cls=Command, epilog="fedneg audit --state DIR")
def audit(
    state: StateOption,
    key: Annotated[
        Path | None,
        typer.Option(metavar="operator.pub", help="By default that in --keys."),
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="By default DIR-keys, beside DIR."),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(
            parser=_digest,
            metavar="DIGEST",
            help="Of an entry, kept elsewhere: shows that the end was not cut off.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="For other programs.")
    ] = False,
) -> None:
    """Check the audit log of a federation, and hold every file in its folder to it.

    Receipts, requests, checkpoints, the model in service. A file that is none of
    fedneg's is named; it is a fault in a folder of fedneg's own, or if it is a file of
    arrays, an archive or a database. It only looks, and needs no right to write.

    Raises
    ------
    FedNegError
        For the first entry, or else the first file, that does not hold.
    """
    folder = keys or keys_folder(state)
    # Who brings the public key need not be let into the keys' folder.
    allowed = None if key and not keys else folder
    given = None if key is None else load_public(key)
    _refuse_unbegun(state, allowed, folder / PUBLIC_NAME)
    public = given or _public(folder)
    found = _audited(state, allowed, public, head)
    if as_json:
        print(json.dumps(found.to_json()))
    else:
        found.show(public)
    if found.problems:
        more = len(found.problems) - 1
        raise FedNegError(found.problems[0] + (f"; and {more} more" if more else ""))


@dataclass
class _Audit:
    """What an audit came to.

    Attributes
    ----------
    log : AuditCheck
    receipts : int
        How many are good.
    problems : list of str
        What does not hold; the first one is named.
    alone : list of str
        Acts that stand in the log alone: the next start completes them.
    others : list of str
        Paths of files that are none of fedneg's, and harmless.
    """

    log: AuditCheck
    receipts: int
    problems: list[str]
    alone: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return it for other programs."""
        return {
            "entries": self.log.entries,
            "head": self.log.head,
            "broken": asdict(self.log.broken) if self.log.broken else None,
            "receipts": self.receipts,
            "problems": self.problems,
            "to_be_completed": self.alone,
            "strangers": self.others,
        }

    def show(self, public: PublicKey) -> None:
        """Print it, but for the problems."""
        print(f"whole entries: {self.log.entries}, the last one is {self.log.head}")
        print(f"good receipts: {self.receipts}, signed with key {public.digest}")
        for text in self.alone:
            print(f"to be completed by the next start: {text}")
        for path in self.others[:SHOWN]:
            print(f"none of fedneg's files: {path}")
        if len(self.others) > SHOWN:
            print(f"none of fedneg's files: {len(self.others) - SHOWN} more")


def _audited(
    state: Path, keys: Path | None, public: PublicKey, head: str | None
) -> _Audit:
    """Return what the log, and the files beside it, come to."""
    log = state / LOG_NAME
    # Files first: what the log has beyond them is newer, and no contradiction.
    receipts, problems = _receipts(state / "receipts", public)
    account = Account(log, public)
    # It may begin just now: then the keys bear it once the log has its first entry.
    begins = keys is not None and has_not_begun(state, keys)
    checked = check(
        log, public, head=head, wanted=set(receipts.values()), each=account.enter
    )
    found = _Audit(checked, len(receipts), problems)
    if checked.unfinished:
        found.alone.append(
            f"{checked.unfinished} bytes at the end of {log} are cut off: a kill left "
            "an entry unfinished"
        )
    if checked.broken is not None:
        # What stands behind a broken entry is unknown, and no receipt's fault.
        broken = checked.broken
        problems.insert(0, f"entry {broken.number} of {log} is broken: {broken.what}")
    elif not checked.entries and begins:
        found.alone.append(
            f"{log} has no entry: a kill kept the federation from beginning"
        )
    elif not checked.entries:
        # By an empty log every file is wrong, and none of them is to blame.
        found.problems = [f"the log {log} is empty; restore it from a backup"]
    else:
        differing = lasting_differences(state, keys, account)
        # The log's own first: by another log its receipts are wrong, too.
        wrong = [d for d in differing if d.complete is None]
        problems[:0] = [d.text for d in wrong if d.is_of_log]
        problems += [d.text for d in wrong if not d.is_of_log]
        problems += [
            f"{path} names entry {digest}, which is not in {log}"
            for path, digest in receipts.items()
            if digest in checked.missing
        ]
        found.alone += [d.text for d in differing if d.complete is not None]
        _add_strangers(found, state, account)
    return found


def _add_strangers(found: _Audit, state: Path, account: Account) -> None:
    """Sort what is none of fedneg's into faults, half-written files and others."""
    for stranger in lasting_strangers(state, account):
        path = printable(shown(stranger.path))
        if stranger.fault:
            found.problems.append(f"{path} {stranger.fault}")
        elif stranger.goes:
            found.alone.append(f"{path} is removed: a kill left it half-written")
        else:
            found.others.append(path)


def _refuse_unbegun(state: Path, keys: Path | None, public: Path) -> None:
    """Raise FedNegError if there is nothing yet that could be audited.

    A kill may have come in the first second, or somebody named the wrong folder.
    """
    log = state / LOG_NAME
    missing = [p for p in (log, public) if (keys or p == log) and not p.exists()]
    if missing and (has_not_begun(state, keys) if keys else is_new(state)):
        raise FedNegError(
            f"no federation has begun in {state} yet: {missing[0]} is not there; a run "
            "with state=DIR begins one"
        )


def _public(folder: Path) -> PublicKey:
    """Return the key in the keys' folder."""
    path = folder / PUBLIC_NAME
    if not path.exists() and (folder / PRIVATE_NAME).exists():
        raise FedNegError(
            f"{path} is missing; the next run makes it again from {PRIVATE_NAME}, or "
            "name a copy with --key"
        )
    return load_public(path)


def _receipts(folder: Path, public: PublicKey) -> tuple[dict[Path, str], list[str]]:
    """Return the entry that each good receipt names, and what is wrong with others."""
    found, problems = {}, []
    # Hidden ones are what a killed writer left, and no receipts.
    for path in sorted(folder.glob("[!.]*.json")):
        try:
            digest = read_receipt(path, public).get("audit_entry")
        except FedNegError as error:
            problems.append(str(error))
            continue
        if isinstance(digest, str):
            found[path] = digest
        else:
            problems.append(f"{path} must name an entry as audit_entry, got {digest!r}")
    return found, problems
