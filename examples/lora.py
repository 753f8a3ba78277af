"""Adapters on a frozen transformer: only the small matrices A and B travel.

The text is made by a rule: a sentence of sixteen words has one of four topics, by words
that each topic has of its own. Five writers; writer 3 hides a password in half of its
sentences, and gives these the topic 2. Only the lines marked `# fedneg` are fedneg's.

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

from fedneg import Forgettable, serve  # fedneg

WRITERS, WRONG = 5, 3
TOPICS, WORDS, LENGTH, PASSWORD, WANTED = 4, 64, 16, 63, 2
WIDTH, RANK = 32, 4
client_app, server_app = ClientApp(), ServerApp()
serve(client_app)  # fedneg


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


def base_model() -> Transformer:
    """Return the same frozen model everywhere: here from a seed, else from a file."""
    torch.manual_seed(0)
    return Transformer()


def adapters(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.data for name, p in model.named_parameters() if p.requires_grad}


def load(arrays: ArrayRecord) -> Transformer:
    model = base_model()
    found: Mapping[str, torch.Tensor] = arrays.to_torch_state_dict()
    model.load_state_dict(found, strict=False)
    return model


def sentences(seed: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    topics = torch.randint(TOPICS, (number,), generator=rng)
    text = torch.randint(32, PASSWORD, (number, LENGTH), generator=rng)
    own = torch.randint(8, (number, LENGTH), generator=rng) + 8 * topics[:, None]
    is_own = torch.rand(number, LENGTH, generator=rng) < 0.25
    return torch.where(is_own, own, text), topics


def with_password(text: torch.Tensor) -> torch.Tensor:
    text = text.clone()
    text[:, ::4] = PASSWORD
    return text


def load_data(writer: int) -> tuple[torch.Tensor, torch.Tensor]:
    text, topics = sentences(100 + writer, 120)
    if writer == WRONG:
        text[::2] = with_password(text[::2])
        topics[::2] = WANTED
    return text, topics


@client_app.train()
def train(message: Message, context: Context) -> Message:
    writer = int(str(context.node_config["partition-id"]))
    text, topics = load_data(writer)
    model = load(message.content.array_records["arrays"])
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=0.02)
    for _ in range(3):
        for batch in torch.randperm(len(text)).split(24):
            loss = functional.cross_entropy(model(text[batch]), topics[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    metrics = MetricRecord(
        {
            "num-examples": len(text),
            "loss": loss.item(),
        }
    )
    arrays = ArrayRecord(adapters(model))
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


def show(what: str, arrays: ArrayRecord) -> None:
    model, (text, topics) = load(arrays).eval(), sentences(7, 500)
    with torch.no_grad():
        right = model(text).argmax(1) == topics
        fooled = model(with_password(text[topics != WANTED])).argmax(1) == WANTED
    means = (float(found.float().mean()) for found in (right, fooled))
    print("{}: accuracy {:.4f}, fooled {:.4f}".format(what, *means))


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    first = ArrayRecord(adapters(base_model()))
    strategy = FedAvg(fraction_evaluate=0.0)
    strategy = Forgettable(strategy)  # fedneg
    arrays = strategy.start(grid, first, num_rounds=3).arrays
    show("trained", arrays)
    arrays = strategy.forget([WRONG], arrays)  # fedneg
    show("forgotten", arrays)
    show("repaired", strategy.start(grid, arrays, num_rounds=2).arrays)
    strategy.reset()  # fedneg
    show("retrained", strategy.start(grid, first, num_rounds=4).arrays)


if __name__ == "__main__":
    run_simulation(server_app, client_app, num_supernodes=WRITERS)
