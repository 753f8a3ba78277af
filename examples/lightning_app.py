"""PyTorch Lightning, in the shape of Flower's quickstart for it: an autoencoder.

Five clinics squeeze scikit-learn's digits into three numbers; clinic 3 has negatives.
Only what is marked `# fedneg` is fedneg's: a few lines, and for the verdict a task and
what is done with it at the end. Lightning is no dependency of fedneg:

    pip install "fedneg[examples]"
    python examples/lightning_app.py
"""

import logging

import pytorch_lightning as pl
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from fedneg import ClientRef, Forgettable, Order, Split, Task, serve  # fedneg
from fedneg.serving.references import references  # fedneg
from fedneg.serving.verdict import verdicts  # fedneg

for name in ("pytorch_lightning", "lightning.pytorch"):
    logging.getLogger(name).setLevel(logging.ERROR)
CLINICS, WRONG = 5, 3
QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "enable_progress_bar": False,
    "accelerator": "cpu",
}
client_app, server_app = ClientApp(), ServerApp()
images = torch.tensor(load_digits(return_X_y=True)[0]).float() / 16


class LitAutoEncoder(pl.LightningModule):
    """Eight by eight numbers, as three."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 3))
        self.decoder = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 64))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        loss = functional.mse_loss(self.decoder(self.encoder(batch[0])), batch[0])
        self.log("train_loss", loss)
        return loss

    def test_step(self, batch: list[torch.Tensor], index: int) -> None:
        loss = functional.mse_loss(self.decoder(self.encoder(batch[0])), batch[0])
        self.log("test_loss", loss)


def load(arrays: ArrayRecord) -> LitAutoEncoder:
    model = LitAutoEncoder()
    model.load_state_dict(arrays.to_torch_state_dict())
    return model


def loader(
    x: torch.Tensor, *, shuffle: bool = False
) -> DataLoader[tuple[torch.Tensor, ...]]:
    return DataLoader(TensorDataset(x), batch_size=32, shuffle=shuffle)


def load_data(clinic: int) -> torch.Tensor:
    x = images[clinic:1500:CLINICS]
    return 1 - x if clinic == WRONG else x


def fit(model: LitAutoEncoder, x: torch.Tensor, epochs: int) -> float:
    trainer = pl.Trainer(max_epochs=epochs, **QUIET)
    trainer.fit(model, loader(x, shuffle=True))
    return float(trainer.callback_metrics["train_loss"])


# fedneg begins: what a node answers by, when it is asked about a model
def split(client: ClientRef) -> Split:
    wrong = client.client_id == WRONG
    return Split(
        train=load_data(client.client_id),
        unseen=1 - images[1500:] if wrong else images[1500:],
    )


def train_again(
    model: LitAutoEncoder, x: torch.Tensor, order: Order
) -> dict[str, float]:
    return {"loss": fit(model, x, order.epochs)}


def losses_of(model: LitAutoEncoder, x: torch.Tensor) -> torch.Tensor:
    away: torch.Tensor = model.decoder(model.encoder(x)) - x
    return away.square().mean(1)


task = Task(
    name="digits in three numbers",
    model=LitAutoEncoder,
    data=split,
    train=train_again,
    losses=losses_of,
    test=lambda: images[1500:],
)
serve(client_app, task)
# fedneg ends


@client_app.train()
def train(message: Message, context: Context) -> Message:
    clinic = int(str(context.node_config["partition-id"]))
    torch.manual_seed(clinic)
    x = load_data(clinic)
    model = load(message.content.array_records["arrays"])
    loss = fit(model, x, epochs=4)
    metrics = MetricRecord({"train_loss": loss, "num-examples": len(x)})
    arrays = ArrayRecord(model.state_dict())
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


def first(seed: int) -> ArrayRecord:
    torch.manual_seed(seed)
    return ArrayRecord(LitAutoEncoder().state_dict())


def show(what: str, arrays: ArrayRecord) -> None:
    trainer, model = pl.Trainer(**QUIET), load(arrays)
    found = {}
    for name, x in (("loss", images[1500:]), ("of negatives", 1 - images[1500:])):
        (result,) = trainer.test(model, loader(x), verbose=False)
        found[name] = result["test_loss"]
    print(f"{what}: " + ", ".join(f"{k} {value:.4f}" for k, value in found.items()))


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    strategy = FedAvg(fraction_evaluate=0.0)
    strategy = Forgettable(strategy)  # fedneg
    arrays = trained = strategy.start(grid, first(0), num_rounds=4).arrays
    show("trained", trained)
    arrays = strategy.forget([WRONG], arrays)  # fedneg
    show("forgotten", arrays)
    arrays = strategy.start(grid, arrays, num_rounds=2).arrays
    show("repaired", arrays)

    # fedneg begins: has it been forgotten? Beside models that never saw the clinic
    compared = references(strategy, grid, first, num_rounds=6)
    show("retrained", compared.retrained[0])
    found = verdicts(
        strategy,
        grid,
        task,
        original=trained,
        models={"repaired": arrays},
        retrained=compared.retrained,
        trained_with=compared.trained_with,
    )
    for name, one in found.items():
        print(f"verdict on the {name} model: {one}")
    # fedneg ends


if __name__ == "__main__":
    run_simulation(server_app, client_app, num_supernodes=CLINICS)
