"""The configuration as frozen values, checked when they are made.

Everything below the entry points takes these and nothing else. A wrong value raises
`FedNegError` in one line that names the key, the value and the rule, before any data is
read. No Hydra here: clients import this module and must start fast.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from fedneg.core.checks import build, choice, client_ids, flag, number, whole
from fedneg.core.data_settings import ATTACKS, NUM_CLASSES
from fedneg.core.data_settings import AttackSettings as AttackSettings
from fedneg.core.data_settings import DataSettings as DataSettings
from fedneg.core.errors import FedNegError
from fedneg.core.named import is_named, offered
from fedneg.core.samples import Chosen, check_alone, check_attack, chosen_samples
from fedneg.core.task_settings import BUILT_IN, check_task
from fedneg.core.task_settings import ModelSettings as ModelSettings
from fedneg.core.verdict_settings import VerdictSettings
from fedneg.core.version import PACKAGE

# Entry points by which other packages offer methods, each under a name of its own.
METHODS = "fedneg.methods"
RETRAIN = ("none", "remaining", "forgotten", "scratch")
TRUST = ("listed", "first_sight", "unauthenticated")


def conf_dir() -> Path:
    """Return the folder of the configuration: in the wheel, or on top of a checkout."""
    inside = PACKAGE / "conf"
    return inside if inside.is_dir() else PACKAGE.parent / "conf"


def conf_groups() -> dict[str, list[str]]:
    """Return the groups of the configuration, each with its options, by name."""
    found: dict[str, list[str]] = {}
    for path in sorted(conf_dir().glob("*/*.yaml")):
        if path.stem != "base":  # what the others of a group share
            found.setdefault(path.parent.name, []).append(path.stem)
    return found


def methods() -> list[str]:
    """Return the names of all forgetting methods, in the order of the alphabet."""
    return conf_groups()["strategy"]


@dataclass(frozen=True)
class ClientSettings:
    """The client optimiser: plain SGD with momentum."""

    local_epochs: int
    learning_rate: float
    momentum: float
    batch_size: int
    device: str
    evaluate_after_fit: bool

    def __post_init__(self) -> None:
        whole("client.local_epochs", self.local_epochs, minimum=1)
        number("client.learning_rate", self.learning_rate, above=0)
        number("client.momentum", self.momentum, minimum=0, below=1)
        whole("client.batch_size", self.batch_size, minimum=1)
        choice("client.device", self.device, ("auto", "cpu", "cuda"))
        flag("client.evaluate_after_fit", self.evaluate_after_fit)


@dataclass(frozen=True)
class EngineSettings:
    """What runs the clients of a simulation.

    `cohort` clients are trained at once, in batched steps.
    """

    name: str
    cohort: int = 1
    workers: int | None = None
    cpus_per_client: int = 1
    gpus_per_client: float = 0.0

    def __post_init__(self) -> None:
        choice("engine.name", self.name, ("inline", "local", "ray"))
        whole("engine.cohort", self.cohort, minimum=1)
        if self.name == "ray" and self.cohort > 1:
            raise FedNegError(
                "engine.cohort needs engine to be inline or local, "
                f"got engine.cohort={self.cohort} with engine=ray"
            )
        if self.workers is not None:
            whole("engine.workers", self.workers, minimum=1)
        whole("engine.cpus_per_client", self.cpus_per_client, minimum=1)
        number("engine.gpus_per_client", self.gpus_per_client, minimum=0)


@dataclass(frozen=True)
class StrategySettings:
    """FedAvg's server side; `options` are the forgetting method's own, it checks them.

    Attributes
    ----------
    server_learning_rate, server_momentum : float
        The server optimiser of the paper's section 3.2; 1 and 0 are plain FedAvg.
    round_timeout_s : float
        How long a round waits for replies, seconds.
    wait_for_clients_s : float
        How long it waits for clients that are not online, seconds.
    min_clients : int or None
        Then it goes on if so many of those that should train are there; None: all.
    trust : str
        Which real node is believed to be which client: those whose public keys the
        operator has listed, whoever showed a key first, or anybody.
    gate : float
        A round in which leaving clients train is undone if it takes the accuracy below
        this share of what it was.
    max_update_norm_ratio : float
        An update is refused when its norm exceeds this many times the median norm of
        the round's other updates.
    max_num_examples : int
        A reply is refused when it claims more training examples than this.
    client_fraction : float
        Share of a phase's clients that train in a round, at least one.
    ledger_memory_mib : int
        A ledger of more mebibytes is a memory map on the cache's disk.
    keep_local_models : bool
        Keep each client's last local model also where the method needs none, so that
        methods share a training.
    """

    name: str
    server_learning_rate: float
    server_momentum: float
    round_timeout_s: float
    wait_for_clients_s: float
    min_clients: int | None
    trust: str
    gate: float
    max_update_norm_ratio: float
    max_num_examples: int
    client_fraction: float
    ledger_memory_mib: int
    keep_local_models: bool
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        name = str(self.name)
        if not (is_named(name) or name.isidentifier() or name in offered(METHODS)):
            raise FedNegError(
                "strategy.name must name a method, or one of your own as module:Class, "
                f"got {self.name!r}"
            )
        number("strategy.server_learning_rate", self.server_learning_rate, above=0)
        number("strategy.server_momentum", self.server_momentum, minimum=0, below=1)
        number("strategy.round_timeout_s", self.round_timeout_s, above=0)
        number("strategy.wait_for_clients_s", self.wait_for_clients_s, minimum=0)
        if self.min_clients is not None:
            whole("strategy.min_clients", self.min_clients, minimum=1)
        choice("strategy.trust", self.trust, TRUST)
        number("strategy.gate", self.gate, minimum=0, maximum=1)
        number("strategy.max_update_norm_ratio", self.max_update_norm_ratio, above=1)
        whole("strategy.max_num_examples", self.max_num_examples, minimum=1)
        number("strategy.client_fraction", self.client_fraction, above=0, maximum=1)
        whole("strategy.ledger_memory_mib", self.ledger_memory_mib, minimum=0)
        flag("strategy.keep_local_models", self.keep_local_models)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Split the shared keys from the method's own."""
        shared = {f.name for f in fields(cls)} - {"options"}
        options = {key: value for key, value in values.items() if key not in shared}
        return build(
            cls,
            "strategy",
            {k: v for k, v in values.items() if k in shared} | {"options": options},
        )


