"""What the server tells a client to do: the part of the configuration that travels."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from fedneg.core.checks import build, choice
from fedneg.core.errors import FedNegError
from fedneg.core.samples import ALL, PARTS, Chosen, chosen_samples
from fedneg.core.settings import (
    AttackSettings,
    ClientSettings,
    Config,
    DataSettings,
    ModelSettings,
)
from fedneg.core.task_settings import check_task


@dataclass(frozen=True)
class Assignment:
    """What a client must know to train: travels in the server's message as JSON.

    `data.root` is meant for clients that share the server's file system (simulation);
    it is None for real clients, who know where their own data lies. `data` and `model`
    are those of the built-in task; `task` names one of somebody's own. `part` is what
    of its examples a client works on, where some of them are to be forgotten.
    """

    seed: int
    clients: int
    data: DataSettings
    model: ModelSettings
    client: ClientSettings
    attack: AttackSettings
    task: str | None = None
    task_options: Mapping[str, Any] = field(default_factory=dict)
    forget_samples: Mapping[int, Chosen] = field(default_factory=dict)
    part: str = ALL

    def __post_init__(self) -> None:
        check_task(self.task, self.task_options)
        samples = chosen_samples(self.forget_samples, clients=self.clients)
        object.__setattr__(self, "forget_samples", samples)
        choice("part", self.part, PARTS)

    @classmethod
    def of(cls, config: Config, *, root: str | None) -> Self:
        """Return the client's part of a configuration."""
        data = DataSettings(**{**asdict(config.data), "root": root})
        return cls(
            config.seed,
            config.clients,
            data,
            config.model,
            config.client,
            config.attack,
            config.task,
            config.task_options,
            config.forget_samples,
        )

    def of_part(self, part: str) -> Self:
        """Return the same for a part of the examples."""
        return replace(self, part=part)

    def to_json(self) -> str:
        """Return one line of JSON; nothing of examples where none are to go."""
        values = asdict(self)
        if not self.forget_samples:
            del values["forget_samples"], values["part"]
        return json.dumps(values, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote; raises FedNegError on anything else."""
        try:
            values = json.loads(text)
        except ValueError as error:
            raise FedNegError(
                f"the assignment in the message is not JSON: {error}"
            ) from None
        if not isinstance(values, dict):
            raise FedNegError(
                f"the assignment in the message is no mapping: {values!r}"
            )
        groups: dict[str, type[Any]] = {
            "data": DataSettings,
            "model": ModelSettings,
            "client": ClientSettings,
            "attack": AttackSettings,
        }
        for name, group in groups.items():
            values[name] = build(group, f"assignment.{name}", values.get(name))
        attackers = values["attack"].clients or ()
        attack = AttackSettings(
            **{**asdict(values["attack"]), "clients": tuple(attackers)}
        )
        return build(cls, "assignment", values | {"attack": attack})
