"""A run, or a sweep: everything with an =, which is Hydra's.

What is slow to import (torch, Flower, Hydra: two seconds) is imported where it is
used, so that the workers can start before it.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedneg.core.errors import FedNegError
from fedneg.core.exits import MISTAKE, fail, is_of_disk, mistake_of, one_line_errors
from fedneg.core.machine import cores
from fedneg.core.settings import conf_dir, methods
from fedneg.engines.releases import flower_release
from fedneg.engines.workers import warm_up


def _job(_: Any) -> None:
    """Do one run, in the folder that Hydra made for it."""
    from fedneg.core.run_log import log_failure

    try:
        _run()
    except BaseException as error:
        mistake = mistake_of(error)
        log_failure(error)
        if isinstance(error, Exception):
            _fail_job(error, mistake)
            return
        raise


def _fail_job(error: Exception, mistake: FedNegError | None) -> None:
    """End a run that failed, or only this job of a sweep.

    A mistake that all jobs have in common was found before the first one
    (`fedneg.cli.callback`). A full disk is theirs in common too: it ends the sweep.
    """
    from fedneg.cli.callback import PROCESS

    sweep = PROCESS.sweep
    if sweep is None:
        if mistake is None:
            raise error
        fail(mistake)
    said = str(mistake or f"a defect, {error!r}")
    sweep.reason = f"it failed: {' '.join(said.split())}"
    job = sweep.jobs.jobs[-1]
    print(f"fedneg: error: job {job.folder}: {said}", file=sys.stderr)
    if mistake is None:
        sweep.defects += 1
        traceback.print_exception(error)
    if is_of_disk(error):
        sweep.jobs.end(sweep.folder, sweep.reason)
        sys.exit(MISTAKE)


def _run() -> None:
    """Do what the current job's overrides ask for."""
    from hydra.core.hydra_config import HydraConfig

    from fedneg.config import load_config
    from fedneg.core.outputs import prepare_folder
    from fedneg.core.progress import show_notice
    from fedneg.engines.simulate import simulate
    from fedneg.overrides import search_path
    from fedneg.server_app import live, run

    job = HydraConfig.get()
    overrides = [*search_path(job.overrides.hydra), *job.overrides.task]
    # With hydra.job.chdir=true this is not the working directory any more.
    config, notices = load_config(overrides, folder=Path(job.runtime.cwd))
    out = prepare_folder(Path(job.runtime.output_dir))
    for notice in notices:
        show_notice(notice)

    def work(grid: Any, context: Any) -> None:
        if config.state is None:
            run(grid, config, out, notices)
        else:
            live(grid, config, overrides, notices)

    simulate(
        work,
        clients=config.clients,
        engine=config.engine,
    )


def uses_workers(arguments: Sequence[str]) -> bool:
    """Return whether this will be a run, or a sweep, with engine=local by default.

    A guess, made before Hydra is there to read them: to start no workers is slower, and
    never wrong, so that any mention of an engine is taken for another one.
    """
    runs = all(a in ("-m", "--multirun") for a in arguments if a[:1] == "-")
    return runs and not any("engine" in a for a in arguments)


def run_hydra(*, comparing: bool = False) -> None:
    """Do what the overrides on the command line ask for."""
    flower_release()
    if uses_workers(sys.argv[1:]):
        warm_up(cores())
    import hydra

    from fedneg.overrides import command_line, extended, hydra_errors

    # Hydra prints its errors and exits with 1 unless told to raise them.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    entry = hydra.main(
        version_base="1.3", config_path=str(conf_dir()), config_name="config"
    )(_job)
    with one_line_errors(), hydra_errors():
        sys.argv[1:] = extended(command_line(sys.argv[1:]))
        _offer_methods([word for word in sys.argv[1:] if word[:1] != "-"])
        try:
            entry()
        finally:
            code = _finish_sweep(comparing=comparing)
    if code:
        sys.exit(code)


def _offer_methods(overrides: Sequence[str]) -> None:
    """Find methods that conf/ does not have: Hydra must know them to begin."""
    from fedneg.overrides import chosen

    if set(chosen(overrides, "strategy")) - set(methods()):
        from fedneg.config import offer_methods  # imports torch

        offer_methods(overrides, Path.cwd())


def _finish_sweep(*, comparing: bool) -> int:
    """Write the table of a sweep, if there was one; return its jobs' exit code."""
    if "fedneg.cli.callback" not in sys.modules:
        return 0
    from fedneg.cli.callback import PROCESS, finish_sweep

    sweep, PROCESS.sweep = PROCESS.sweep, None
    if sweep is None or not sweep.jobs.jobs:  # no job came so far as to begin
        return 0
    finish_sweep(sweep.folder, comparing=comparing)
    failed = sweep.jobs.failed
    if failed:
        names = ", ".join(job.folder for job in failed)
        print(
            f"fedneg: error: {len(failed)} of {sweep.jobs.planned} jobs left no "
            f"results: {names}",
            file=sys.stderr,
        )
    return 1 if sweep.defects else MISTAKE if failed else 0
