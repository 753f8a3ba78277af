"""`fedneg verify`, `fedneg audit`, `fedneg scan`: what anybody can check afterwards.

Each ends with exit code 0 only if all that it read holds; otherwise with one line that
names the first thing that does not.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from fedneg.cli.parsing import Command, application
from fedneg.core.errors import FedNegError
from fedneg.core.formats import human_bytes, plain
from fedneg.core.reading import read_regular
from fedneg.records.account import Account
from fedneg.records.agreement.folder import lasting_differences
from fedneg.records.audit import AuditCheck, check
from fedneg.records.identity import LOG_NAME
from fedneg.records.receipts import read_receipt, words_on_isolation
from fedneg.records.scan import Match, ScanResult, scan
from fedneg.records.scan_windows import ScanWindow, loaded
from fedneg.records.signing import (
    PRIVATE_NAME,
    PUBLIC_NAME,
    PublicKey,
    keys_folder,
    load_public,
)
from fedneg.records.strangers import strangers
from fedneg.records.walk import shown

# A list in a receipt is shown to so many items, and files of one client likewise.
SHOWN = 12

StateOption = Annotated[
    Path, typer.Option(metavar="DIR", help="The federation's folder.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="For other programs.")]

app = application()


@app.command(
    "verify", cls=Command, epilog="fedneg verify forget-2.json --key operator.pub"
)
def verify(
    receipt_path: Annotated[
        Path, typer.Argument(metavar="RECEIPT.json", help="A request's receipt.")
    ],
    key: Annotated[
        Path,
        typer.Option(
            metavar="operator.pub",
            help="The operator's public key, from a source that you trust.",
        ),
    ],
) -> None:
    """Check a receipt and show what it says.

    Raises
    ------
    FedNegError
        If the receipt is not what the owner of the key signed.
    """
    public = load_public(key)
    receipt = read_receipt(receipt_path, public)
    rows = list(_rows(receipt))
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        print(f"{name:<{width}}  {value}".rstrip())
    if words := words_on_isolation(receipt):
        print(words)
    print(f"the signature is good: made by key {public.digest}")


def _rows(value: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield name and text of everything in a nested value, in its order."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _rows(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and any(isinstance(v, list | dict) for v in value):
        for number, inner in enumerate(value):
            yield from _rows(inner, f"{name}[{number}]")
    else:
        yield _printable(name), _printable(_text(value))


def _text(value: object) -> str:
    """Return a value that is not nested as a reader wants it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        shown = ", ".join(_text(v) for v in value[:SHOWN])
        return shown + (f", ... ({len(value)} in all)" if len(value) > SHOWN else "")
    return plain(value)


def _printable(text: str) -> str:
    """Return text without what would move the cursor or colour the terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


# -- audit ----------------------------------------------------------------------------


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
    public = _public(key, folder)
    log = state / LOG_NAME
    # Files first: what the log has beyond them is newer, and no contradiction.
    receipts, problems = _receipts(state / "receipts", public)
    account = Account(log, public)
    found = check(
        log,
        public,
        head=head,
        wanted=set(receipts.values()),
        each=account.enter,
    )
    alone: list[str] = []
    others: list[str] = []
    if found.broken is not None:
        # What stands behind a broken entry is unknown, and no receipt's fault.
        first = f"entry {found.broken.number} of {log} is broken: {found.broken.what}"
        problems.insert(0, first)
    elif not found.entries:
        # By an empty log every file is wrong, and none of them is to blame.
        problems = [f"the log {log} is empty; restore it from a backup"]
    else:
        # Who brings the public key need not be let into the keys' folder.
        searched = None if key and not keys else folder
        differences = lasting_differences(state, searched, account)
        # The log's own first: by another log its receipts are wrong, too.
        wrong = [d for d in differences if d.complete is None]
        problems[:0] = [d.text for d in wrong if d.is_of_log]
        problems += [d.text for d in wrong if not d.is_of_log]
        problems += [
            f"{path} names entry {digest}, which is not in {log}"
            for path, digest in receipts.items()
            if digest in found.missing
        ]
        alone = [d.text for d in differences if d.complete is not None]
        for stranger in strangers(state, account):
            path = _printable(shown(stranger.path))
            if stranger.fault:
                problems.append(f"{path} {stranger.fault}")
            elif stranger.goes:
                alone.append(f"{path} is removed: a kill left it half-written")
            else:
                others.append(path)
    if as_json:
        told = _as_json(found, len(receipts), problems, alone)
        print(json.dumps({**told, "strangers": others}))
    else:
        print(f"whole entries: {found.entries}, the last one is {found.head}")
        print(f"good receipts: {len(receipts)}, signed with key {public.digest}")
        for text in alone:
            print(f"to be completed by the next start: {text}")
        for path in others[:SHOWN]:
            print(f"none of fedneg's files: {path}")
        if len(others) > SHOWN:
            print(f"none of fedneg's files: {len(others) - SHOWN} more")
    if problems:
        more = f"; and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise FedNegError(problems[0] + more)


def _public(given: Path | None, folder: Path) -> PublicKey:
    """Return the key that is given, or else that in the keys' folder."""
    path = folder / PUBLIC_NAME
    if given is None and not path.exists() and (folder / PRIVATE_NAME).exists():
        raise FedNegError(
            f"{path} is missing; the next run makes it again from {PRIVATE_NAME}, or "
            "name a copy with --key"
        )
    return load_public(given or path)


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


