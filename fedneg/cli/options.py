"""Options that several sub-commands have, with the same words of help."""

from pathlib import Path
from typing import Annotated

import typer

from fedneg.cli.parsing import whole_number

StateOption = Annotated[
    Path, typer.Option("--state", metavar="DIR", help="The federation's folder.")
]
KeysOption = Annotated[
    Path | None,
    typer.Option("--keys", metavar="DIR", help="Its keys; by default DIR-keys."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="For machines.")]
ClientArgument = Annotated[
    int,
    typer.Argument(parser=whole_number(), metavar="CLIENT", help="Its client id."),
]
