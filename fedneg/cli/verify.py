"""`fedneg verify`: check a receipt, with nothing but the operator's public key."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer

from fedneg.cli.parsing import Command, application
from fedneg.core.formats import plain
from fedneg.core.texts import printable
from fedneg.records.receipts import isolation_in_words, read_receipt
from fedneg.records.signing import load_public

# A list in a receipt is shown to so many items.
SHOWN = 12

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
    if words := isolation_in_words(receipt):
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
        yield printable(name), printable(_text(value))


def _text(value: object) -> str:
    """Return a value that is not nested as a reader wants it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        shown = ", ".join(_text(v) for v in value[:SHOWN])
        return shown + (f", ... ({len(value)} in all)" if len(value) > SHOWN else "")
    return plain(value)
