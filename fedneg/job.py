"""The main job, told top to bottom: train, forget, recover, retrain, report.

Also the paper's experiment. Both are told in the words of a `Federation`
(fedneg/federation/), and know nothing of how its clients are reached.
"""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedneg.core import outputs
from fedneg.core.formats import name_clients
from fedneg.core.parameters import Vector
from fedneg.core.progress import Progress, show_notice
from fedneg.core.samples import GONE
from fedneg.core.settings import Config
from fedneg.core.unanswered import notices_of
from fedneg.evaluation.decision import TOOK_NO_PART
from fedneg.evaluation.evidence import ModelEvidence
from fedneg.evaluation.judgement import Judgement
from fedneg.evaluation.looks import looks_of
from fedneg.federation.looking import train_references
from fedneg.reports.console import show_summary
from fedneg.reports.paper.measure import measure, planned_rounds
from fedneg.reports.paper.report import show_paper_summary, write_paper_report
from fedneg.reports.run.notices import notices_of_absent, notices_of_empty_rounds
from fedneg.reports.run.results import RunRecord
from fedneg.reports.run.writing import write_run

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
    progress = Progress(_title(config), _planned_rounds(config))
    # Before anything is shown: missing data should be the only thing said.
    federation = make_federation(config, progress)
    progress.quality = federation.task.shown_quality
    outputs.remove_results(out)
    run = Run(federation, out)
    with progress:
        run.train()
        if config.forget:
            run.forget()
            run.recover()
            run.go_on()
            if config.reference:
                run.retrain()
        notices = run.notices(notices)
        judgement = run.judgement if config.forget else None
        results, shown = write_run(out, run.record(), judgement, notices, progress)
        federation.close()
    for notice in notices:
        show_notice(notice)
    show_summary(results, str(shown))


