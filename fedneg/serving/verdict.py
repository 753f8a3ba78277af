"""The verdict on models of somebody's own app, by what its served nodes answer.

    compared = references(strategy, grid, make_initial, num_rounds=7)
    found = verdicts(
        strategy, grid, task,
        original=original, models={"repaired": arrays},
        retrained=compared.retrained, trained_with=compared.trained_with,
    )
    print(found["repaired"])

The judge is `fedneg.judge`; what it is shown are the losses of the forgotten clients'
training examples, which their nodes answer with.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import chain

import numpy as np
from flwr.app import ArrayRecord
from flwr.serverapp import Grid

from fedneg.core.errors import FedNegError
from fedneg.core.formats import name_clients
from fedneg.evaluation.acquittal import MARGINS, check_bounds
from fedneg.evaluation.influence import MIN_OUT
from fedneg.evaluation.judge import Finding, judge
from fedneg.evaluation.seen import Seen
from fedneg.forgettable.strategy import Forgettable
from fedneg.serving.asking import TIMEOUT_S, Asking
from fedneg.serving.models import load_model
from fedneg.tasks import calls
from fedneg.tasks.task import Task

ORIGINAL, RETRAINED = "original", "retrained"


def verdicts(
    strategy: Forgettable,
    grid: Grid,
    task: Task,
    *,
    original: ArrayRecord,
    models: Mapping[str, ArrayRecord],
    retrained: Sequence[ArrayRecord],
    trained_with: Sequence[ArrayRecord] = (),
    clients: Collection[int] | None = None,
    alpha: float = 0.05,
    margins: tuple[float, float] = MARGINS,
    timeout: float = TIMEOUT_S,
) -> dict[str, Finding]:
    """Return what each model still holds of the forgotten clients.

    With two controls: the original should be 'not forgotten', else the clients teach
    too little here to be seen; and the first retrained model, judged by the others,
    should not be 'not forgotten'.

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
        What is judged, by names such as 'unlearned' and 'repaired'.
    retrained : sequence of ArrayRecord
        Trained without the forgotten clients, at least 3: each from initial arrays of
        its own, and in as many rounds as the judged models had, their repair included.
        Of exactly 3 none is judged: the other two could not tell.
    trained_with : sequence of ArrayRecord
        Trained by everybody, from other initial arrays than the original: at least 1.
        `fedneg.serving.references.references` trains both.
    clients : collection of int, optional
        Of whom; by default of all that were forgotten.
    alpha, margins
        As of `fedneg.judge`.
    timeout : float
        How long an answer is waited for, seconds.

    Returns
    -------
    dict of str to Finding
        By the models' names, 'original' before them and 'retrained' after.

    Raises
    ------
    FedNegError
        If nobody was forgotten, there are too few models to compare with, a name is
        taken, an array is none of the task's model, a client answers about none of
        them, or a function of the task fails here.
    """
    out = _asked(strategy, clients)
    if len(retrained) < MIN_OUT or not trained_with:
        raise FedNegError(
            f"at least {MIN_OUT} retrained models and 1 that was trained with the "
            f"forgotten clients are compared with, got {len(retrained)} and "
            f"{len(trained_with)}: fedneg.serving.references trains them"
        )
    for name in models:
        if name in (ORIGINAL, RETRAINED):
            raise FedNegError(f"a model that is judged may not be called {name}")
    try:
        check_bounds(alpha, margins)
    except ValueError as error:
        raise FedNegError(str(error)) from None
    looking = _Looking(task, strategy, Asking(strategy, grid, timeout=timeout), out)
    ins = [looking.seen(arrays) for arrays in trained_with]
    outs = [looking.seen(arrays) for arrays in retrained]
    judged = {
        name: looking.seen(arrays)
        for name, arrays in {ORIGINAL: original, **models}.items()
    }
    everything = chain(ins, outs, judged.values())
    silent = sorted(set(out) - {k for one in everything for k in one.losses})
    if silent:
        # Else the others would be acquitted in their name.
        why = looking.asking.unanswered.get(silent[0], "")
        raise FedNegError(
            f"{name_clients(silent)} answered about no model ({why}): let their nodes "
            "be online, or say in clients= of whom the verdict is"
        )
    found = {
        name: judge(
            one,
            trained_with=ins,
            trained_without=outs,
            alpha=alpha,
            margins=margins,
        )
        for name, one in judged.items()
    }
    if len(outs) > MIN_OUT:
        found[RETRAINED] = judge(
            outs[0],
            trained_with=ins,
            trained_without=outs[1:],
            alpha=alpha,
            margins=margins,
        )
    return found


def _asked(strategy: Forgettable, clients: Collection[int] | None) -> tuple[int, ...]:
    """Return the clients of whom the verdict is."""
    if not strategy.forgotten:
        raise FedNegError("nobody was forgotten: there is nothing to judge")
    if clients is None:
        return strategy.forgotten
    unknown = sorted(set(clients) - set(strategy.forgotten))
    if unknown or not clients:
        raise FedNegError(
            f"clients must be some of those that were forgotten, "
            f"{name_clients(strategy.forgotten)}, got {sorted(clients)}"
        )
    return tuple(sorted(set(clients)))


class _Looking:
    """What is seen of a served app's models, by clients that were forgotten."""

    def __init__(
        self,
        task: Task,
        strategy: Forgettable,
        asking: Asking,
        clients: Collection[int],
    ) -> None:
        self._task, self._strategy, self._clients = task, strategy, clients
        self.asking = asking
        self._test = None if task.test is None else calls.test_of(task)

    def seen(self, arrays: ArrayRecord) -> Seen:
        """Return what the judge is shown of a model."""
        return self.asking.seen(self._clients, arrays, quality=self._quality(arrays))

    def _quality(self, arrays: ArrayRecord) -> float:
        """Return it on the task's test, or on what the clients that stay test on."""
        model = load_model(self._task, arrays)
        if not all(np.isfinite(one).all() for one in arrays.to_numpy_ndarrays()):
            return 0.0
        if self._test is not None:
            return calls.measure(self._task, model, self._test).accuracy
        stay = sorted(set(self.asking.online()) - set(self._strategy.forgotten))
        found = self.asking.measured(stay, arrays).values()
        total = int(sum(one["num_test"] for one in found))
        if not total:
            raise FedNegError(
                f"nobody measured a model of task {self._task.name}, which has no test "
                f"of the server's: {next(iter(self.asking.unanswered.values()), '')}"
            )
        return sum(one["test_accuracy"] * one["num_test"] for one in found) / total
