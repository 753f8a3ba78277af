"""The seam to Flower, server side: what `flwr run` starts, and what `fedneg` calls.

A run is told in fedneg/job.py, in the words of a `Federation` (fedneg/federation/).
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedneg.config import load_config, overrides_of_run_config, paths_in
from fedneg.core import outputs
from fedneg.core.errors import FedNegError
from fedneg.core.progress import Progress, show_notice
from fedneg.core.run_log import log_into
from fedneg.core.settings import Config
from fedneg.evaluation.judgement import Judgement
from fedneg.evaluation.looks import looks_of
from fedneg.federation import Federation
from fedneg.federation.looking import judge_models
from fedneg.federation.model_files import read_model_file
from fedneg.job import do_job
from fedneg.live.job import do_live_job
from fedneg.overrides import lasting

app = ServerApp()


def run(grid: Grid, config: Config, out: Path, notices: Sequence[str] = ()) -> None:
    """Do the main job with the clients behind a Grid; write everything into `out`."""
    do_job(lambda c, progress: Federation(grid, c, progress), config, out, notices)


def judge_files(
    grid: Grid, config: Config, files: Mapping[str, Path], rounds_after: int
) -> Judgement:
    """Return what is found of the models in files, by name.

    Raises
    ------
    FedNegError
        If one is no model of the task; before anything is trained.
    """
    rounds = config.rounds * looks_of(config.verdict)[0].models
    progress = Progress(f"fedneg judge: {', '.join(files)}", rounds)
    federation = Federation(grid, config, progress)
    progress.quality = federation.task.shown_quality
    layout, task = federation.prototype.layout, federation.task.name
    models = {name: read_model_file(p, layout, task) for name, p in files.items()}
    with progress:
        return judge_models(federation, models, rounds_after=rounds_after)


def live(
    grid: Grid, config: Config, overrides: Sequence[str], notices: Sequence[str] = ()
) -> None:
    """Let the federation in `config.state` live on with the clients behind a Grid."""
    do_live_job(
        lambda c, progress, hooks: Federation(grid, c, progress, hooks),
        config,
        lasting(overrides, data=config.data.name, root=config.data.root),
        notices,
    )


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Compose the configuration from Flower's run config and do the run."""
    # fedneg's own lines say what Flower's INFO would, in fewer words.
    logging.getLogger("flwr").setLevel(logging.WARNING)
    overrides = overrides_of_run_config(context.run_config)
    for key, path in paths_in(overrides).items():
        # As for `out`: relative to where the SuperLink was started, not to the user.
        if not path.is_absolute():
            raise FedNegError(f"{key} must be an absolute folder, got {str(path)!r}")
    config, notices = load_config(overrides)
    for notice in notices:
        show_notice(notice)
    given = str(context.run_config.get("out", ""))
    if config.state is not None:
        # It writes into its own folder; in `out`, if there is one, lies a log.
        with log_into(_output_folder(given)) if given else nullcontext():
            live(grid, config, overrides, notices)
        return
    out = _output_folder(given)
    with log_into(out):
        run(grid, config, out, notices)


def _output_folder(given: str) -> Path:
    """Return the folder for the results of a `flwr run`.

    The app runs where the SuperLink was started, not where `flwr run` was typed, so a
    relative folder would end up somewhere else and is refused.
    """
    if given and not Path(given).is_absolute():
        raise FedNegError(f"out must be an absolute folder, got {given!r}")
    now = datetime.now().strftime("%Y-%m-%d/%H-%M-%S-%f")
    out = outputs.prepare_folder(Path(given) if given else Path.cwd() / "outputs" / now)
    print(f"fedneg: results go to {out}", flush=True)
    return out