def _as_json(
    found: AuditCheck, receipts: int, problems: list[str], alone: list[str]
) -> dict[str, Any]:
    return {
        "entries": found.entries,
        "head": found.head,
        "broken": asdict(found.broken) if found.broken else None,
        "receipts": receipts,
        "problems": problems,
        "to_be_completed": alone,
    }


# -- scan -----------------------------------------------------------------------------


@app.command("scan", cls=Command, epilog="fedneg scan --state DIR /backups")
def scan_files(
    state: StateOption,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[PATH ..]", help="Also there, e.g. backups."),
    ] = None,
) -> None:
    """Look for what forgotten clients sent, in every byte of all files.

    Raises
    ------
    FedNegError
        If anything of a forgotten client is found, or not everything could be read.
    """
    wanted = _wanted(state / "fingerprints")
    if not wanted:
        return
    result = scan([state, *(paths or [])], wanted)
    for link, target in result.followed[:SHOWN]:
        print(f"followed {_printable(shown(link))} to {_printable(shown(target))}")
    if len(result.followed) > SHOWN:
        print(
            f"followed {len(result.followed) - SHOWN} more links out of what was named"
        )
    for path, why in result.not_searched[:SHOWN]:
        print(f"not searched: {_printable(shown(path))} ({_printable(why)})")
    if len(result.not_searched) > SHOWN:
        print(f"not searched: {len(result.not_searched) - SHOWN} more")
    print(
        f"read {result.files} files, {human_bytes(result.bytes)}, for {len(wanted)} "
        "scan windows"
    )
    _show_matches(result, wanted)
    if result.matches:
        first = result.matches[0]
        raise FedNegError(
            f"{first.path} holds, at byte {first.offset}, what {first.name} sent"
        )


def _wanted(folder: Path) -> list[ScanWindow]:
    """Return the scan windows of all files, each named for its client and request.

    None at all only if none of the clients ever took part: it is said so.
    """
    found, absent = [], 0
    paths = sorted(folder.glob("[!.]*.json"))
    for path in paths:
        try:
            client_id, made, took_part = loaded(read_regular(path))
            whose = f"client {client_id} (forget-{client_id})"
        except OSError as error:
            raise FedNegError(f"{path} cannot be read: {error.strerror}") from None
        except ValueError:
            raise FedNegError(
                f"{path} must hold a client, a request and their scan windows; it is "
                "damaged"
            ) from None
        if not made and not took_part:
            absent += 1
            print(
                f"{whose} has no scan windows: it took part in no round, there is "
                "nothing to look for"
            )
        elif not made:
            print(f"{whose} has no scan windows: nothing that was sent is telling")
        found += [replace(f, name=whose) for f in made]
    if not found and not (paths and absent == len(paths)):
        raise FedNegError(
            f"{folder} holds no scan windows; nothing was looked for, and nothing read"
        )
    return found


def _show_matches(result: ScanResult, wanted: Sequence[ScanWindow]) -> None:
    """Print for each client what was found, and where."""
    by_name: dict[str, list[Match]] = {f.name: [] for f in wanted}
    for match in result.matches:
        by_name[match.name].append(match)
    for name, matches in by_name.items():
        paths = sorted({os.fspath(match.path) for match in matches})
        print(f"{name}: {len(matches)} matches in {len(paths)} files")
        for path in paths[:SHOWN]:
            print(f"  {_printable(path)}")
        if len(paths) > SHOWN:
            print(f"  and {len(paths) - SHOWN} more")
