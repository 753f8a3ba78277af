"""What is measured of a model, from the server's test set and the clients' answers."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence, Sized
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedneg.core.data_settings import AttackSettings
from fedneg.core.files import write_bytes
from fedneg.core.parameters import Vector, digest_of_model, unflatten
from fedneg.core.reading import read_regular
from fedneg.core.samples import Chosen
from fedneg.core.source import code_digest
from fedneg.evaluation.client_answers import ClientAnswers
from fedneg.tasks import calls
from fedneg.tasks.calls import Metrics
from fedneg.tasks.model import set_parameters
from fedneg.tasks.prototype import Prototype

# Who finds the task, and with it the built-in one.
LOOKUP = "fedneg.tasks.lookup"


class ServerTest:
    """What the server measures models on, ready for flat parameters.

    Parameters
    ----------
    prototype : Prototype
        Whose task is asked.
    attack : AttackSettings
        Decides what attack success means here; None of it for attack=none.
    seed : int
        Of the run; for an attack that draws what it does to the server's data.
    parts : sequence of data, optional
        By default what the task's server holds; of a task whose server holds nothing,
        what its clients test on, one after the other.
    """

    def __init__(
        self,
        prototype: Prototype,
        attack: AttackSettings,
        *,
        seed: int = 0,
        parts: Sequence[Sized] | None = None,
    ) -> None:
        self.task, self.shapes = prototype.task, prototype.layout.shapes
        self.parts = [calls.test_of(self.task)] if parts is None else list(parts)
        self._latest: tuple[Vector, Metrics] | None = None
        self.model = prototype.build()
        self._attack, self._seed = attack, seed
        self._attacked, self._clean = self._probes()

    @property
    def num_examples(self) -> int:
        """How many examples models are measured on."""
        return sum(len(part) for part in self.parts)

    @property
    def attacked(self) -> Sequence[Sized]:
        """Inputs with the attacker's mark, and the answers that it wants."""
        return self._attacked

    def _probes(self) -> tuple[list[Sized], list[Sized]]:
        """Return what the attacker hopes for, and the same without its mark."""
        attack, probe = self._attack, self.task.extras.probe
        if attack.poison in ("none", "canaries"):
            return [], []
        if probe is None:
            whole = replace(attack, fraction=1.0)
            return [
                calls.poisoned(
                    self.task,
                    part,
                    whole,
                    seed=self._seed,
                    client_id=k,
                    purpose="probe",
                )
                for k, part in enumerate(self.parts)
            ], []
        found = [calls.probe(self.task, part, attack) for part in self.parts]
        clean = [one for _, one in found if one is not None]
        return [one for one, _ in found], clean if len(clean) == len(found) else []

    def measure(self, parameters: Vector) -> Metrics:
        """Return quality and loss on all that the server measures on.

        The latest model is remembered: after its last round it is asked for again.
        """
        if self._latest is not None and np.array_equal(self._latest[0], parameters):
            return self._latest[1]
        found = calls.measure_parts(self.task, self._with(parameters), self.parts)
        self._latest = parameters.copy(), found
        return found

    def probabilities(self, parameters: Vector) -> NDArray[np.float64] | None:
        """Return class probabilities (N, C); None if not finite, or of no classes."""
        return calls.probabilities(self.task, self._with(parameters), self.parts)

    def attack_success_rate(self, parameters: Vector) -> float | None:
        """Return the share of the attacker's inputs answered as it hopes, or None."""
        return self._quality(parameters, self._attacked)

    def attack_base(self, parameters: Vector) -> float | None:
        """Return how often the attacker's hope comes true without its mark, or None."""
        return self._quality(parameters, self._clean)

    def canary_losses(
        self, parameters: Vector, client_id: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """Return losses of a client's planted and of its held-out canaries.

        None if one of them is not finite.
        """
        model = self._with(parameters)
        planted, held_out = (
            calls.losses(self.task, model, data)
            for data in calls.canaries(
                self.task, self._attack, seed=self._seed, client_id=client_id
            )
        )
        if np.isfinite(planted).all() and np.isfinite(held_out).all():
            return planted, held_out
        return None

    def _quality(self, parameters: Vector, parts: Sequence[Sized]) -> float | None:
        if not parts:
            return None
        model = self._with(parameters)
        return calls.measure_parts(self.task, model, parts).accuracy

    def _with(self, parameters: Vector) -> nn.Module:
        """Return the model with these parameters."""
        set_parameters(self.model, unflatten(parameters, self.shapes))
        return self.model


@dataclass(frozen=True)
class ModelEvidence:
    """All that one model was measured on; `per_client` as `TrainingClient` answers.

    `gone`: what clients measure on those examples of theirs that are to go, where these
    are not all; `per_client` is then of the rest.
    """

    name: str
    test: Metrics
    attack_success_rate: float | None
    per_client: Mapping[int, Mapping[str, float]]
    gone: Mapping[int, Mapping[str, float]] | None = None

    def pooled(
        self, client_ids: Sequence[int], metric: str, *, count: str = "num_train"
    ) -> float | None:
        """Return a per-example metric over several clients' examples, or None.

        Each client counts by its number of examples; clients that did not answer are
        left out, and without any answer there is no value.
        """
        return _pooled(
            [self.per_client[k] for k in client_ids if k in self.per_client],
            metric,
            count,
        )

    def summary(self, *, forget: Sequence[int], clients: int) -> dict[str, Any]:
        """Return the model's entry in results.json."""
        some = self.gone is not None
        leaving, staying = (
            [found[k] for k in ids if k in found]
            for found, ids in (
                (self.per_client if self.gone is None else self.gone, forget),
                (
                    self.per_client,
                    [k for k in range(clients) if some or k not in forget],
                ),
            )
        )
        values = {
            "test_accuracy": self.test.accuracy,
            "test_loss": self.test.loss,
            "forget_accuracy": _pooled(leaving, "train_accuracy"),
            "forget_loss": _pooled(leaving, "train_loss"),
            "forget_accuracy_as_trained": _pooled(leaving, "trained_accuracy"),
            "retain_accuracy": _pooled(staying, "train_accuracy"),
            "retain_loss": _pooled(staying, "train_loss"),
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


def _pooled(
    answers: Sequence[Mapping[str, float]], metric: str, count: str = "num_train"
) -> float | None:
    """Return a metric over several clients' examples; None without any."""
    total = sum(a[count] for a in answers)
    if not total:
        return None
    return sum(a[metric] * a[count] for a in answers) / total


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
    code : tuple of str
        Modules of the task's own.
    samples : mapping, optional
        Which examples are to go (`Config.forget_samples`).
    """

    def __init__(
        self,
        folder: Path,
        parameters: Vector,
        attack: AttackSettings,
        code: tuple[str, ...] = (),
        samples: Mapping[int, Chosen] | None = None,
    ) -> None:
        what = hashlib.sha256(digest_of_model(parameters).encode())
        measuring = code_digest((__name__, LOOKUP, *code))
        what.update(repr(attack).encode() + measuring.encode())
        if samples:
            what.update(repr(sorted(samples.items())).encode())
        self._path = folder / f"evidence-{what.hexdigest()[:16]}.json"

    def read(self, name: str) -> ModelEvidence | None:
        """Return the evidence as that of the model `name`; None if there is none.

        A damaged file counts as none: measuring again costs little.
        """
        values = _read_kept(self._path)
        if values is None:
            return None
        return ModelEvidence(
            name,
            Metrics(**values["test"]),
            values["attack_success_rate"],
            _by_client(values["per_client"]),
            None if values["gone"] is None else _by_client(values["gone"]),
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
    code : tuple of str
        Modules of the task's own.
    """

    # Who answers.
    CODE = ("fedneg.clients.answering",)

    def __init__(
        self,
        folder: Path,
        parameters: Vector,
        asked: Mapping[str, Any],
        code: tuple[str, ...] = (),
    ) -> None:
        what = hashlib.sha256(digest_of_model(parameters).encode())
        what.update(json.dumps(asked, sort_keys=True).encode())
        what.update(code_digest((*self.CODE, *code)).encode())
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


def _by_client(answers: Mapping[str, Any]) -> dict[int, Any]:
    """Return answers by client id, which in JSON is a text."""
    return {int(k): answer for k, answer in answers.items()}


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
