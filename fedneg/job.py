"""The main job, told top to bottom: train, forget, recover, retrain, report.

Also the paper's experiment. Both are told in the words of a `Federation`
(fedneg/federation/), and know nothing of how its clients are reached.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from fedneg.core import outputs
from fedneg.core.errors import FedNegError
from fedneg.core.exits import mistake_of
from fedneg.core.formats import name_clients
from fedneg.core.parameters import Vector
from fedneg.core.progress import Progress, show_error, show_notice
from fedneg.core.settings import Config
from fedneg.core.unanswered import notices_of
from fedneg.evaluation.evidence import ModelEvidence
from fedneg.evaluation.judgement import Judgement
from fedneg.evaluation.verdict import TOOK_NO_PART
from fedneg.reports.console import show_summary
from fedneg.reports.paper.measure import measure, planned_rounds
from fedneg.reports.paper.report import show_paper_summary, write_paper_report
from fedneg.reports.run.report import write_report
from fedneg.reports.run.results import RunRecord, clients_table, results_of

if TYPE_CHECKING:
    from fedneg.federation import Federation

NOT_JUDGED = "the models were not judged: the run ended before that"
MakeFederation = Callable[[Config, Progress], "Federation"]


def do_job(
    make_federation: MakeFederation,
    config: Config,
    out: Path,
    notices: Sequence[str] = (),
) -> None:
    """Train, forget, recover, retrain as configured; write everything into `out`."""
    if config.experiment == "paper":
        _do_paper(make_federation, config, out, notices)
        return
    models: dict[str, ModelEvidence] = {}
    progress = Progress(_title(config), _planned_rounds(config))
    # Before anything is shown: missing data should be the only thing said.
    federation = make_federation(config, progress)
    outputs.remove_results(out)
    judgement = Judgement(config, federation.test, federation.question)
    with progress:

        def keep(name: str, parameters: Vector, took_part: Collection[int]) -> None:
            federation.save(out / f"model_{name}.safetensors", parameters)
            models[name] = federation.evaluate(name, parameters)
            if config.forget:
                judgement.add(name, parameters, models[name], trained_by=took_part)

        original = federation.train()
        took_part = federation.took_part
        keep("original", original, took_part)
        ledger_bytes = federation.strategy.ledger.num_bytes
        server_bytes = federation.strategy.server_bytes
        if config.forget:
            if judgement.absent:
                progress.step(f"{name_clients(judgement.absent)} {TOOK_NO_PART}")
            unlearned = federation.unlearn(original, config.forget)
            took_part = took_part | federation.took_part
            keep("unlearned", unlearned, took_part)
            notices = [
                *_absent(judgement, changed=bool((unlearned != original).any())),
                *notices,
            ]
            recovered = _recover(federation, unlearned)
            if recovered is not None:
                if config.retrain == "scratch":
                    took_part = set()
                took_part = took_part | federation.took_part
                keep("recovered", recovered, took_part)
            if config.reference:
                if config.retrain == "scratch" and recovered is not None:
                    models["retrained"] = models["recovered"]
                    judgement.add(
                        *("retrained", recovered, models["retrained"]),
                        trained_by=took_part,
                    )
                    federation.save(out / "model_retrained.safetensors", recovered)
                    federation.seconds["retrain"] = federation.seconds["recover"]
                else:
                    retrained = federation.retrain(config.remaining)
                    keep("retrained", retrained, federation.took_part)
                for draw in range(1, config.verdict.retrainings + 1):
                    progress.step(f"retraining with another seed ({draw})")
                    again = federation.retrain_again(config.remaining, draw)
                    judgement.add_retrained(f"retrained with seed {draw}", again)
        notices = [*notices, *federation.notices, *_empty_rounds(federation)]
        notices += notices_of(federation.unanswered)
        if "notice" in federation.strategy.method_report:
            notices.append(federation.strategy.method_report["notice"])
        record = RunRecord(
            config=config,
            dataset=federation.dataset,
            models=models,
            history=federation.history,
            reports=federation.strategy.reports,
            method_report=federation.strategy.method_report,
            seconds=federation.seconds,
            ledger_bytes=ledger_bytes,
            server_bytes=server_bytes,
            reused=federation.reused,
            resumed=federation.resumed,
            unanswered=federation.unanswered,
        )
        history, clients = pd.DataFrame(federation.history), clients_table(record)
        outputs.write_csv(out / "history.csv", history)
        outputs.write_csv(out / "clients.csv", clients)
        shown = out / "results.json"
        # What was trained and measured is on the disk before anybody judges it.
        not_yet = [NOT_JUDGED] if config.forget else []
        results = results_of(record, None, [*notices, *not_yet])
        outputs.write_json(shown, results)
        if config.forget:
            progress.step("judging")
            with _keeping_results("judging", shown, results):
                judged = results_of(record, judgement, notices)
                outputs.write_json(shown, judged)
            results = judged
        if config.report:
            progress.step("writing the report")
            with _keeping_results("writing the report", shown, results):
                shown = write_report(out, results, history, clients)
        federation.close()
    for notice in notices:
        show_notice(notice)
    show_summary(results, str(shown))


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


def _absent(judgement: Judgement, *, changed: bool) -> list[str]:
    """Return a notice of the clients to forget that are in no model."""
    absent = judgement.absent
    if not absent:
        return []
    said = f"{name_clients(absent)} {TOOK_NO_PART}"
    if len(absent) < len(judgement.config.forget):
        return [
            f"{said}: nothing of {_them(absent)} is in the model; judged are the others"
        ]
    return [
        f"{said}: nothing of {_them(absent)} is in the model, and there was nothing to "
        "forget" + ("; the method changed the model all the same" if changed else "")
    ]


def _them(clients: Sequence[int]) -> str:
    return "it" if len(clients) == 1 else "them"


def _do_paper(
    make_federation: MakeFederation,
    config: Config,
    out: Path,
    notices: Sequence[str],
) -> None:
    """Reproduce the paper's tables and figures; write them into `out`."""
    with Progress("fedneg: the paper", planned_rounds(config)) as progress:
        measured = measure(
            config, lambda variant: make_federation(variant, progress), progress
        )
        progress.step("writing the report")
        report = write_paper_report(out, config, measured, notices)
    for notice in notices:
        show_notice(notice)
    show_paper_summary(measured, str(report))