@dataclass(frozen=True)
class Config:
    """One run, whole: what to train, whom to forget, what to do afterwards.

    With `forget_samples`, `forget` are the clients that it names: some of their
    examples go, and they stay.
    """

    seed: int
    clients: int
    rounds: int
    forget: tuple[int, ...]
    retrain: str
    retrain_rounds: int
    reference: bool
    report: bool
    cache: bool
    checkpoint: int
    state: str | None
    keys: str | None
    encrypt: bool
    data: DataSettings
    model: ModelSettings
    client: ClientSettings
    attack: AttackSettings
    engine: EngineSettings
    strategy: StrategySettings
    verdict: VerdictSettings
    experiment: str | None = None
    task: str | None = None
    task_options: Mapping[str, Any] = field(default_factory=dict)
    forget_samples: Mapping[int, Chosen] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.task == BUILT_IN:  # the same, said in words
            object.__setattr__(self, "task", None)
        check_task(self.task, self.task_options)
        if self.experiment and self.task is not None:
            raise FedNegError(
                f"experiment={self.experiment} is about the built-in task; task must "
                f"be null, got {self.task}"
            )
        whole("seed", self.seed, minimum=0)
        whole("clients", self.clients, minimum=1)
        whole("rounds", self.rounds, minimum=1)
        whole("retrain_rounds", self.retrain_rounds, minimum=1)
        choice("retrain", self.retrain, RETRAIN)
        flag("reference", self.reference)
        flag("report", self.report)
        flag("cache", self.cache)
        whole("checkpoint", self.checkpoint, minimum=0)
        flag("encrypt", self.encrypt)
        for name, folder in (("state", self.state), ("keys", self.keys)):
            if folder is not None and (not isinstance(folder, str) or not folder):
                raise FedNegError(f"{name} must be a folder or null, got {folder!r}")
        choice("experiment", self.experiment or "none", ("none", "paper"))
        forget = client_ids("forget", self.forget, clients=self.clients)
        object.__setattr__(self, "forget", forget)
        self._settle_samples()
        if len(forget) == self.clients and not self.forget_samples:
            raise FedNegError(
                f"forget must leave at least one of the {self.clients} clients, "
                f"got {list(forget)}"
            )
        if self.state is not None:
            self._check_live()
        elif self.retrain != "none" and not self.forget and not self.experiment:
            raise FedNegError(
                f"retrain={self.retrain} needs forget to name a client, got null"
            )
        self._settle_attackers()
        attackers = self.attack.clients or ()
        check_attack(self.forget_samples, self.attack.name, attackers)

    def _settle_samples(self) -> None:
        """Say that of whom some examples are to go, is to forget these."""
        samples = chosen_samples(self.forget_samples, clients=self.clients)
        object.__setattr__(self, "forget_samples", samples)
        if samples:
            check_alone(samples, self.forget, self.state, self.experiment)
            object.__setattr__(self, "forget", tuple(samples))

    def _check_live(self) -> None:
        """Refuse what a federation that lives on cannot do."""
        if self.forget:
            raise FedNegError(
                f"with state=DIR clients are forgotten by request, got "
                f"forget={list(self.forget)}; fedneg request forget "
                f"{self.forget[0]} --state DIR"
            )
        if self.experiment:
            raise FedNegError(f"experiment={self.experiment} cannot have state=DIR")
        if self.retrain == "forgotten":
            raise FedNegError(
                "retrain=forgotten trains on what is to be forgotten; with state=DIR "
                "it must be one of none, remaining, scratch"
            )

    def _settle_attackers(self) -> None:
        """Fill in who attacks, by default the clients to forget, and how hard."""
        attackers = client_ids(
            "attack.clients", self.attack.clients, clients=self.clients
        )
        name, boost = self.attack.name, self.attack.boost
        if self.task is None and self.attack.target >= NUM_CLASSES:
            raise FedNegError(
                f"attack.target must be a class from 0 to {NUM_CLASSES - 1}, "
                f"got {self.attack.target}"
            )
        if name == "none":
            if attackers:
                raise FedNegError(
                    f"attack.clients needs attack to be one of {', '.join(ATTACKS[1:])}"
                    f", got {list(attackers)} with attack=none"
                )
        elif not attackers:
            attackers = self.forget
            if not attackers:
                raise FedNegError(
                    f"attack={name} needs attack.clients when forget names nobody"
                )
        if name == "sybils" and len(attackers) < 2:
            raise FedNegError(
                "attack=sybils needs at least two attack.clients, got "
                f"{list(attackers)}"
            )
        if name == "model_replacement" and boost is None:
            # The paper's n / eta, shared among the attackers: where clients have as
            # many images as each other, what they send becomes the global model.
            rate = self.strategy.server_learning_rate
            boost = self.clients / (len(attackers) * rate)
        attack = replace(self.attack, clients=attackers, boost=boost)
        object.__setattr__(self, "attack", attack)

    @property
    def remaining(self) -> tuple[int, ...]:
        """Client ids that go on, be it with the rest of their examples."""
        if self.forget_samples:
            return tuple(range(self.clients))
        return tuple(k for k in range(self.clients) if k not in self.forget)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Check and freeze a plain nested mapping (what YAML gives)."""
        groups: dict[str, type[Any]] = {
            "data": DataSettings,
            "model": ModelSettings,
            "client": ClientSettings,
            "attack": AttackSettings,
            "engine": EngineSettings,
            "verdict": VerdictSettings,
        }
        made: dict[str, Any] = dict(values)
        for name, group in groups.items():
            if name in made:
                made[name] = build(group, name, made[name])
        if isinstance(made.get("strategy"), Mapping):
            made["strategy"] = StrategySettings.from_mapping(made["strategy"])
        return build(cls, "", made)

    def to_mapping(self) -> dict[str, Any]:
        """Return plain nested values, as `from_mapping` takes them."""
        values = asdict(self)
        values["strategy"] |= values["strategy"].pop("options")
        plain: dict[str, Any] = json.loads(json.dumps(values))
        return plain
