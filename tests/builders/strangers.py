"""A stranger's app: clients that move every array their own way, and who watches."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord
from flwr.app import RecordDict as Records
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import Strategy

from builders.federations import RecordingGrid
from builders.waiting import PATIENCE_S
from fedneg import Forgettable
from fedneg.engines.inline import FIRST_NODE_ID

Arrays = dict[str, np.ndarray]
# A network with BatchNorm, by the names that torch gives; a parameter without axes.
INITIAL: Arrays = {
    "conv.weight": np.linspace(-1, 1, 24, dtype=np.float32).reshape(2, 3, 4),
    "bn.running_mean": np.zeros(2, np.float32),
    "bn.running_var": np.ones(2, np.float32),
    "bn.num_batches_tracked": np.array(0, np.int64),
    "temperature": np.array(0.5, np.float32),
}
TRAINED = ("conv.weight", "temperature")


class Watched(RecordingGrid):
    """A grid that keeps what was sent to whom, and what came back, round by round.

    Parameters
    ----------
    broken : iterable of (client, server round)
        Who fails when.
    late : mapping of client to int
        How many rounds there are before it comes.
    mods : sequence of callable
        Of the ClientApp.
    """

    def __init__(
        self,
        clients: int = 4,
        broken: Iterable[tuple[int, int]] = (),
        late: Mapping[int, int] | None = None,
        mods: Sequence[Any] = (),
    ) -> None:
        self.rounds: list[tuple[Arrays, dict[int, tuple[Arrays, float]]]] = []
        self.numbers: list[int] = []
        self.failures: list[int] = []
        self.late = dict(late or {})
        super().__init__(training_app(set(broken), mods), clients)

    def get_node_ids(self) -> list[int]:
        """Say who is there by now."""
        return [
            node
            for node in super().get_node_ids()
            if self.late.get(node - FIRST_NODE_ID, 0) <= len(self.rounds)
        ]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Do so, and keep rounds of training."""
        asked = list(messages)
        found = list(super().send_and_receive(asked, timeout=timeout))
        if asked and asked[0].metadata.message_type == "train":
            before = read(asked[0].content.array_records["arrays"])
            self.failures.append(sum(reply.has_error() for reply in found))
            self.numbers.append(int(str(asked[0].content["config"]["server-round"])))
            self.rounds.append(
                (
                    before,
                    {
                        reply.metadata.src_node_id: (
                            read(reply.content.array_records["arrays"]),
                            float(reply.content["metrics"]["num-examples"]),
                        )
                        for reply in found
                        if not reply.has_error()
                    },
                )
            )
        return found


def loss_of(client_id: int) -> float:
    """Return the loss that a client says it has."""
    return 0.3 + 0.2 * client_id


def training_app(broken: set[tuple[int, int]], mods: Sequence[Any] = ()) -> ClientApp:
    """Return clients that move every array, each its own way; some fail at times."""
    app = ClientApp(mods=list(mods))

    @app.train()
    def train(message: Message, context: Context) -> Message:
        client_id = int(str(context.node_config["partition-id"]))
        number = int(str(message.content["config"]["server-round"]))
        if (client_id, number) in broken:
            raise RuntimeError("out of power")
        draws = np.random.default_rng([client_id, number])
        record = message.content.array_records["arrays"]
        local = {}
        for name, array in read(record).items():
            if array.dtype.kind == "f":
                moved = array + 0.1 * draws.normal(size=array.shape)
                if name.endswith("running_var"):
                    moved = 1 + draws.random(array.shape)
                local[name] = np.asarray(moved, array.dtype)
            else:
                local[name] = np.asarray(3 + client_id, array.dtype)
        place = 100 + client_id * number if client_id < 3 else 0.5
        if number == 1 and client_id < 3:
            place = 100 + client_id
        metrics = MetricRecord(
            {
                "num-examples": 10 + 7 * client_id,
                "train_loss": loss_of(client_id),
                "place": place,
            }
        )
        return Message(
            Records({"arrays": written(local), "metrics": metrics}), reply_to=message
        )

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        metrics = MetricRecord({"num-examples": 10, "accuracy": 0.5})
        return Message(Records({"metrics": metrics}), reply_to=message)

    return app


def read(record: ArrayRecord) -> Arrays:
    return {name: array.numpy() for name, array in record.items()}


def written(arrays: Mapping[str, np.ndarray]) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(a)) for name, a in arrays.items()})


def contributions(
    grid: Watched, *, rate: float = 1.0, momentum: float = 0.0
) -> dict[int, Arrays]:
    """Return each node's contribution, by hand from the messages, in float64."""
    found: dict[int, Arrays] = {}
    buffers: dict[int, Arrays] = {}
    nothing = {name: np.zeros(INITIAL[name].shape) for name in TRAINED}
    for before, replies in grid.rounds:
        if not replies:  # the model stays as it was, and so does its momentum
            continue
        total = sum(count for _, count in replies.values())
        for node in {*buffers, *replies}:
            buffer = buffers.setdefault(node, dict(nothing))
            row = found.setdefault(node, dict(nothing))
            for name in TRAINED:
                step = momentum * buffer[name]
                if node in replies:
                    local, count = replies[node]
                    moved = local[name].astype(np.float64) - before[name]
                    step = step + count / total * moved
                buffer[name] = step
                row[name] = row[name] + rate * step
    return found


def flat(record: ArrayRecord) -> np.ndarray:
    """Return the trained arrays as one float32 vector."""
    arrays = read(record)
    return np.concatenate([arrays[n].reshape(-1).astype(np.float32) for n in TRAINED])


def step_of(arrays: Arrays) -> float:
    """Return how far the trained arrays are from the initial ones."""
    return float(np.sqrt(sum(((arrays[n] - INITIAL[n]) ** 2).sum() for n in TRAINED)))


def trained(
    strategy: Strategy,
    grid: Watched,
    rounds: int = 3,
    initial: Mapping[str, np.ndarray] = INITIAL,
    **more: Any,
) -> tuple[Forgettable, ArrayRecord]:
    """Return a strategy that has trained, and its model."""
    held = Forgettable(strategy, **more)
    result = held.start(
        grid=grid,
        initial_arrays=written(initial),
        num_rounds=rounds,
        timeout=PATIENCE_S,
    )
    return held, result.arrays
