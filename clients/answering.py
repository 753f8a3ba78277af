"""The client that answers what a model knows of data that only this client has."""

import numpy as np
from numpy.typing import NDArray

from fedneg.clients.trainer import WriterClient
from fedneg.core.errors import FedNegError
from fedneg.core.seeding import rng, torch_generator
from fedneg.data.attacks import poison
from fedneg.evaluation.client_answers import MAX_CHECKED, MAX_EXAMPLES, ClientAnswers
from fedneg.evaluation.relearn import RelearnTime, Target, relearn_module
from fedneg.tasks.model import set_parameters
from fedneg.tasks.training import evaluate, predict

Examples = tuple[NDArray[np.uint8], NDArray[np.int64]]


class AnsweringClient(WriterClient):
    """A client that is asked how well a model knows what it trained, and what not.

    No stream depends on the round, so that every model is asked about the same examples
    and relearns them in the same batches.
    """

    def answer(
        self,
        parameters: list[NDArray[np.float32]],
        *,
        relearn_target: float | None,
        relearn_cap: int,
        check_every: int,
    ) -> ClientAnswers:
        """Return what this client finds of a model.

        Parameters
        ----------
        relearn_target : float or None
            The original's `check_loss`, nats; None: nothing is relearned.
        relearn_cap, check_every : int
            As `fedneg.evaluation.relearn.relearn_time`.

        Raises
        ------
        FedNegError
            If the model's answers are not finite, this client has no unseen images, or
            a number to relearn by is not one.
        """
        set_parameters(self.model, parameters)
        trained = self.training_data()
        checked = self.drawn("relearn check", trained, MAX_CHECKED)
        scaling = self.data.scaling
        whole = evaluate(self.model, *trained, scaling=scaling)
        try:
            # These names of random streams are older than the class: they stay, and
            # with them the examples that are drawn.
            members = self._confidence("witness members", self.members())
            unseen = self._confidence("witness unseen", self.unseen())
            return ClientAnswers(
                members=members,
                unseen=unseen,
                as_trained_accuracy=whole.accuracy,
                as_trained_loss=whole.loss,
                check_loss=evaluate(self.model, *checked, scaling=scaling).loss,
                relearn=None
                if relearn_target is None
                else self._relearn(
                    trained,
                    checked,
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

    @property
    def num_examples(self) -> int:
        """How many examples this client trains on."""
        return len(self.training_data()[1])

    def members(self) -> Examples:
        """Return this client's own training examples as trained; no canaries."""
        images, labels = self.training_data()
        # Canaries come after all of them.
        own = len(self._source()[0].train)
        return images[:own], labels[:own]

    def unseen(self) -> Examples:
        """Return what is like the members, and was not trained on."""
        data, source = self._source()
        index = np.concatenate([data.val, data.test])
        images, labels = data.images[index], data.labels[index]
        if self.assignment.attack.poison == "canaries":
            return images, labels
        return poison(
            images,
            labels,
            attack=self.assignment.attack,
            client_id=source,
            seed=self.assignment.seed,
            pixel_max=data.pixel_max,
            purpose="poison unseen",
        )

    def drawn(self, purpose: str, examples: Examples, most: int) -> Examples:
        """Return at most so many examples, drawn without replacement, in order."""
        images, labels = examples
        order = rng(self.assignment.seed, purpose, 0, self.client_id).permutation(
            len(labels)
        )
        chosen = np.sort(order[:most])
        return images[chosen], labels[chosen]

    def _confidence(self, purpose: str, examples: Examples) -> NDArray[np.float64]:
        """Return the scaled confidence in the labels of some examples."""
        # scipy is not for a client that only trains to wait for.
        from fedneg.evaluation.confidence import scaled_confidence

        images, labels = self.drawn(purpose, examples, MAX_EXAMPLES)
        if not len(labels):
            raise ValueError(f"there are no {purpose.split()[-1]} examples")
        logits = predict(self.model, images, scaling=self.data.scaling)
        return scaled_confidence(logits.numpy(), labels)

    def _relearn(
        self,
        trained: Examples,
        checked: Examples,
        target: Target,
        *,
        cap: int,
        check_every: int,
    ) -> RelearnTime:
        """Return how long the model takes to know again what this client trained."""
        return relearn_module(
            self.model,
            *trained,
            scaling=self.data.scaling,
            settings=self.assignment.client,
            generator=torch_generator(
                self.assignment.seed, "relearn", 0, self.client_id
            ),
            target=target,
            cap=cap,
            check_every=check_every,
            check_images=checked[0],
            check_labels=checked[1],
        )
