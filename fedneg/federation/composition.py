"""What a federation is made of: data, a strategy with its roster, a test set."""

from dataclasses import dataclass, replace
from pathlib import Path

from flwr.serverapp import Grid

from fedneg.core.assignment import Assignment
from fedneg.core.errors import FedNegError
from fedneg.core.parameters import Vector, flatten
from fedneg.core.progress import Progress
from fedneg.core.settings import Config
from fedneg.data.datasets import Dataset, default_root, load_dataset
from fedneg.data.partition import partition
from fedneg.evaluation.evidence import ServerTest
from fedneg.flower_internals import is_deployed
from fedneg.records.pins import Pins
from fedneg.records.state import State
from fedneg.strategies import make_strategy
from fedneg.strategies.base import LedgerFedAvg
from fedneg.strategies.hooks import Hooks
from fedneg.strategies.roster import Roster
from fedneg.tasks.model import Network

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
    dataset : Dataset
    strategy : LedgerFedAvg
        At the initial parameters.
    test : ServerTest
    initial : Vector, shape (d,)
        Parameters before round 1.
    network : Network
        What is trained.
    notices : list of str
        What a user must not miss; it grows.
    """

    grid: Grid
    config: Config
    progress: Progress
    deployed: bool
    dataset: Dataset
    strategy: LedgerFedAvg
    test: ServerTest
    initial: Vector
    network: Network
    notices: list[str]

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
    dataset, shared_root = _load(config, deployed=deployed)
    network = Network(config.model, dataset.images.shape[1:], dataset.num_classes)
    arrays = network.initial(seed=config.seed)
    test = ServerTest(dataset, network, config.attack)
    hooks = _with_own(hooks, config, progress, test)
    strategy = make_strategy(
        config,
        Assignment.of(config, root=shared_root).to_json(),
        hooks,
        _roster_of_real_clients(config, hooks) if deployed else None,
    )
    strategy.use_server_data(dataset)
    strategy.reset(arrays, network)
    open_to_all = deployed and config.strategy.trust == "unauthenticated"
    return Parts(
        grid,
        config,
        progress,
        deployed,
        dataset,
        strategy,
        test,
        flatten(arrays),
        network,
        [UNAUTHENTICATED] if open_to_all else [],
    )


def _load(config: Config, *, deployed: bool) -> tuple[Dataset, str | None]:
    """Return the data set, and where simulated clients are to read it."""
    data = config.data
    root = Path(data.root).resolve() if data.root else None
    dataset = load_dataset(data.name, root=root, download=data.download)
    if deployed:
        return dataset, None
    # Simulated clients read the files that the server read; and what cannot be split
    # among them should not be found out K times.
    partition(dataset, data, clients=config.clients, seed=config.seed)
    return dataset, str(root or default_root().resolve())


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
