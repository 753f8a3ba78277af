"""`fedneg compare [key=value,value ..]`: all methods side by side, as a Hydra sweep.

conf/compare.yaml is the comparison; what is said on the command line replaces its lines
one by one. Everything else is Hydra's: jobs, folders, and the page at the end.
"""

from collections.abc import Sequence
from pathlib import Path

from fedneg.config import methods, sweep_of
from fedneg.core.errors import FedNegError
from fedneg.overrides import key_of

HELP = """\
fedneg compare [key=value,value ..]: forgetting methods side by side
fedneg compare DIR:                  the page of runs that lie below DIR already

Trains every federation once, forgets with every method, judges each against models
retrained without the client, and writes comparison.html and comparison.csv beside the
runs. What is swept, unless the command line says otherwise (conf/compare.yaml):

{defaults}

  fedneg compare data=digits seed=0,1                  another data set, two seeds
  fedneg compare strategy=compensated,fine_tune        two methods
  fedneg compare clients=100 strategy.client_fraction=0.1 attack=canaries
  fedneg compare hydra.sweep.dir=DIR                   where the runs go"""


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
        if not key or word.startswith(("-", "~")):
            raise FedNegError(
                "fedneg compare takes overrides, key=value or key=value,value, or one "
                f"folder of runs, got {word!r}"
            )
        if key == "strategy":
            strategy = word
        else:
            sweep[key] = word
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


def write_page(folder: Path) -> None:
    """Write the comparison of the runs below a folder, and say where."""
    from fedneg.reports.compare.page import write_comparison  # imports matplotlib

    _table, page = write_comparison(folder)
    print(f"comparison: {page.resolve()}")


def compare_help() -> str:
    """Return what `fedneg compare --help` says."""
    lines = "\n".join(f"  {key}={value}" for key, value in _defaults().items())
    return HELP.format(defaults=lines)


def _defaults() -> dict[str, str]:
    """Return the sweep: conf/compare.yaml, and every method."""
    return sweep_of("compare") | {"strategy": ",".join(methods())}
