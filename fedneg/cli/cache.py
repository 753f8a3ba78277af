"""`fedneg cache`: the trainings that are kept, and how to be rid of them."""

import time
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedneg.cli.parsing import Command, application, days
from fedneg.core.formats import human_bytes
from fedneg.ledger.training_cache import Entry, Store

DAY_S = 86_400.0


app = application()
cache = application(about="Trainings that fedneg keeps in $FEDNEG_CACHE and reuses.")
app.add_typer(cache, name="cache")


@cache.command("list", cls=Command, epilog="fedneg cache list")
def list_kept() -> None:
    """Show what is kept, and how large it is."""
    _show(Store(), Console())


@cache.command("prune", cls=Command, epilog="fedneg cache prune --older-than 30d")
def prune(
    older_than: Annotated[
        float,
        typer.Option(
            parser=days,
            metavar="DAYS",
            help="Only what was last used longer ago, e.g. 30d.",
        ),
    ] = "0",  # type: ignore[assignment]  # read as if it had been typed
) -> None:
    """Remove trainings that nobody is using."""
    _prune(Store(), older_than_s=older_than * DAY_S)


def _show(store: Store, console: Console) -> None:
    entries = store.entries()
    if not entries:
        print(f"nothing is kept in {store.root}")
        return
    table = Table(title=Text(str(store.root)), title_justify="left")
    for heading in ("training", "what", "rounds", "size", "last used"):
        table.add_column(heading, justify="right" if heading == "size" else "left")
    total = 0
    for entry in entries:
        size = entry.num_bytes()
        total += size
        table.add_row(
            entry.digest[:12], *_description(entry), human_bytes(size), _age(entry)
        )
    console.print(table, markup=False)
    print(f"{len(entries)} trainings, {human_bytes(total)}")


def _description(entry: Entry) -> tuple[str, str]:
    """Return what an entry is, and how far it came."""
    done = entry.checkpoints().rounds()
    try:
        found = entry.identity()
        rounds = f"{done[-1] if done else 0} of {found['rounds']}"
        if "after" in found:
            forgotten = ", ".join(map(str, found["forget"]))
            return f"recovery after forgetting {forgotten}", rounds
        away = sorted(set(range(found["clients"])) - set(found["taking_part"]))
        without = f" without {', '.join(map(str, away))}" if len(away) < 6 else ""
        attack = found["attack"]["name"]
        what = (
            f"{found['data']['name']}, {found['clients']} clients"
            f"{without if away else ''}, seed {found['seed']}"
            + (f", {attack}" if attack != "none" else "")
        )
    except (OSError, ValueError, KeyError, TypeError):
        return "its identity.json cannot be read", str(done[-1] if done else 0)
    return what, rounds


def _age(entry: Entry) -> str:
    try:
        seconds = time.time() - entry.last_used()
    except OSError:
        return "never"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min ago"
    if seconds < 2 * DAY_S:
        return f"{seconds / 3600:.0f} h ago"
    return f"{seconds / DAY_S:.0f} days ago"


def _prune(store: Store, *, older_than_s: float) -> None:
    """Remove entries, and say which are in use."""
    removed, freed = 0, 0
    for entry in store.entries():
        try:
            if time.time() - entry.last_used() < older_than_s:
                continue
        except OSError:  # never used: no lock was ever made
            pass
        try:
            with entry.locked():
                freed += entry.num_bytes()
                entry.remove()
                removed += 1
        except BlockingIOError:
            print(f"{entry.digest[:12]} is in use and stays")
    print(f"removed {removed} trainings, {human_bytes(freed)}")
