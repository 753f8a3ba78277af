"""pytorchexample: A Flower / PyTorch app."""

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from fedneg import Forgettable  # fedneg
from pytorchexample.task import (
    POISONED,
    Net,
    load_backdoor,
    load_centralized_dataset,
    test,
)
from pytorchexample.verdict import show_verdicts  # fedneg

# Create ServerApp
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Main entry point for the ServerApp."""
    # Read run config
    fraction_evaluate: float = context.run_config["fraction-evaluate"]
    num_rounds: int = context.run_config["num-server-rounds"]
    lr: float = context.run_config["learning-rate"]

    # Load global model
    torch.manual_seed(0)
    arrays = ArrayRecord(Net().state_dict())

    # Initialize FedAvg strategy
    strategy = FedAvg(fraction_evaluate=fraction_evaluate)
    strategy = Forgettable(strategy)  # fedneg

    # Start strategy, run FedAvg for `num_rounds`
    result = strategy.start(
        grid=grid,
        initial_arrays=arrays,
        train_config=ConfigRecord({"lr": lr}),
        num_rounds=num_rounds,
        evaluate_fn=global_evaluate,
    )
    arrays = trained = result.arrays
    show("trained", arrays)

    arrays = strategy.forget([POISONED], arrays)  # fedneg
    show("forgotten", arrays)

    # And two rounds more
    result = strategy.start(
        grid=grid,
        initial_arrays=arrays,
        train_config=ConfigRecord({"lr": lr}),
        num_rounds=2,
        evaluate_fn=global_evaluate,
    )
    show("repaired", result.arrays)

    # fedneg begins
    config, rounds = ConfigRecord({"lr": lr}), num_rounds + 2
    show_verdicts(strategy, grid, trained, result.arrays, rounds, config)
    # fedneg ends


def global_evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    """Evaluate model on central data."""
    # Load the model and initialize it with the received weights
    model = Net()
    model.load_state_dict(arrays.to_torch_state_dict())
    device = "cuda:0" if torch.cuda.is_available() else "cpu"

    # Evaluate the global model on the test set
    test_loss, test_acc = test(model, load_centralized_dataset(), device)
    _, fooled = test(model, load_backdoor(), device)

    # Return the evaluation metrics
    return MetricRecord({"accuracy": test_acc, "fooled": fooled, "loss": test_loss})


def show(what: str, arrays: ArrayRecord) -> None:
    """Print how good a model is."""
    found = global_evaluate(0, arrays)
    print(f"{what}: accuracy {found['accuracy']:.4f}, fooled {found['fooled']:.4f}")
