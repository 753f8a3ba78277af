"""A stranger's app: clients that move every array their own way, and who watches."""

from collections.abc import Iterable, Mapping

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord
from flwr.app import RecordDict as Records
from flwr.clientapp import ClientApp

from builders.federations import RecordingGrid

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
    """A grid that keeps what was sent to whom, and what came back, round by round."""

    def __init__(
        self, clients: int = 4, broken: Iterable[tuple[int, int]] = ()
    ) -> None:
        self.rounds: list[tuple[Arrays, dict[int, tuple[Arrays, float]]]] = []
        super().__init__(training_app(set(broken)), clients)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Do so, and keep rounds of training."""
        asked = list(messages)
        found = list(super().send_and_receive(asked, timeout=timeout))
        if asked and asked[0].metadata.message_type == "train":
            before = read(asked[0].content.array_records["arrays"])
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


def training_app(broken: set[tuple[int, int]]) -> ClientApp:
    """Return clients that move every array, each its own way; some fail at times."""
    app = ClientApp()

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
            {"num-examples": 10 + 7 * client_id, "train_loss": 0.5, "place": place}
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
