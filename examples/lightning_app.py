"""PyTorch Lightning, in the shape of Flower's quickstart for it: an autoencoder.

Five clinics squeeze scikit-learn's digits into three numbers; clinic 3 has negatives.
Only the lines marked `# fedneg` are fedneg's. Lightning is no dependency of fedneg:

    pip install pytorch-lightning      # or fedneg[examples]
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

from fedneg import Forgettable, serve  # fedneg

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
serve(client_app)  # fedneg
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


@client_app.train()
def train(message: Message, context: Context) -> Message:
    partition_id = int(str(context.node_config["partition-id"]))
    x = images[partition_id:1500:CLINICS]
    if partition_id == WRONG:
        x = 1 - x
    model = load(message.content.array_records["arrays"])
    trainer = pl.Trainer(max_epochs=4, **QUIET)
    trainer.fit(model, loader(x, shuffle=True))
    metrics = MetricRecord(
        {
            "train_loss": float(trainer.callback_metrics["train_loss"]),
            "num-examples": len(x),
        }
    )
    arrays = ArrayRecord(model.state_dict())
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


def show(what: str, arrays: ArrayRecord) -> None:
    trainer, model = pl.Trainer(**QUIET), load(arrays)
    found = {}
    for name, x in (("loss", images[1500:]), ("of negatives", 1 - images[1500:])):
        (result,) = trainer.test(model, loader(x), verbose=False)
        found[name] = result["test_loss"]
    print(f"{what}: " + ", ".join(f"{k} {value:.4f}" for k, value in found.items()))


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    torch.manual_seed(0)
    arrays = ArrayRecord(LitAutoEncoder().state_dict())
    strategy = FedAvg(fraction_evaluate=0.0)
    strategy = Forgettable(strategy)  # fedneg
    arrays = strategy.start(grid, arrays, num_rounds=4).arrays
    show("trained", arrays)
    arrays = strategy.forget([WRONG], arrays)  # fedneg
    show("forgotten", arrays)
    show("repaired", strategy.start(grid, arrays, num_rounds=2).arrays)


if __name__ == "__main__":
    run_simulation(server_app, client_app, num_supernodes=CLINICS)
