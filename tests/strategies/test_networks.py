"""Other networks than a dense one: every method, every engine, a lasting federation."""

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import load_file

from builders.federations import RecordingGrid, small_config
from builders.lives import ask, files_with, go_on, receipt_of
from builders.networks import prototype_of
from builders.trainings import files_of
from fedneg.client_app import app as real_clients
from fedneg.core.errors import FedNegError
from fedneg.core.layout import Kind
from fedneg.core.progress import Progress
from fedneg.core.settings import methods
from fedneg.federation import Federation
from fedneg.records.state import State
from fedneg.tasks.model import Network, get_parameters, set_parameters

SMALL = "model.channels=[4,8]"


def federation_of(*overrides: str) -> Federation:
    config = small_config("clients=4", "forget=2", SMALL, *overrides)
    grid = RecordingGrid(real_clients, config.clients)
    return Federation(grid, config, Progress("", 0, Console(file=io.StringIO())))


@pytest.mark.parametrize("method", methods())
def test_every_method_forgets_with_batchnorm(method: str):
    """Parameters by the method; statistics are the mean of the clients that stay."""
    found = federation_of(f"strategy={method}", "model=cnn_bn", "strategy.gate=0")
    original = found.train()
    ledger, layout = found.strategy.ledger, found.prototype.layout
    rows = ledger.statistics.rows.copy()
    examples = dict(ledger.statistics.examples)
    assert sorted(examples) == [0, 1, 2, 3]
    assert len(original) == layout.width > layout.size
    unlearned = found.unlearn(original, (2,))
    left = sorted(ledger.statistics.examples)
    # Who begins anew has those of the rounds that it asked for, if any.
    assert left == ([] if method == "random_init" else [0, 1, 3])
    assert not ledger.statistics.rows[2].any()
    if method in ("negative_gradient", "do_nothing", "weight_negation", "dampening"):
        weights = np.array([examples[k] for k in left]) / sum(examples[k] for k in left)
        mean = weights @ rows[left].astype(np.float64)
        means = layout.statistics.stop - layout.size
        np.testing.assert_allclose(
            unlearned[layout.statistics], mean[:means], rtol=1e-6, atol=1e-7
        )
    recovered = found.recover(unlearned, found.config.remaining, 1)
    variances = [
        array
        for name, array in zip(
            layout.names, unlearned_arrays(found, recovered), strict=True
        )
        if name.endswith("running_var")
    ]
    assert len(variances) == 2
    assert all((array > 0).all() for array in variances)
    assert ledger.deviation(recovered) < 1e-6
    assert found.test.measure(recovered).accuracy > 0.15


def unlearned_arrays(found: Federation, model: np.ndarray) -> list[np.ndarray]:
    """Return a model's arrays."""
    set_parameters(found.test.model, split(found, model))
    return get_parameters(found.test.model)


def split(found: Federation, model: np.ndarray) -> list[np.ndarray]:
    """Return the vector as arrays."""
    bounds = np.cumsum([int(np.prod(s)) for s in found.shapes])[:-1]
    return [
        part.reshape(shape)
        for part, shape in zip(np.split(model, bounds), found.shapes, strict=True)
    ]


@pytest.mark.parametrize("model", ["cnn", "cnn_bn"])
def test_workers_give_the_bytes_of_inline(model: str, tmp_path: Path):
    options = ("clients=3", "forget=1", f"model={model}", SMALL)
    inline = files_of(small_config(*options), tmp_path / "inline")
    local = files_of(
        small_config(*options, "engine=local", "engine.workers=2"), tmp_path / "local"
    )
    assert len(inline) == 4
    assert inline == local


def test_a_saved_model_loads_with_its_names_and_types(tmp_path: Path):
    options = ("clients=3", "forget=1", "model=cnn_bn", SMALL)
    files_of(small_config(*options), tmp_path / "out")
    network = prototype_of(small_config(*options))
    found = load_file(tmp_path / "out" / "original.safetensors")
    assert set(found) == set(network.layout.names)
    expected = network.build().state_dict()
    counter = next(p.name for p in network.layout.of_kind(Kind.COUNTER))
    assert found[counter].dtype == np.int64
    # Two rounds of one epoch; in batches, of which the largest client had most.
    assert found[counter] > 0
    assert {n: a.shape for n, a in found.items()} == {
        n: tuple(t.shape) for n, t in expected.items()
    }


@pytest.mark.parametrize("encrypt", ["false", "true"])
def test_a_lasting_federation_forgets_and_goes_on(encrypt: str, tmp_path: Path):
    """Its checkpoints hold the statistics; a purge takes the client's row."""
    state = tmp_path / "state"
    options = ("model=cnn_bn", SMALL, f"encrypt={encrypt}", "strategy.gate=0")
    go_on(state, *options)
    rows = State(state).checkpoints(every=1, encrypt=encrypt == "true").rows(2, 1)
    (row,) = (row for name, row in rows.items() if name.startswith("statistics"))
    assert row.size == 24 + 2
    if encrypt == "false":
        assert files_with(state, row) != []
    ask(state, 1)
    assert go_on(state).asked("train") == [0, 2]
    receipt = receipt_of(state, 1)
    assert receipt["purged"]["matches"] == 0
    assert files_with(state, row) == []
    # Another round, from the checkpoint, ends where one run would have ended.
    model = State(state).model.read_bytes()
    assert go_on(state, "rounds=3").asked("train") == [0, 2]
    assert State(state).model.read_bytes() != model


def test_other_seeds_give_other_convolutions():
    network = prototype_of(small_config("model=cnn", "model.channels=[4]"))
    first, again, other, drawn = (
        network.initial(seed=seed, draw=draw)
        for seed, draw in ((0, 0), (0, 0), (1, 0), (0, 1))
    )
    assert [a.tobytes() for a in first] == [a.tobytes() for a in again]
    weight = network.layout.names.index("1.weight")
    for others in (other, drawn):
        assert not np.array_equal(first[weight], others[weight])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("model=cnn", "model.channels=[6]"), r"a multiple of 4, got \[6\]"),
        (("model=cnn", "model.channels=[]"), r"at least one width.* got \[\]"),
        (("model=cnn", "model.channels=[4,4,4,4]"), "4 convolutions, .* one of"),
        (("model=mlp", "++model.channels=[4]"), "model.channels is for model=cnn"),
        (("model.name=rnn",), "model.name must be one of mlp, cnn, cnn_bn"),
    ],
)
def test_what_is_no_network_is_one_line(overrides: tuple[str, ...], message: str):
    with pytest.raises(FedNegError, match=message):
        Network(small_config(*overrides).model, (8, 8), 10).fresh()