def _recover(federation: "Federation", unlearned: Vector) -> Vector | None:
    """Return the model after what `retrain` asks, or None for none."""
    config = federation.config
    if config.retrain == "none":
        return None
    if config.retrain == "scratch":
        return federation.retrain(config.remaining, recovery=True)
    # The paper's section 4.2 retrains on the removed data itself, without FedAvg: a
    # round with one client is local SGD. Several removed clients are averaged.
    clients = config.remaining if config.retrain == "remaining" else config.forget
    return federation.recover(
        unlearned, clients, config.retrain_rounds, forget=config.forget
    )


def _empty_rounds(federation: "Federation") -> list[str]:
    """Return a notice for every round that nobody's reply survived."""
    return [
        f"round {report.server_round} ({report.phase}): no usable reply from any "
        "client; the model stayed as it was"
        for report in federation.strategy.reports
        if report.phase != "unlearn" and report.clients == 0
    ]


def _planned_rounds(config: Config) -> int:
    """Return how many rounds a run will have, for the time left."""
    if not config.forget:
        return config.rounds
    after = {"none": 0, "scratch": config.rounds}.get(
        config.retrain, config.retrain_rounds
    )
    references = 0
    if config.reference:
        references = config.verdict.retrainings + (config.retrain != "scratch")
    return config.rounds + 1 + after + config.rounds * references


def _title(config: Config) -> str:
    forget = ", ".join(map(str, config.forget)) or "nobody"
    return (
        f"fedneg: {config.data.name}, {config.clients} clients, seed {config.seed}, "
        f"forget {forget}"
    )
