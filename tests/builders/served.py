"""A stranger's app with a task, served."""

from dataclasses import replace

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord
from flwr.app import RecordDict as Records
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg
from torch import nn

from builders import own_tasks
from builders.federations import RecordingGrid
from builders.waiting import PATIENCE_S
from fedneg import ClientRef, Forgettable, Order, Task, serve
from fedneg.tasks import calls

ORDER = Order(epochs=1, learning_rate=0.5, batch_size=16, seed=3, device="cpu")
TASK = own_tasks.marked


def record(model: nn.Module) -> ArrayRecord:
    return ArrayRecord(model.state_dict())


def first(task: Task, seed: int = 0) -> ArrayRecord:
    return record(calls.make_model(task, seed=seed))


def app_of(task: Task) -> ClientApp:
    """Return an owner's app, which trains as its task does."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        k = int(str(context.node_config["partition-id"]))
        model = task.model()
        arrays = message.content.array_records["arrays"].to_torch_state_dict()
        model.load_state_dict(arrays)
        data = task.data(ClientRef(k, 4)).train
        torch.set_num_threads(1)
        torch.manual_seed(k)
        task.train(model, data, replace(ORDER, epochs=3))
        metrics = MetricRecord({"num-examples": len(data)})
        content = Records({"arrays": record(model), "metrics": metrics})
        return Message(content, reply_to=message)

    return app


def federation(task: Task = TASK, rounds: int = 1) -> tuple[Forgettable, RecordingGrid]:
    """Return a served federation of four that has trained."""
    grid = RecordingGrid(serve(app_of(task), task), 4)
    held = Forgettable(FedAvg(fraction_evaluate=0.0))
    held.start(grid, first(task), rounds, timeout=PATIENCE_S)
    return held, grid
