"""The command line: `fedneg [overrides]`, `fedneg request ...`, `fedneg up ...`.

Everything with an = is Hydra's; exit code 0 is success, 2 a user's mistake (one line on
stderr), 1 a defect of fedneg (a traceback), 130 an interrupt.
"""

import os
import sys

from fedneg.cli.commands import COMMANDS, HELP_OPTIONS, check_first_word
from fedneg.core.exits import one_line_errors, whole_output
from fedneg.core.texts import check_utf8
from fedneg.core.version import __version__

# These only read what they are given, and show its name with what is odd in it escaped.
ANY_NAME = ("scan", "vacuum", "verify")


@whole_output()
def main() -> None:
    """Run the command line."""
    words = sys.argv[1:]
    with one_line_errors():
        if words and words[0] not in ANY_NAME:
            for word in words:
                check_utf8("a word of the command line", word)
        for name in ("FEDNEG_DATA", "FEDNEG_CACHE"):
            # Below where the command was typed, wherever a job or a worker may work.
            if os.environ.get(name):
                os.environ[name] = os.path.abspath(os.environ[name])
        if "--version" in words:
            print(f"fedneg {__version__}")
        elif words[:1] and words[0] in COMMANDS:
            from fedneg.cli.application import run

            run(words)
        elif set(HELP_OPTIONS) & set(words):
            from fedneg.cli.application import run

            run(["--help"])
        else:
            from fedneg.cli.run import run_hydra

            check_first_word(words)
            run_hydra()


if __name__ == "__main__":
    main()
