"""The main job, told top to bottom: train, forget, recover, retrain, report.

Also the paper's experiment. Both are told in the words of a `Federation`
(fedneg/federation.py), and know nothing of how its clients are reached.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from fedneg import outputs
from fedneg.console import Progress, show_notice, show_summary
from fedneg.evidence import ModelEvidence
from fedneg.paper.measure import measure, planned_rounds
from fedneg.paper.report import show_paper_summary, write_paper_report
from fedneg.parameters import Vector
from fedneg.report import write_report
from fedneg.results import clients_table, results_of
from fedneg.settings import Config
from fedneg.trial import Trial

if TYPE_CHECKING:
    from fedneg.federation import Federation

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
    trial = Trial(config, federation.test, federation.question)
    with progress:

        def keep(name: str, parameters: Vector) -> None:
            federation.save(out / f"model_{name}.safetensors", parameters)
            models[name] = federation.evaluate(name, parameters)
            if config.forget:
                trial.add(name, parameters, models[name])

        original = federation.train()
        keep("original", original)
        ledger_bytes = federation.strategy.ledger.num_bytes
        server_bytes = federation.strategy.server_bytes
        if config.forget:
            unlearned = federation.unlearn(original, config.forget)
            keep("unlearned", unlearned)
            recovered = _recover(federation, unlearned)
            if recovered is not None:
                keep("recovered", recovered)
            if config.reference:
                if config.retrain == "scratch" and recovered is not None:
                    models["retrained"] = models["recovered"]
                    trial.add("retrained", recovered, models["retrained"])
                    federation.save(out / "model_retrained.safetensors", recovered)
                    federation.seconds["retrain"] = federation.seconds["recover"]
                else:
                    keep("retrained", federation.retrain(config.remaining))
                for draw in range(1, config.verdict.retrainings + 1):
                    progress.step(f"retraining with another seed ({draw})")
                    again = federation.retrain_again(config.remaining, draw)
                    trial.add_retrained(f"retrained with seed {draw}", again)
        notices = [*notices, *federation.notices, *_empty_rounds(federation)]
        if "notice" in federation.strategy.method_report:
            notices.append(federation.strategy.method_report["notice"])
        if config.forget:
            progress.step("judging")
        results = results_of(
            config,
            dataset=federation.dataset,
            models=models,
            trial=trial if config.forget else None,
            strategy=federation.strategy,
            history=federation.history,
            seconds=federation.seconds,
            ledger_bytes=ledger_bytes,
            server_bytes=server_bytes,
            reused=federation.reused,
            resumed=federation.resumed,
            notices=notices,
        )
        history = pd.DataFrame(federation.history)
        clients = clients_table(models, config.forget)
        outputs.write_csv(out / "history.csv", history)
        outputs.write_csv(out / "clients.csv", clients)
        outputs.write_json(out / "results.json", results)
        shown = out / "results.json"
        if config.report:
            progress.step("writing the report")
            shown = write_report(out, results, history, clients)
        federation.close()
    for notice in notices:
        show_notice(notice)
    show_summary(results, str(shown))


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
