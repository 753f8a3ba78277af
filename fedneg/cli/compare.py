"""`fedneg compare [key=value,value ..]`: all methods side by side, as a Hydra sweep.

conf/compare.yaml is the comparison; what is said on the command line replaces its lines
one by one. Everything else is Hydra's: jobs, folders, and the page at the end.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import click
import typer

from fedneg.cli.parsing import Command, application
from fedneg.cli.run import run_hydra
from fedneg.core.errors import FedNegError
from fedneg.core.settings import methods
from fedneg.overrides import key_of, sweep_of

EXAMPLES = """\
fedneg compare data=digits seed=0,1                  another data set, two seeds
fedneg compare strategy=compensated,fine_tune        two methods
fedneg compare clients=100 strategy.client_fraction=0.1 attack=canaries
fedneg compare hydra.sweep.dir=DIR                   where the runs go
fedneg compare DIR                                   their page again"""


class _Compare(Command):
    """Shows in its help what is swept by default."""

    def format_options(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        super().format_options(ctx, formatter)
        with formatter.section("Swept by default (conf/compare.yaml)"):
            for key, value in _defaults().items():
                formatter.write(f"  {key}={value}\n")


app = application()


@app.command(
    "compare",
    cls=_Compare,
    epilog=EXAMPLES,
    # Hydra's ~key and what is misspelt are told apart below.
    context_settings={"ignore_unknown_options": True},
)
def compare(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[key=value,value ..] | DIR",
            help="What to sweep; or a folder of runs that are there already.",
        ),
    ] = None,
) -> None:
    """Compare forgetting methods side by side, in a page.

    Trains every federation once, forgets with every method, judges each against models
    retrained without the client, and writes comparison.html and comparison.csv beside
    the runs. Of a DIR, it writes the page of the runs that lie below it already.

    Raises
    ------
    FedNegError
        If a word is no override, or a folder has no runs in it.
    """
    folder = folder_in(words or [])
    if folder is not None:
        # Imports what draws; nobody who asks for help waits for it.
        from fedneg.cli.callback import write_page

        write_page(folder)
        return
    sys.argv[1:] = compare_arguments(words or [])
    run_hydra(comparing=True)


def compare_arguments(words: Sequence[str]) -> list[str]:
    """Return the command line of the sweep; all methods of a setting stand together.

    Raises
    ------
    FedNegError
        If a word is no override.
    """
    sweep = {key: f"{key}={value}" for key, value in _defaults().items()}
    strategy = sweep.pop("strategy")
    for word in words:
        try:
            key = key_of(word)
        except FedNegError:
            key = ""
        if word.startswith("--config-dir"):
            raise FedNegError(
                "fedneg compare takes no options, got --config-dir; "
                "hydra.searchpath=[DIR] is the same"
            )
        if not key or word.startswith(("-", "~")):
            raise FedNegError(
                "fedneg compare takes overrides, key=value or key=value,value, or one "
                f"folder of runs, got {word!r}"
            )
        if key == "strategy":
            strategy = word
        else:
            sweep[key] = word
    if "forget_samples" in sweep:
        if not any(key_of(word) == "forget" for word in words):
            del sweep["forget"]  # whose examples they are is said
        if not any(key_of(word) == "strategy" for word in words):
            # Imports what trains; only this needs it.
            from fedneg.strategies import strategy_class

            able = [m for m in methods() if strategy_class(m).forgets_samples]
            strategy = f"strategy={','.join(able)}"
    # The last varies fastest.
    return ["-m", *sweep.values(), strategy]


def folder_in(words: Sequence[str]) -> Path | None:
    """Return the folder of runs that is asked for; None if a sweep is.

    Raises
    ------
    FedNegError
        If it is a folder without any run in it.
    """
    if len(words) != 1 or not Path(words[0]).is_dir():
        return None
    folder = Path(words[0])
    if next(folder.rglob("results.json"), None) is None:
        raise FedNegError(f"{folder} has no results.json of any run below it")
    return folder


def _defaults() -> dict[str, str]:
    """Return the sweep: conf/compare.yaml, and every method."""
    return sweep_of("compare") | {"strategy": ",".join(methods())}
