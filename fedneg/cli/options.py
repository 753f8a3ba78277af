"""Options that several sub-commands have, with the same words of help."""

from pathlib import Path
from typing import Annotated

import typer

StateOption = Annotated[
    Path, typer.Option("--state", metavar="DIR", help="The federation's folder.")
]
KeysOption = Annotated[
    Path | None,
    typer.Option("--keys", metavar="DIR", help="Its keys; by default DIR-keys."),
]
