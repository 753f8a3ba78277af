"""The verdict on models of somebody's own app, by what its served nodes answer.

    found = verdicts(
        strategy, grid, task,
        original=original, models={"recovered": arrays}, retrained=references,
    )
    found["recovered"].outcome

The judge is the app's (`fedneg.evaluation.judgement`); here its questions are asked of
a served app. A retrained model is one that `start()` returns after `reset()`: who was
forgotten stays out. Each wants initial arrays of its own, and as many rounds as the
original had.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from flwr.app import ArrayRecord
from flwr.serverapp import Grid

from fedneg.config import load_config
from fedneg.core.data_settings import AttackSettings
from fedneg.core.errors import FedNegError
from fedneg.core.parameters import Vector, digest_of_model, flatten
from fedneg.core.verdict_settings import VerdictSettings
from fedneg.evaluation.client_answers import ClientAnswers
from fedneg.evaluation.evidence import ModelEvidence, ServerTest
from fedneg.evaluation.judgement import Judgement, Setting
from fedneg.evaluation.verdict import Verdict
from fedneg.forgettable.strategy import Forgettable
from fedneg.serving.asking import ORDER, Asking
from fedneg.serving.models import load_model
from fedneg.tasks.calls import Metrics
from fedneg.tasks.layout import layout_of, read_model
from fedneg.tasks.prototype import Prototype
from fedneg.tasks.task import Order, Task

ORIGINAL, RETRAINED = "original", "retrained"


def verdicts(
    strategy: Forgettable,
    grid: Grid,
    task: Task,
    *,
    original: ArrayRecord,
    models: Mapping[str, ArrayRecord],
    retrained: Sequence[ArrayRecord],
    order: Order | None = None,
    settings: VerdictSettings | None = None,
) -> dict[str, Verdict]:
    """Return the verdict on each model, and on the original and the first retrained.

    These two are controls: the original should be 'not forgotten' and the retrained one
    'forgotten', else the evidence has no power here.

    Parameters
    ----------
    strategy : Forgettable
        Whose forgotten clients are asked; their nodes must be online.
    task : Task
        The one that the ClientApp was served with. Models are measured on its `test`;
        without one, on what the clients that stay test on.
    original : ArrayRecord
        Before anybody was forgotten.
    models : mapping of str to ArrayRecord
        What is judged, by names such as 'unlearned' and 'recovered'.
    retrained : sequence of ArrayRecord
        Models that were trained without the forgotten clients; the judge wants three,
        each from initial arrays of its own.
    order : Order, optional
        How a client trains, to see how soon a model learns again what was forgotten.
        Without it that is not measured.
    settings : VerdictSettings, optional
        By default those of conf/verdict.

    Raises
    ------
    FedNegError
        If nobody was forgotten, a name is taken, an array is none of the task's model,
        or a function of the task fails here.
    """
    if not strategy.forgotten:
        raise FedNegError("nobody was forgotten: there is nothing to judge")
    for name in models:
        if name in (ORIGINAL, RETRAINED):
            raise FedNegError(f"a model that is judged may not be called {name}")
    defaults, _ = load_config(["data=digits"])  # whose data are not read
    chosen = settings or defaults.verdict
    if order is None:
        chosen = replace(chosen, relearn_cap=0)
    asking = Asking(strategy, grid, order=order or ORDER)
    room = _Models(task, strategy, asking, chosen)
    setting = Setting(
        seed=(order or ORDER).seed,
        clients=len(strategy.clients),
        forget=strategy.forgotten,
        verdict=chosen,
        attack=defaults.attack,
    )
    test = (
        _ClientsTest(task, defaults.attack, room)
        if task.test is None
        else ServerTest(Prototype(task), defaults.attack)
    )
    judgement = Judgement(setting, test, room.ask)
    named = {ORIGINAL: original, **models}
    if retrained:
        named[RETRAINED] = retrained[0]
    for name, arrays in named.items():
        vector = room.vector(arrays)
        found = ModelEvidence(name, test.measure(vector), None, {})
        judgement.add(name, vector, found, trained_by=strategy.forgotten)
    for number, arrays in enumerate(retrained[1:], 1):
        judgement.add_retrained(f"{RETRAINED} {number}", room.vector(arrays))
    return {name: judgement.judge(name) for name in named}


class _Models:
    """Models of a served app, as the judge knows them: a vector in the task's order."""

    def __init__(
        self,
        task: Task,
        strategy: Forgettable,
        asking: Asking,
        settings: VerdictSettings,
    ) -> None:
        self._task, self._strategy, self.asking = task, strategy, asking
        self._settings = settings
        self._records: dict[str, ArrayRecord] = {}

    def vector(self, arrays: ArrayRecord) -> Vector:
        """Return a model as a vector; from now on clients can be asked about it."""
        model = load_model(self._task, arrays)
        found = flatten(read_model(layout_of(model), model))
        self._records[digest_of_model(found)] = arrays
        return found

    def arrays(self, vector: Vector) -> ArrayRecord:
        """Return a model as it came."""
        return self._records[digest_of_model(vector)]

    def ask(
        self, vector: Vector, targets: Mapping[int, float] | None
    ) -> Mapping[int, ClientAnswers]:
        """Return what the forgotten clients say of a model."""
        return self.asking.answers(
            self._strategy.forgotten,
            self.arrays(vector),
            targets=targets,
            relearn_cap=max(1, self._settings.relearn_cap),
            check_every=self._settings.relearn_every,
        )

    def measure(self, vector: Vector) -> Metrics:
        """Return quality and loss on what the clients that stay test on."""
        stay = sorted(set(self.asking.online()) - set(self._strategy.forgotten))
        found = self.asking.measured(stay, self.arrays(vector)).values()
        total = int(sum(one["num_test"] for one in found))
        if not total:
            raise FedNegError(
                f"nobody measured a model of task {self._task.name}, which has no test "
                f"of the server's: {next(iter(self.asking.unanswered.values()), '')}"
            )
        quality, loss = (
            sum(one[f"test_{what}"] * one["num_test"] for one in found) / total
            for what in ("accuracy", "loss")
        )
        return Metrics(quality, loss, total)


class _ClientsTest(ServerTest):
    """What models are measured on where the server has nothing: what clients have."""

    def __init__(self, task: Task, attack: AttackSettings, models: _Models) -> None:
        # Of a model's outputs the clients tell nothing.
        super().__init__(Prototype(replace(task, outputs=None)), attack, parts=())
        self._models = models
        self._known: dict[str, Metrics] = {}

    def measure(self, parameters: Vector) -> Metrics:
        """Return quality and loss on what the clients that stay test on."""
        if not np.isfinite(parameters).all():
            return Metrics(0.0, math.inf, 0)
        digest = digest_of_model(parameters)
        if digest not in self._known:
            self._known[digest] = self._models.measure(parameters)
        return self._known[digest]
