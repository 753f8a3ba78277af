"""What is measured of a model, from the server's test set and the clients' answers."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedneg.core.data_settings import AttackSettings
from fedneg.core.files import write_bytes
from fedneg.core.machine import cores
from fedneg.core.parameters import Vector, digest_of_model, unflatten
from fedneg.core.reading import read_regular
from fedneg.core.source import code_digest
from fedneg.data.attacks import attack_probe
from fedneg.data.datasets import Dataset
from fedneg.evaluation.client_answers import ClientAnswers
from fedneg.tasks.model import Network, set_parameters
from fedneg.tasks.training import Metrics, evaluate, predict


class ServerTest:
    """The server's test set, ready to measure flat parameters.

    Parameters
    ----------
    dataset : Dataset
    network : Network
    attack : AttackSettings
        Decides what attack success means here; None of it for attack=none.
    """

    def __init__(
        self,
        dataset: Dataset,
        network: Network,
        attack: AttackSettings,
    ) -> None:
        self.dataset, self.shapes = dataset, network.layout.shapes
        self._latest: tuple[Vector, Metrics] | None = None
        self.model = network.build()
        self.probe = attack_probe(
            dataset.test_images,
            dataset.test_labels,
            attack=attack,
            pixel_max=dataset.pixel_max,
        )

    def measure(self, parameters: Vector) -> Metrics:
        """Return accuracy and loss on the whole test set.

        The latest model is remembered: after its last round it is asked for again.
        """
        if self._latest is not None and np.array_equal(self._latest[0], parameters):
            return self._latest[1]
        set_parameters(self.model, unflatten(parameters, self.shapes))
        found = evaluate(
            self.model,
            self.dataset.test_images,
            self.dataset.test_labels,
            scaling=self.dataset.scaling,
            threads=cores(),
        )
        self._latest = parameters.copy(), found
        return found

    def logits(
        self, parameters: Vector, images: NDArray[np.uint8]
    ) -> NDArray[np.float32]:
        """Return a model's logits (N, classes) on images of the data set's kind."""
        set_parameters(self.model, unflatten(parameters, self.shapes))
        scaling = self.dataset.scaling
        return predict(self.model, images, scaling=scaling, threads=cores()).numpy()

    def attack_success_rate(self, parameters: Vector) -> float | None:
        """Return the share of the attacker's inputs answered as it hopes, or None."""
        if self.probe is None:
            return None
        set_parameters(self.model, unflatten(parameters, self.shapes))
        images, hoped = self.probe
        return evaluate(
            self.model,
            images,
            hoped,
            scaling=self.dataset.scaling,
            threads=cores(),
        ).accuracy


@dataclass(frozen=True)
class ModelEvidence:
    """All that one model was measured on; `per_client` as `WriterClient` answers."""

    name: str
    test: Metrics
    attack_success_rate: float | None
    per_client: Mapping[int, Mapping[str, float]]

    def pooled(
        self, client_ids: Sequence[int], metric: str, *, count: str = "num_train"
    ) -> float | None:
        """Return a per-example metric over several clients' examples, or None.

        Each client counts by its number of examples; clients that did not answer are
        left out, and without any answer there is no value.
        """
        answers = [self.per_client[k] for k in client_ids if k in self.per_client]
        total = sum(a[count] for a in answers)
        if not total:
            return None
        return sum(a[metric] * a[count] for a in answers) / total

    def summary(self, *, forget: Sequence[int], clients: int) -> dict[str, Any]:
        """Return the model's entry in results.json."""
        remaining = [k for k in range(clients) if k not in forget]
        values = {
            "test_accuracy": self.test.accuracy,
            "test_loss": self.test.loss,
            "forget_accuracy": self.pooled(forget, "train_accuracy"),
            "forget_loss": self.pooled(forget, "train_loss"),
            "forget_accuracy_as_trained": self.pooled(forget, "trained_accuracy"),
            "retain_accuracy": self.pooled(remaining, "train_accuracy"),
            "retain_loss": self.pooled(remaining, "train_loss"),
            "client_test_accuracy": [
                self.per_client[k]["test_accuracy"] if k in self.per_client else None
                for k in range(clients)
            ],
            "attack_success_rate": self.attack_success_rate,
        }
        # JSON has no NaN; a model that diverged has no loss worth a number.
        return {
            k: None if isinstance(v, float) and not math.isfinite(v) else v
            for k, v in values.items()
        }


class KeptEvidence:
    """What was measured of a model that is kept, so that a sweep measures it once.

    Parameters
    ----------
    folder : Path
        Of the training.
    parameters : Vector
        The model; with the attack and the measuring code they name the file.
    attack : AttackSettings
        Attack success, and accuracy on what attackers trained, depend on it.
    """

    def __init__(
        self, folder: Path, parameters: Vector, attack: AttackSettings
    ) -> None:
        what = hashlib.sha256(digest_of_model(parameters).encode())
        what.update(repr(attack).encode() + code_digest((__name__,)).encode())
        self._path = folder / f"evidence-{what.hexdigest()[:16]}.json"

    def read(self, name: str) -> ModelEvidence | None:
        """Return the evidence as that of the model `name`; None if there is none.

        A damaged file counts as none: measuring again costs little.
        """
        values = _read_kept(self._path)
        if values is None:
            return None
        per_client = {int(k): answer for k, answer in values["per_client"].items()}
        return ModelEvidence(
            name, Metrics(**values["test"]), values["attack_success_rate"], per_client
        )

    def write(self, found: ModelEvidence) -> None:
        """Keep evidence; a disk that has no room for it is no reason to stop."""
        _write_kept(self._path, asdict(found))


class KeptAnswers:
    """What leaving clients said of a model that is kept: a sweep asks them once.

    Parameters
    ----------
    folder : Path
        Of the training.
    parameters : Vector
    asked : mapping
        All else that the answers depend on, as JSON takes it; with the code that
        answers, they name the file.
    """

    # Who answers.
    CODE = ("fedneg.clients.answering",)

    def __init__(
        self, folder: Path, parameters: Vector, asked: Mapping[str, Any]
    ) -> None:
        what = hashlib.sha256(digest_of_model(parameters).encode())
        what.update(json.dumps(asked, sort_keys=True).encode())
        what.update(code_digest(self.CODE).encode())
        self._path = folder / f"answers-{what.hexdigest()[:16]}.json"

    def read(self) -> dict[int, ClientAnswers] | None:
        """Return it by client id; None if there is none, or the file is damaged."""
        values = _read_kept(self._path)
        if values is None:
            return None
        return {int(k): ClientAnswers.from_json(said) for k, said in values.items()}

    def write(self, found: Mapping[int, ClientAnswers]) -> None:
        """Keep it; a disk that has no room for it is no reason to stop."""
        _write_kept(self._path, {k: said.to_json() for k, said in found.items()})


def _read_kept(path: Path) -> Any:
    """Return the values in a kept file; None if it is missing or damaged."""
    try:
        digest, text = read_regular(path).decode().split("\n", 1)
    except (OSError, ValueError):
        return None
    if digest != hashlib.sha256(text.encode()).hexdigest():
        return None
    return json.loads(text)


def _write_kept(path: Path, values: object) -> None:
    """Write values with their digest, if the disk has room."""
    text = json.dumps(values)
    digest = hashlib.sha256(text.encode()).hexdigest()
    with suppress(OSError):
        write_bytes(path, f"{digest}\n{text}".encode())
