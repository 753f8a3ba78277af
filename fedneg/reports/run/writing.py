"""Write what a run has found: tables and results, judged, and the report.

What was trained and measured is on the disk before anybody judges it, and stays there
whatever happens then.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd

from fedneg.core import outputs
from fedneg.core.errors import FedNegError
from fedneg.core.exits import mistake_of
from fedneg.core.progress import Progress, show_error
from fedneg.core.quality import columns_told
from fedneg.evaluation.judgement import Judgement
from fedneg.reports.run.report import write_report
from fedneg.reports.run.results import (
    RunRecord,
    clients_table,
    later_table,
    results_of,
)

NOT_JUDGED = "the models were not judged: the run ended before that"


def write_run(
    out: Path,
    run: RunRecord,
    judgement: Judgement | None,
    notices: Sequence[str],
    progress: Progress,
) -> tuple[dict[str, Any], Path]:
    """Write history.csv, clients.csv, results.json and the report into a folder.

    And later.csv, where the model was judged again later.

    Parameters
    ----------
    out : Path
    run : RunRecord
    judgement : Judgement or None
        Who judges, now; None where nobody is forgotten.
    notices : sequence of str
    progress : Progress
        Told of each step.

    Returns
    -------
    dict, Path
        What results.json holds, and the file that people should open.

    Raises
    ------
    FedNegError
        If the folder cannot be written; or if judging or the report fails, by whatever
        is the user's to mend. Then results.json says so.
    """
    history, clients = pd.DataFrame(list(run.history)), clients_table(run)
    for name, table in (("history.csv", history), ("clients.csv", clients)):
        named = columns_told(table.columns, run.task.shown_quality)
        outputs.write_csv(out / name, table.rename(columns=named))
    shown = out / "results.json"
    not_yet = [] if judgement is None else [NOT_JUDGED]
    results = results_of(run, None, [*notices, *not_yet])
    outputs.write_json(shown, results)
    if judgement is not None:
        progress.step("judging")
        with _keeping_results("judging", shown, results):
            judged = results_of(run, judgement, notices)
            outputs.write_json(shown, judged)
            later = later_table(judged)
            if len(later):
                outputs.write_csv(out / "later.csv", later)
        results = judged
    if run.config.report:
        progress.step("writing the report")
        with _keeping_results("writing the report", shown, results):
            shown = write_report(out, results, history, clients)
    return results, shown


@contextmanager
def _keeping_results(
    what: str, path: Path, results: Mapping[str, Any]
) -> Iterator[None]:
    """Say in one line, there and in the results that stay, which step failed."""
    try:
        yield
    except Exception as error:
        reason = str(mistake_of(error) or repr(error))
        said = f"{what} failed: {' '.join(reason.split())}"
        notices = [n for n in results["notices"] if n != NOT_JUDGED]
        with suppress(OSError):
            outputs.write_json(path, {**results, "notices": [said, *notices]})
        said += f"; what was trained and measured is in {path.parent}"
        if isinstance(error, FedNegError | OSError):
            raise FedNegError(said) from error
        show_error(said)  # above the traceback of a defect
        raise
