"""What a federation is made of: data, a strategy with its roster, a test set."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from flwr.serverapp import Grid

from fedneg.clients.trainer import TrainingClient
from fedneg.core.assignment import Assignment
from fedneg.core.errors import FedNegError
from fedneg.core.machine import cores
from fedneg.core.parameters import Vector, flatten
from fedneg.core.progress import Progress
from fedneg.core.samples import GONE
from fedneg.core.settings import Config
from fedneg.evaluation.evidence import ServerTest
from fedneg.flower_internals import is_deployed
from fedneg.records.pins import Pins
from fedneg.records.state import State
from fedneg.strategies import make_strategy
from fedneg.strategies.base import LedgerFedAvg
from fedneg.strategies.hooks import Hooks
from fedneg.strategies.roster import Roster
from fedneg.tasks import calls
from fedneg.tasks.lookup import task_of
from fedneg.tasks.prototype import Prototype
from fedneg.tasks.task import ClientRef, Task

NO_TEST = (
    "task {}: it has no test, so the server's numbers are of what the clients of this "
    "simulation test on, together"
)
UNAUTHENTICATED = (
    "strategy.trust=unauthenticated: any node may claim to be any client, have it "
    "forgotten, or poison what the server keeps of it"
)


@dataclass(frozen=True)
class Parts:
    """What the phases of a federation, its kept trainings and its questions share.

    Attributes
    ----------
    grid : Grid
    config : Config
    progress : Progress
        Told of every step and round.
    deployed : bool
        Whether the clients are real ones.
    task : Task
        What is trained.
    strategy : LedgerFedAvg
        At the initial parameters.
    test : ServerTest
    initial : Vector, shape (d,)
        Parameters before round 1.
    prototype : Prototype
        Makes its models.
    notices : list of str
        What a user must not miss; it grows.
    num_forgotten : mapping of int to int
        Of whom only some examples are to go: how many, where the clients are simulated.
    """

    grid: Grid
    config: Config
    progress: Progress
    deployed: bool
    task: Task
    strategy: LedgerFedAvg
    test: ServerTest
    initial: Vector
    prototype: Prototype
    notices: list[str]
    num_forgotten: Mapping[int, int]

    def warn(self, text: str) -> None:
        """Say something at once, and again at the end."""
        self.notices.append(text)
        self.progress.step(text)


def compose(grid: Grid, config: Config, progress: Progress, hooks: Hooks) -> Parts:
    """Return what a federation is made of, ready for round 1.

    Parameters
    ----------
    grid, config, progress, hooks
        As in `Federation`.

    Raises
    ------
    FedNegError
        If data is missing or corrupt, or cannot be split among so many clients; or if
        the engine, or what is known of real clients, does not go with the settings.
    """
    cohort = config.engine.cohort
    if cohort > 1 and getattr(grid, "cohort", 1) == 1:
        raise FedNegError(
            "engine.cohort must be 1 where the engine is Flower's own, got "
            f"{cohort}: there every client trains alone"
        )
    deployed = is_deployed(grid)
    settings = _assignment(config)
    task = task_of(settings, threads=cores(), download=config.data.download)
    _check(task, config)
    prototype = Prototype(task)
    test = _server_test(prototype, config, deployed=deployed)
    arrays = prototype.initial(seed=config.seed)
    hooks = _with_own(hooks, config, progress, test)
    # Simulated clients read the files that the server read; real ones know their own.
    root = None if deployed else settings.data.root
    strategy = make_strategy(
        config,
        Assignment.of(config, root=root).to_json(),
        hooks,
        _roster_of_real_clients(config, hooks) if deployed else None,
    )
    strategy.use_task(prototype)
    strategy.reset(arrays)
    notices = []
    if deployed and config.strategy.trust == "unauthenticated":
        notices.append(UNAUTHENTICATED)
    if task.test is None:
        notices.append(NO_TEST.format(task.name))
    return Parts(
        grid,
        config,
        progress,
        deployed,
        task,
        strategy,
        test,
        flatten(arrays),
        prototype,
        notices,
        {} if deployed else _num_forgotten(config, settings),
    )


def _num_forgotten(config: Config, settings: Assignment) -> dict[int, int]:
    """Return how many examples of which clients are to go.

    Raises FedNegError if one is none of a client's: better now than in every round.
    """
    assignment = settings.of_part(GONE)
    return {
        client_id: len(TrainingClient(client_id, assignment).training_data())
        for client_id in config.forget_samples
    }


def _assignment(config: Config) -> Assignment:
    """Return the server's own: with the folder that data are in, wherever it began."""
    root = config.data.root
    if config.task is not None:
        return Assignment.of(config, root=root)
    from fedneg.data.datasets import default_root

    place = Path(root).resolve() if root else default_root().resolve()
    return Assignment.of(config, root=str(place))


def _check(task: Task, config: Config) -> None:
    """Raise FedNegError if the task lacks what the attack needs."""
    if config.attack.name == "none":
        return
    task.require("poison", of=f"attack={config.attack.name}")
    if config.attack.name == "canaries":
        task.require("canaries", of="attack=canaries")


def _server_test(prototype: Prototype, config: Config, *, deployed: bool) -> ServerTest:
    """Return what the server measures models on."""
    task, clients = prototype.task, config.clients
    if deployed:
        task.require("test", of="a federation of real clients")
    parts = None
    if not deployed:
        # What no client can train on should not be found out K times.
        first = calls.split_of(task, ClientRef(0, clients))
        if task.test is None:
            others = (
                calls.split_of(task, ClientRef(k, clients)) for k in range(1, clients)
            )
            parts = [part.tested for part in (first, *others) if len(part.tested)]
            if not parts:
                raise FedNegError(
                    f"task {task.name} has no test, and no client of it has an example "
                    "that it does not train on: models could not be measured"
                )
    return ServerTest(prototype, config.attack, seed=config.seed, parts=parts)


def _with_own(
    hooks: Hooks, config: Config, progress: Progress, test: ServerTest
) -> Hooks:
    """Return hooks with the gate, and with what progress is told."""

    def accept(before: Vector, after: Vector) -> bool:
        least = config.strategy.gate * test.measure(before).accuracy
        return test.measure(after).accuracy >= least

    def on_wait(text: str) -> None:
        progress.step(text)
        hooks.on_wait(text)

    return replace(hooks, accept=accept, on_reply=progress.clients, on_wait=on_wait)


def _roster_of_real_clients(config: Config, hooks: Hooks) -> Roster:
    """Return the roster that `strategy.trust` asks for."""
    trust = config.strategy.trust
    if trust == "listed" and config.state is None:
        raise FedNegError(
            "strategy.trust=listed needs state=DIR, whose roster lists the clients' "
            "keys (fedneg roster add); or say strategy.trust=first_sight, or "
            "strategy.trust=unauthenticated to believe anybody"
        )
    pins = State.of(config).pins() if config.state else Pins()
    return Roster(config.clients, trust, pins, hooks)
