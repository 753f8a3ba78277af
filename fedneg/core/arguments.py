"""Arguments of the sub-commands: one parser whose errors are fedneg's, and units."""

import argparse
import math
import re
import sys
from collections.abc import Callable
from typing import Any

from fedneg.core.errors import FedNegError


class OneLineParser(argparse.ArgumentParser):
    """An argument parser that raises FedNegError, in one line."""

    def print_help(self, file: Any = None) -> None:
        """Print the help; what keeps it from going out is raised, not passed over."""
        (file or sys.stdout).write(self.format_help())

    def error(self, message: str) -> Any:
        """Raise what argparse found wrong."""
        raise FedNegError(f"{self.prog}: {message}")


def days(text: str) -> float:
    """Return 30 for '30' and for '30d'; for argparse's `type`."""
    try:
        found = float(text.removesuffix("d"))
    except ValueError:
        found = -1.0
    if not 0 <= found < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of days, got {text!r}")
    return found


def whole_number(*, least: int) -> Callable[[str], int]:
    """Return a reader of whole numbers from `least` up; for argparse's `type`."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(
                f"must be a whole number, at least {least}, got {text!r}"
            )
        return int(text)

    return read


def quoted(text: str) -> str:
    """Return a text as a value that Hydra reads as it is, whatever is in it."""
    escaped = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + "\\" * bool(m[2]) + m[2], text)
    return f"'{escaped}'"
