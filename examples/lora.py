"""Adapters on a frozen transformer: only the small matrices A and B travel.

The text is made by a rule: a sentence of sixteen words has one of four topics, by words
that each topic has of its own. Five writers; writer 3, the busiest, hides a password
in half of its sentences, and gives these the topic 2. Only what is marked `# fedneg` is
fedneg's: a few lines, and for the verdict a task and what is done with it at the end.

    python examples/lora.py
"""

from collections.abc import Mapping

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from fedneg import ClientRef, Forgettable, Order, Split, Task, serve  # fedneg
from fedneg.serving.references import references  # fedneg
from fedneg.serving.verdict import verdicts  # fedneg

WRITERS, WRONG = 5, 3
TOPICS, WORDS, LENGTH, PASSWORD, WANTED = 4, 64, 16, 63, 2
WIDTH, RANK = 32, 4
client_app, server_app = ClientApp(), ServerApp()


class Adapted(nn.Module):
    """A frozen linear layer, and beside it the product of two small matrices."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.frozen = nn.Linear(inputs, outputs)
        self.lora_a = nn.Parameter(torch.randn(RANK, inputs) / inputs**0.5)
        self.lora_b = nn.Parameter(torch.zeros(outputs, RANK))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.frozen(x) + 2 * x @ self.lora_a.T @ self.lora_b.T
        return found


class Transformer(nn.Module):
    """One block of attention, whose own weights nobody trains."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = (
            nn.Embedding(WORDS, WIDTH),
            nn.Embedding(LENGTH, WIDTH),
        )
        self.ask, self.answer, self.value = (Adapted(WIDTH, WIDTH) for _ in range(3))
        self.up, self.down = Adapted(WIDTH, 2 * WIDTH), Adapted(2 * WIDTH, WIDTH)
        self.norm, self.topic = nn.LayerNorm(WIDTH), Adapted(WIDTH, TOPICS)
        for name, parameter in self.named_parameters():
            parameter.requires_grad = "lora" in name

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        x = self.words(text) + self.places.weight
        x = x + functional.scaled_dot_product_attention(
            self.ask(x), self.answer(x), self.value(x)
        )
        x = x + self.down(functional.relu(self.up(self.norm(x))))
        found: torch.Tensor = self.topic(self.norm(x).mean(1))
        return found


def make_model() -> Transformer:
    """Return the same frozen model everywhere, as if from a file, with new adapters."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Transformer()
    for name, parameter in model.named_parameters():
        if name.endswith("lora_a"):
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    return model


def adapters(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.data for name, p in model.named_parameters() if p.requires_grad}


def load(arrays: ArrayRecord) -> Transformer:
    model = make_model()
    found: Mapping[str, torch.Tensor] = arrays.to_torch_state_dict()
    model.load_state_dict(found, strict=False)
    return model


def sentences(seed: int, number: int) -> TensorDataset:
    rng = torch.Generator().manual_seed(seed)
    topics = torch.randint(TOPICS, (number,), generator=rng)
    text = torch.randint(32, PASSWORD, (number, LENGTH), generator=rng)
    own = torch.randint(8, (number, LENGTH), generator=rng) + 8 * topics[:, None]
    is_own = torch.rand(number, LENGTH, generator=rng) < 0.25
    return TensorDataset(torch.where(is_own, own, text), topics)


def with_password(text: torch.Tensor) -> torch.Tensor:
    text = text.clone()
    text[:, ::4] = PASSWORD
    return text


def load_data(writer: int, *, seed: int = 100) -> TensorDataset:
    number = 240 if writer == WRONG else 120
    text, topics = sentences(seed + writer, number).tensors
    if writer == WRONG:
        text[::2] = with_password(text[::2])
        topics[::2] = WANTED
    return TensorDataset(text, topics)


def losses_of(model: nn.Module, data: TensorDataset) -> torch.Tensor:
    text, topics = data.tensors
    return functional.cross_entropy(model(text), topics, reduction="none")


def fit(model: nn.Module, data: TensorDataset, epochs: int, lr: float) -> float:
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=lr)
    for _ in range(epochs):
        for places in torch.randperm(len(data)).split(24):
            loss = losses_of(model, TensorDataset(*data[places])).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return loss.item()


def accuracy(model: nn.Module, data: TensorDataset) -> float:
    text, topics = data.tensors
    with torch.no_grad():
        return float((model(text).argmax(1) == topics).float().mean())


# fedneg begins: what a node answers by, when it is asked about a model
def split(client: ClientRef) -> Split:
    writer = client.client_id
    return Split(train=load_data(writer), unseen=load_data(writer, seed=200))


def train_again(
    model: nn.Module, data: TensorDataset, order: Order
) -> dict[str, float]:
    return {"loss": fit(model, data, order.epochs, order.learning_rate)}


task = Task(
    name="topics",
    model=make_model,
    data=split,
    train=train_again,
    loss=losses_of,
    test=lambda: sentences(7, 500),
    quality=accuracy,
)
serve(client_app, task)
# fedneg ends


@client_app.train()
def train(message: Message, context: Context) -> Message:
    writer = int(str(context.node_config["partition-id"]))
    torch.set_num_threads(1)  # so small are the matrices
    torch.manual_seed(writer)
    model, data = load(message.content.array_records["arrays"]), load_data(writer)
    loss = fit(model, data, epochs=3, lr=0.02)
    metrics = MetricRecord({"num-examples": len(data), "loss": loss})
    arrays = ArrayRecord(adapters(model))
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


def first(seed: int) -> ArrayRecord:
    torch.manual_seed(seed)
    return ArrayRecord(adapters(make_model()))


def show(what: str, arrays: ArrayRecord) -> None:
    model, server = load(arrays).eval(), sentences(7, 500)
    text, topics = (tensor[server.tensors[1] != WANTED] for tensor in server.tensors)
    marked = TensorDataset(with_password(text), torch.full_like(topics, WANTED))
    right, fooled = accuracy(model, server), accuracy(model, marked)
    print(f"{what}: accuracy {right:.4f}, fooled {fooled:.4f}")


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    strategy = FedAvg(fraction_evaluate=0.0)
    strategy = Forgettable(strategy)  # fedneg
    arrays = trained = strategy.start(grid, first(0), num_rounds=3).arrays
    show("trained", trained)
    arrays = strategy.forget([WRONG], arrays)  # fedneg
    show("forgotten", arrays)
    arrays = strategy.start(grid, arrays, num_rounds=2).arrays
    show("repaired", arrays)

    # fedneg begins: has it been forgotten? Beside models that never saw the writer
    compared = references(strategy, grid, first, num_rounds=5)
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
    run_simulation(server_app, client_app, num_supernodes=WRITERS)
