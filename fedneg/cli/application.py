"""One Typer application: every sub-command, imported when it is called and not before.

`fedneg --help` imports none of them, and `fedneg audit ..` only that of `audit`.
"""

import sys
from collections.abc import Sequence
from importlib import import_module

import click
import typer

from fedneg.cli.commands import COMMANDS, main_help
from fedneg.cli.parsing import Group, application, mistake_in


class _Commands(Group):
    """The sub-commands by name, each found in its module's own application."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        commands = typer.main.get_group(import_module(COMMANDS[cmd_name]).app)
        return commands.get_command(ctx, cmd_name)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write(main_help())


app = application(cls=_Commands)


@app.callback()
def _fedneg() -> None:
    """Only its sub-commands do anything; `fedneg key=value` is Hydra's."""


def run(words: Sequence[str]) -> None:
    """Do what the words after `fedneg` say, the first of which is a sub-command.

    Parameters
    ----------
    words : sequence of str
        Such as ``["audit", "--state", "DIR"]``.

    Raises
    ------
    FedNegError
        For words that mean nothing, and for whatever the sub-command refuses.
    """
    command = typer.main.get_command(app)
    try:
        with command.make_context("fedneg", list(words)) as context:
            command.invoke(context)
    except click.exceptions.Exit as end:
        if end.exit_code:
            sys.exit(end.exit_code)
    except click.ClickException as error:
        raise mistake_in(error) from None
