"""Same seed, same bytes: twice, in every engine, whatever else draws numbers."""

import io
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Context
from flwr.serverapp import Grid
from rich.console import Console

from builders.federations import small_config
from builders.trainings import files_of
from fedneg.core.progress import Progress
from fedneg.engines.simulate import simulate
from fedneg.federation import Federation

OVERRIDES = (
    "clients=3",
    "forget=1",
    "attack=backdoor",
    "strategy.server_momentum=0.5",
    "client.batch_size=20",
)


@pytest.fixture(scope="module")
def inline(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the model files of one run in this process."""
    return files_of(
        small_config(*OVERRIDES), tmp_path_factory.mktemp("inline") / "files"
    )


def test_four_models_differ(inline: dict[str, bytes]):
    assert set(inline) == {"original", "unlearned", "recovered", "retrained"}
    assert len(set(inline.values())) == 4


def test_same_seed_gives_the_same_bytes_and_leaves_global_generators_alone(
    inline: dict[str, bytes], tmp_path: Path
):
    """Global generators are in another state than in the first run, and stay there."""
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    assert files_of(small_config(*OVERRIDES), tmp_path / "again") == inline
    assert random.getstate() == before[0]
    for one, two in zip(np.random.get_state(), before[1], strict=True):
        np.testing.assert_array_equal(one, two)
    assert torch.equal(torch.get_rng_state(), before[2])


def test_another_seed_gives_other_bytes(inline: dict[str, bytes], tmp_path: Path):
    other = files_of(small_config(*OVERRIDES, "seed=1"), tmp_path / "other")
    assert all(other[name] != inline[name] for name in inline)


def test_retraining_remembers_nothing_of_the_training(
    inline: dict[str, bytes], tmp_path: Path
):
    """Neither momentum nor rows: the same bytes as with nothing before it."""
    config = small_config(*OVERRIDES)

    def main(grid: Grid, _: Context) -> None:
        progress = Progress("", 0, Console(file=io.StringIO()))
        federation = Federation(grid, config, progress)
        alone = federation.retrain(config.remaining)
        federation.save(tmp_path / "alone.safetensors", alone)

    simulate(main, clients=config.clients, engine=config.engine)
    assert (tmp_path / "alone.safetensors").read_bytes() == inline["retrained"]


def test_number_of_torch_threads_changes_no_bit(
    inline: dict[str, bytes], tmp_path: Path
):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert files_of(small_config(*OVERRIDES), tmp_path / "threads") == inline
    finally:
        torch.set_num_threads(threads)
