"""How the sub-commands read their words: Typer's classes, with fedneg's errors.

Mistakes are `FedNegError`, in one line; help is plain text, as it goes through pipes.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import click
import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup
from typer.utils import get_params_from_function

from fedneg.core.errors import FedNegError
from fedneg.core.texts import did_you_mean

_NEGATIVE = re.compile(r"-\d+")
# Of a docstring, what is for programmers and not for users of the command.
_FOR_PROGRAMMERS = re.compile(r"\n\n(Parameters|Returns|Raises)\n-+\n.*", re.DOTALL)


class Command(TyperCommand):
    """A sub-command.

    Its epilog holds examples, one a line. An option whose metavar stands in brackets
    may go without a value, and then has an empty one. ``-3`` is a number, no option.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.help = _FOR_PROGRAMMERS.sub("", self.help or "")
        # Arguments of newer Clicks have a help, and make Typer's forget theirs.
        said = get_params_from_function(self.callback) if self.callback else {}
        for param in self.params:
            if isinstance(param, TyperArgument) and param.name in said:
                param.help = said[param.name].default.help

    def get_help(self, ctx: click.Context) -> str:
        """Return the help without the escapes that Typer writes for Rich."""
        return super().get_help(ctx).replace("\\[", "[")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Give an option that may go without a value an empty one."""
        optional = {
            name
            for param in self.params
            if isinstance(param, click.Option) and (param.metavar or "")[:1] == "["
            for name in param.opts
        }
        words = [
            f"{word}=" if word in optional and after[:1] == "-" else word
            for word, after in pairwise([*args, "-"])
        ]
        with _said_of(ctx):
            return super().parse_args(ctx, words)

    def make_parser(self, ctx: click.Context) -> Any:
        """Return a parser to which a negative number is no option."""
        parser = super().make_parser(ctx)
        process = parser._process_opts

        def process_opts(word: str, state: Any) -> None:
            if _NEGATIVE.fullmatch(word):
                state.largs.append(word)
            else:
                process(word, state)

        parser._process_opts = process_opts  # type: ignore[assignment]
        return parser

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what there is to know; newer Clicks would list arguments twice."""
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        self.format_options(ctx, formatter)
        self.format_epilog(ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples as they are, unwrapped."""
        if self.epilog:
            with formatter.section("Examples"):
                for line in self.epilog.splitlines():
                    formatter.write(f"  {line}\n")


class Group(TyperGroup):
    """A sub-command that is followed by one of several words."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse what is followed by no word."""
        if not args:
            raise self._refused(ctx)
        first = args[0]
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise self._refused(ctx, first) from error

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Refuse a word that is none of them, by name."""
        if args[0] not in self.list_commands(ctx):
            raise self._refused(ctx, args[0])
        return super().resolve_command(ctx, args)

    def _refused(self, ctx: click.Context, word: str | None = None) -> click.UsageError:
        """Return an error that says what may follow."""
        *most, last = self.list_commands(ctx)
        known = f"{', '.join(most)} or {last}" if most else last
        got = "" if word is None else f", got {word!r}"
        advice = did_you_mean(word or "", [*most, last])
        return click.UsageError(f"must be followed by {known}{got}{advice}", ctx)


@contextmanager
def _said_of(ctx: click.Context) -> Iterator[None]:
    """Let a mistake in an option say which command's it is; Click's parser does not."""
    try:
        yield
    except click.UsageError as error:
        error.ctx = error.ctx or ctx
        raise


def application(
    *, about: str | None = None, cls: type[TyperGroup] = Group
) -> typer.Typer:
    """Return an empty Typer application, for the commands of a module or a group."""
    return typer.Typer(
        cls=cls,
        help=about,
        rich_markup_mode=None,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def mistake_in(error: click.ClickException) -> FedNegError:
    """Return in one line what Click found wrong with the words."""
    ctx = error.ctx if isinstance(error, click.UsageError) else None
    where = ctx.command_path if ctx else "fedneg"
    if isinstance(error, click.NoSuchOption):
        known = (
            [name for param in ctx.command.params for name in param.opts] if ctx else []
        )
        what = f"unknown option {error.option_name}"
        what += did_you_mean(error.option_name, known)
    elif isinstance(error, click.MissingParameter):
        what = f"{_name(error.param)} is required"
    elif isinstance(error, click.BadParameter):
        what = f"{_name(error.param)} {error.message}"
    else:
        what = error.message[:1].lower() + error.message[1:].rstrip(".")
    return FedNegError(f"{where}: {what}")


def _name(param: click.Parameter | None) -> str:
    """Return how a user calls an option or an argument."""
    if isinstance(param, click.Option):
        return max(param.opts, key=len)
    return (param and (param.metavar or (param.name or "").upper())) or "a word"


# -- values ----------------------------------------------------------------------------


def days(text: str) -> float:
    """Return 30 for '30' and for '30d'; for Typer's `parser`."""
    try:
        found = float(text.removesuffix("d"))
    except ValueError:
        found = -1.0
    if not 0 <= found < math.inf:
        raise typer.BadParameter(f"must be a number of days, got {text!r}")
    return found


def whole_number(*, least: int | None = None) -> Callable[[str], int]:
    """Return a reader of whole numbers from `least` up; for Typer's `parser`."""

    def read(text: str | int) -> int:
        digits = str(text)
        if not re.fullmatch(r"-?\d+", digits) or (
            least is not None and int(digits) < least
        ):
            rule = "" if least is None else f", at least {least}"
            raise typer.BadParameter(f"must be a whole number{rule}, got {text!r}")
        return int(digits)

    return read


def one_of(allowed: Iterable[str]) -> Callable[[str], str]:
    """Return a reader of one of several words; for Typer's `parser`."""
    known = tuple(allowed)

    def read(text: str) -> str:
        if text not in known:
            raise typer.BadParameter(
                f"must be one of {', '.join(known)}, got {text!r}"
                + did_you_mean(text, known)
            )
        return text

    return read
