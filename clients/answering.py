"""The client that answers what a model knows of data that only this client has.

`Answering` does it, of whatever task and data; `AnsweringClient` is fedneg's own.
"""

import copy
from collections.abc import Sized
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedneg.clients.trainer import TrainingClient
from fedneg.core.errors import FedNegError
from fedneg.core.seeding import rng, seed_of, torch_generator
from fedneg.evaluation.client_answers import MAX_CHECKED, MAX_EXAMPLES, ClientAnswers
from fedneg.evaluation.relearn import (
    RelearnTime,
    Target,
    relearn_by_sgd,
    relearn_by_training,
)
from fedneg.tasks import calls
from fedneg.tasks.model import set_parameters
from fedneg.tasks.task import Order, Task
from fedneg.tasks.training import SGD, settings_of


@dataclass(frozen=True)
class Answering:
    """Answers how well a model knows what a client trained on, and what not.

    No stream depends on the round, so that every model is asked about the same examples
    and relearns them in the same batches.

    Attributes
    ----------
    task : Task
    client_id : int
        Keys the random streams.
    order : Order
        How this client trains; relearning does.
    seed : int
        Of the run.
    model : nn.Module
        The one that is asked about; on `order`'s device.
    trained : data
        All that this client trains on.
    members : data
        Of that, what membership is judged by.
    unseen : data
        What is like the members, and was not trained on.
    """

    task: Task
    client_id: int
    order: Order
    seed: int
    model: nn.Module
    trained: Sized
    members: Sized
    unseen: Sized

    def answer(
        self, *, relearn_target: float | None, relearn_cap: int, check_every: int
    ) -> ClientAnswers:
        """Return what this client finds of the model.

        Parameters
        ----------
        relearn_target : float or None
            The original's `check_loss`, nats; None: nothing is relearned.
        relearn_cap, check_every : int
            As `fedneg.evaluation.relearn.relearn_time`.

        Raises
        ------
        FedNegError
            If the model's answers are not finite, this client has no unseen examples,
            or a number to relearn by is not one.
        """
        try:
            whole = calls.measure(self.task, self.model, self.trained)
            # These names of random streams are older than the class: they stay, and
            # with them the examples that are drawn.
            members = self._confidence("witness members", self.members)
            unseen = self._confidence("witness unseen", self.unseen)
            return ClientAnswers(
                members=members,
                unseen=unseen,
                as_trained_accuracy=whole.accuracy,
                as_trained_loss=whole.loss,
                check_loss=self._check_loss(self.model),
                relearn=None
                if relearn_target is None
                else self._relearn(
                    Target("loss", relearn_target),
                    cap=relearn_cap,
                    check_every=check_every,
                ),
            )
        except ValueError as error:
            # What diverged is no evidence, and a NaN no number to send.
            raise FedNegError(
                f"client {self.client_id} cannot answer about this model: {error}"
            ) from None

    def drawn(self, purpose: str, count: int, most: int) -> NDArray[np.int64]:
        """Return the places of at most so many of `count` examples, in order.

        Drawn without replacement.
        """
        order = rng(self.seed, purpose, 0, self.client_id).permutation(count)
        places: NDArray[np.int64] = np.sort(order[:most])
        return places

    def _confidence(self, purpose: str, data: Sized) -> NDArray[np.float64]:
        """Return how sure the model is of some examples."""
        places = self.drawn(purpose, len(data), MAX_EXAMPLES)
        if not len(places):
            raise ValueError(f"there are no {purpose.split()[-1]} examples")
        take = self.task.extras.take
        if take is None:
            return calls.scores(self.task, self.model, data)[places]
        return calls.scores(self.task, self.model, take(data, places))

    def _check_loss(self, model: nn.Module) -> float:
        """Return a model's mean loss on what relearning is checked on."""
        places = self.drawn("relearn check", len(self.trained), MAX_CHECKED)
        take = self.task.extras.take
        if take is None:
            return float(calls.losses(self.task, model, self.trained)[places].mean())
        return calls.measure(self.task, model, take(self.trained, places)).loss

    def _relearn(self, target: Target, *, cap: int, check_every: int) -> RelearnTime:
        """Return how long the model takes to know again what this client trained."""
        sgd, order, seed = self.task.train, self.order, self.seed
        learner = copy.deepcopy(self.model)

        def as_good() -> bool:
            return target.met_by(self._check_loss(learner))

        if isinstance(sgd, SGD):
            return relearn_by_sgd(
                learner,
                sgd.rows(self.trained, torch.device(order.device)),
                settings=settings_of(order),
                generator=torch_generator(seed, "relearn", 0, self.client_id),
                as_good=as_good,
                cap=cap,
                check_every=check_every,
            )

        def train(number: int, steps: int | None) -> float | None:
            stream = seed_of(seed, "relearn", number, self.client_id)
            once = replace(order, epochs=1, max_steps=steps, seed=stream)
            return calls.train(self.task, learner, self.trained, once).get("steps")

        return relearn_by_training(
            train,
            as_good,
            cap=cap,
            check_every=check_every,
            epoch=-(-len(self.trained) // order.batch_size),
        )


class AnsweringClient(TrainingClient):
    """A client that is asked how well a model knows what it trained, and what not."""

    def answer(
        self,
        parameters: list[NDArray[np.float32]],
        *,
        relearn_target: float | None,
        relearn_cap: int,
        check_every: int,
    ) -> ClientAnswers:
        """Return what this client finds of a model; as `Answering.answer`."""
        return self.about(parameters).answer(
            relearn_target=relearn_target,
            relearn_cap=relearn_cap,
            check_every=check_every,
        )

    def about(self, parameters: list[NDArray[np.float32]]) -> Answering:
        """Return who answers about a model, until this client sets another."""
        set_parameters(self.model, parameters)
        return Answering(
            self.task,
            self.client_id,
            self.order(),
            self.assignment.seed,
            self.model,
            trained=self.training_data(),
            members=self.members(),
            unseen=self.unseen(),
        )

    @property
    def num_examples(self) -> int:
        """How many examples this client trains on."""
        return len(self.training_data())

    def members(self) -> Sized:
        """Return this client's own training examples as trained; no canaries.

        Where examples are to be forgotten: these, whatever they are.
        """
        trained, own = self.training_data(), len(self._source()[0].train)
        take = self.task.extras.take
        if self.part.goes or len(trained) == own or take is None:
            return trained
        return take(trained, np.arange(own))  # canaries come after all of them

    def unseen(self) -> Sized:
        """Return what is like the members, and was not trained on."""
        split, source = self._source()
        attack, seed = self.assignment.attack, self.assignment.seed
        if attack.poison == "canaries":
            if not self.part.is_poison:
                return split.unseen
            _, twins = calls.canaries(self.task, attack, seed=seed, client_id=source)
            return twins
        return self.poisoned(
            split.unseen,
            source,
            "poison unseen",
            fraction=1.0 if self.part.is_poison else None,
        )
