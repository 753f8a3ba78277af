"""Whole trainings in this process, and what they leave."""

import io
from pathlib import Path

import pytest
from flwr.app import Context
from flwr.serverapp import Grid
from rich.console import Console

from builders.federations import small_config
from fedneg.core.progress import Progress
from fedneg.core.settings import Config
from fedneg.engines.simulate import simulate
from fedneg.federation import Federation


def files_of(config: Config, folder: Path) -> dict[str, bytes]:
    """Train, forget, recover and retrain; return the bytes of the model files."""
    folder.mkdir()

    def main(grid: Grid, _: Context) -> None:
        progress = Progress("", 0, Console(file=io.StringIO()))
        federation = Federation(grid, config, progress)
        original = federation.train()
        unlearned = federation.unlearn(original, config.forget)
        recovered = federation.recover(unlearned, config.remaining, 1)
        models = {"original": original, "unlearned": unlearned, "recovered": recovered}
        models["retrained"] = federation.retrain(config.remaining)
        for name, parameters in models.items():
            federation.save(folder / f"{name}.safetensors", parameters)

    simulate(main, clients=config.clients, engine=config.engine)
    return {p.stem: p.read_bytes() for p in folder.iterdir()}


def federate(cache: Path, *overrides: str) -> tuple[bytes, Federation]:
    """Train three rounds with a cache; return the model's bytes and the federation."""
    config = small_config("clients=3", "rounds=3", "forget=1", "cache=true", *overrides)
    found: list[tuple[bytes, Federation]] = []

    def main(grid: Grid, _: Context) -> None:
        federation = Federation(
            grid, config, Progress("", 0, Console(file=io.StringIO()))
        )
        found.append((federation.train().tobytes(), federation))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDNEG_CACHE", str(cache))
        simulate(main, clients=config.clients, engine=config.engine)
    return found[0]
