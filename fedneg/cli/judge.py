"""`fedneg judge`: what anybody's models still hold of clients that are to be forgotten.

What is slow to import is imported where it is used.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer

from fedneg.cli.parsing import Command, application, whole_number
from fedneg.core.errors import FedNegError

if TYPE_CHECKING:
    from fedneg.core.settings import Config
    from fedneg.evaluation.judgement import Judgement

SUFFIX = ".safetensors"
SCHEMA = 1
EXAMPLES = """\
fedneg judge mine.safetensors data=digits forget=4 --rounds-after 2
fedneg judge a.safetensors b.safetensors --task mine:task forget=3 clients=8"""

app = application()


@app.command("judge", cls=Command, epilog=EXAMPLES)
def judge(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL.safetensors .. [key=value ..]",
            help="Models of the task, and the federation that they are of.",
        ),
    ] = None,
    models: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A model, too."),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="module:name",
            help="What the models are of, as task=module:name.",
        ),
    ] = None,
    rounds_after: Annotated[
        int,
        typer.Option(
            parser=whole_number(least=0),
            metavar="N",
            help="Rounds that the models had beyond those of the training, repair "
            "included.",
        ),
    ] = 0,
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="Where the findings go, as JSON.")
    ] = Path("judge.json"),
) -> None:
    """Judge models, made by any method, of the federation that key=value describe.

    Trains models of other seeds, with the clients that are to be forgotten and without
    them, or takes those that are kept; asks these clients and the test set about all,
    and prints a sentence a model. The models' arrays have the names of the task's
    state_dict.

    Raises
    ------
    FedNegError
        If a file is no model of the task, nobody is to be forgotten, or there are to
        be no references.
    """
    given = list(words or ())
    files = [*(models or ()), *(Path(w) for w in given if w.endswith(SUFFIX))]
    overrides = [word for word in given if not word.endswith(SUFFIX)]
    for word in overrides:
        if "=" not in word:
            raise FedNegError(
                f"fedneg judge takes models, *{SUFFIX}, and key=value, got {word!r}"
            )
    if task is not None:
        if any(word.startswith("task=") for word in overrides):
            raise FedNegError(
                f"fedneg judge takes one task, got --task {task} and task="
            )
        overrides.append(f"task={task}")
    if not files:
        raise click.UsageError(f"needs a model, *{SUFFIX}", click.get_current_context())
    named = {str(path): path for path in files}
    config, judgement = _judged(named, overrides, rounds_after)
    found = {name: judgement.judge(name) for name in named}
    for name, finding in found.items():
        print(f"{name}: {judgement.told(finding)['said']}")
    _write(out, config, judgement, rounds_after)
    print(f"findings: {out}")


def _judged(
    files: dict[str, Path], overrides: list[str], rounds_after: int
) -> tuple["Config", "Judgement"]:
    """Return the configuration, and what was found of the models in files."""
    from dataclasses import replace

    from fedneg.config import load_config
    from fedneg.core.progress import show_notice
    from fedneg.engines.simulate import simulate
    from fedneg.evaluation.looks import FIRST_IN, FIRST_OUT
    from fedneg.server_app import judge_files

    config, notices = load_config(overrides, folder=Path.cwd())
    if not config.forget or config.state is not None or config.experiment:
        raise FedNegError(
            "fedneg judge needs forget to name clients, and neither state nor "
            f"experiment, got forget={list(config.forget)}"
        )
    if not config.reference or config.verdict.later:
        raise FedNegError(
            "fedneg judge judges models beside references, and as they are: it takes "
            f"neither reference=false nor verdict.later, got reference="
            f"{str(config.reference).lower()} and verdict.later="
            f"{list(config.verdict.later)}"
        )
    if config.retrain != "none":
        raise FedNegError(
            "fedneg judge is told by --rounds-after how many rounds models had beyond "
            "those of the training, repair included, and takes no "
            f"retrain={config.retrain}"
        )
    for notice in notices:
        show_notice(notice)
    fewest = FIRST_IN + FIRST_OUT
    if config.verdict.references < fewest:
        show_notice(
            f"residual influence takes at least {fewest} retrainings, got verdict."
            f"retrainings={config.verdict.references}: nothing can be told of it"
        )
    # What is only shown of a run's models is not asked for.
    verdict = replace(config.verdict, relearn_cap=0)
    config = replace(config, verdict=verdict)
    made: list[Judgement] = []
    simulate(
        lambda grid, _: made.append(judge_files(grid, config, files, rounds_after)),
        clients=config.clients,
        engine=config.engine,
    )
    return config, made[0]


def _write(
    out: Path, config: "Config", judgement: "Judgement", rounds_after: int
) -> None:
    """Write judge.json."""
    from fedneg.core.outputs import write_json
    from fedneg.core.version import __version__

    values: dict[str, Any] = {
        "schema": SCHEMA,
        "fedneg_version": __version__,
        "forget": list(config.forget),
        "rounds_after": rounds_after,
        "retrainings": judgement.references,
        "models": {
            name: judgement.told(judgement.judge(name)) for name in judgement.models
        },
        "config": config.to_mapping(),
    }
    try:
        write_json(out, json.loads(json.dumps(values)))
    except OSError as error:
        raise FedNegError(f"{out} cannot be written: {error.strerror}") from None