class Run:
    """A run's models: each trained, saved, measured, and shown to the judge.

    Parameters
    ----------
    federation : Federation
    out : Path
        The folder for the models.

    Attributes
    ----------
    models : dict of str to ModelEvidence
        What was measured of each, by name.
    judgement : Judgement
    """

    def __init__(self, federation: "Federation", out: Path) -> None:
        self.federation, self.config, self.out = federation, federation.config, out
        self.models: dict[str, ModelEvidence] = {}
        self.judgement = Judgement(self.config, federation.test, federation.question)
        # The model in hand, and whose updates are in it or in those it was made from.
        self._model: Vector = federation.initial
        self._took_part: set[int] = set()
        # Its rounds beyond the training's.
        self._after = 0
        self._ledger_bytes = self._server_bytes = 0
        self._absent: list[str] = []

    def train(self) -> None:
        """Train the original model, with every client."""
        federation = self.federation
        self._model = federation.train()
        self._took_part = federation.took_part
        self._keep("original", self._model, self._took_part)
        self._ledger_bytes = federation.strategy.ledger.num_bytes
        self._server_bytes = federation.strategy.server_bytes

    def forget(self) -> None:
        """Make the unlearned model of the original one."""
        federation, original = self.federation, self._model
        absent = self.judgement.absent
        if absent:
            federation.progress.step(f"{name_clients(absent)} {TOOK_NO_PART}")
        self._model = federation.unlearn(original, self.config.forget)
        self._took_part = self._took_part | self._with_what_went()
        self._after = self._rounds_of_method()
        self._keep("unlearned", self._model, self._took_part, self._after)
        changed = bool((self._model != original).any())
        self._absent = notices_of_absent(self.judgement, changed=changed)

    def recover(self) -> None:
        """Make the recovered model of the unlearned one, as `retrain` asks."""
        federation, config = self.federation, self.config
        if config.retrain == "none":
            return
        if config.retrain == "scratch":
            self._model = federation.retrain(config.remaining, recovery=True)
            self._took_part, self._after = self._with_what_went(), 0
        else:
            # The paper's section 4.2 retrains on the removed data itself, without
            # FedAvg: a round with one client is local SGD. Several removed clients are
            # averaged.
            again = config.retrain == "remaining"
            self._model = federation.recover(
                self._model,
                config.remaining if again else config.forget,
                config.retrain_rounds,
                forget=config.forget,
            )
            self._took_part = self._took_part | self._with_what_went()
            self._after += config.retrain_rounds if again else 0
        self._keep("recovered", self._model, self._took_part, self._after)

    def go_on(self) -> None:
        """Let those who stay train on, if the model is to be judged again later."""
        later = self.config.verdict.later
        if not later:
            return
        self.federation.progress.step("training on, to judge the model again")
        models = self.federation.go_on(self._model, self.config.remaining, later)
        for rounds, model in models.items():
            self.judgement.add_later(rounds, model)

    def _with_what_went(self) -> set[int]:
        """Return who took part, in the lineage now, with what was to be forgotten.

        Of whom some examples are to go, took part with the rest from then on.
        """
        config, took_part = self.config, self.federation.took_part
        if config.forget_samples and config.retrain != "forgotten":
            return took_part - set(config.forget)
        return took_part

    def _rounds_of_method(self) -> int:
        """Return how many rounds beyond the training's the unlearned model has had."""
        strategy, config = self.federation.strategy, self.config
        reports = [r for r in strategy.reports if r.phase == "unlearn"]
        leaving = set() if config.forget_samples else set(config.forget)
        ran = sum(
            report.part != GONE and bool(set(report.metrics) - leaving)
            for report in reports
        )
        return strategy.rounds_beyond(ran, config.rounds)

    def retrain(self) -> None:
        """Train the gold standard, and its like with other seeds."""
        federation, remaining = self.federation, self.config.remaining
        if self.config.retrain == "scratch":
            self._recovered_is_retrained()
        else:
            retrained = federation.retrain(remaining)
            self._keep("retrained", retrained, self._with_what_went())
        train_references(federation, self.judgement)

    def _recovered_is_retrained(self) -> None:
        """Call the recovered model, from scratch, the retrained one too."""
        self.models["retrained"] = found = self.models["recovered"]
        self.judgement.add("retrained", self._model, found, trained_by=self._took_part)
        self.federation.save(self.out / "model_retrained.safetensors", self._model)
        self.federation.seconds["retrain"] = self.federation.seconds["recover"]

    def _keep(
        self,
        name: str,
        parameters: Vector,
        took_part: Collection[int],
        rounds_after: int = 0,
    ) -> None:
        """Save and measure a model, and show it to the judge."""
        self.federation.save(self.out / f"model_{name}.safetensors", parameters)
        self.models[name] = found = self.federation.evaluate(name, parameters)
        if self.config.forget:
            self.judgement.add(
                name,
                parameters,
                found,
                trained_by=took_part,
                rounds_after=rounds_after,
            )

    def notices(self, given: Sequence[str] = ()) -> list[str]:
        """Return what a user must not miss; `given` are those from before the run."""
        federation = self.federation
        report = federation.strategy.method_report
        return [
            *self._absent,
            *given,
            *federation.notices,
            *notices_of_empty_rounds(federation.strategy.reports),
            *notices_of_empty_rounds(federation.reference_reports),
            *notices_of(federation.unanswered),
            *([report["notice"]] if "notice" in report else []),
        ]

    def record(self) -> RunRecord:
        """Return what the run has found."""
        federation = self.federation
        return RunRecord(
            config=self.config,
            task=federation.task,
            test_examples=federation.test.num_examples,
            models=self.models,
            history=federation.history,
            reports=[*federation.strategy.reports, *federation.reference_reports],
            method_report=federation.strategy.method_report,
            seconds=federation.seconds,
            ledger_bytes=self._ledger_bytes,
            server_bytes=self._server_bytes,
            reused=federation.reused,
            resumed=federation.resumed,
            unanswered=federation.unanswered,
            num_forgotten=federation.num_forgotten,
        )


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


def _planned_rounds(config: Config) -> int:
    """Return how many rounds a run will have, for the time left."""
    if not config.forget:
        return config.rounds
    after = {"none": 0, "scratch": config.rounds}.get(
        config.retrain, config.retrain_rounds
    )
    after += max(config.verdict.later, default=0)
    references = 0
    if config.reference:
        references = looks_of(config.verdict)[0].models + (config.retrain != "scratch")
    return config.rounds + 1 + after + config.rounds * references


def _title(config: Config) -> str:
    forget = ", ".join(map(str, config.forget)) or "nobody"
    if config.forget_samples:
        forget = f"examples of {forget}"
    what = config.task or config.data.name
    return (
        f"fedneg: {what}, {config.clients} clients, seed {config.seed}, forget {forget}"
    )
