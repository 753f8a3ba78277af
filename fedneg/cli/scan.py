"""`fedneg scan`: whether anything of what forgotten clients sent is left in files.

It ends with exit code 0 only if nothing is found and everything could be read.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from fedneg.cli.options import StateOption
from fedneg.cli.parsing import Command, application
from fedneg.core.errors import FedNegError
from fedneg.core.formats import human_bytes
from fedneg.core.reading import read_regular
from fedneg.core.texts import printable
from fedneg.records.scan import Match, ScanResult, scan
from fedneg.records.scan_windows import ScanWindow, loaded
from fedneg.records.walk import shown

# Of a list, so many are shown.
SHOWN = 12

app = application()


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
        print(f"followed {printable(shown(link))} to {printable(shown(target))}")
    if len(result.followed) > SHOWN:
        print(
            f"followed {len(result.followed) - SHOWN} more links out of what was named"
        )
    for path, why in result.not_searched[:SHOWN]:
        print(f"not searched: {printable(shown(path))} ({printable(why)})")
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
            print(f"  {printable(path)}")
        if len(paths) > SHOWN:
            print(f"  and {len(paths) - SHOWN} more")
