"""Train once: what shares a training, what does not, and the command that shows it."""

import fcntl
import io
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message
from flwr.serverapp import Grid
from rich.console import Console

from builders.federations import RecordingGrid, small_config
from builders.programs import command
from fedneg.cli.application import run as run_words
from fedneg.client_app import app as client_app
from fedneg.core.errors import FedNegError
from fedneg.core.parameters import Vector
from fedneg.core.progress import Progress
from fedneg.core.settings import Config
from fedneg.data.datasets import load_dataset
from fedneg.engines.inline import FIRST_NODE_ID, InlineGrid
from fedneg.engines.simulate import simulate
from fedneg.federation import Federation, composition
from fedneg.ledger import training_cache as store
from fedneg.ledger.training_cache import (
    Entry,
    Store,
    digest_of,
    training_identity,
)
from fedneg.strategies.base import LedgerFedAvg
from fedneg.strategies.negative_gradient import NegativeGradient

BASE = ("clients=3", "forget=1", "cache=true")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a cache folder of this test's own."""
    monkeypatch.setenv("FEDNEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def federation_of(config: Config, work: str = "train retrain") -> Federation:
    """Train and perhaps retrain; return the federation afterwards."""
    made: list[Federation] = []

    def main(grid: Grid, _: Context) -> None:
        federation = Federation(
            grid, config, Progress("", 0, Console(file=io.StringIO()))
        )
        made.append(federation)
        if "train" in work.split():
            federation.train()
        if "retrain" in work.split():
            federation.retrain(config.remaining)

    simulate(main, clients=config.clients, engine=config.engine)
    return made[0]


def test_a_second_run_trains_nothing(cache: Path):
    """Whom to forget is no part of a training, so a sweep trains once."""
    first = federation_of(small_config(*BASE))
    assert (first.reused, first.resumed) == (set(), {"train": 0, "retrain": 0})
    same = federation_of(small_config(*BASE))
    assert (same.reused, same.resumed) == ({"train", "retrain"}, {})
    other = federation_of(small_config(*BASE, "forget=2"))
    assert (other.reused, other.resumed) == ({"train"}, {"retrain": 0})
    assert len(Store().entries()) == 3


def test_what_is_reused_is_what_was_trained(cache: Path):
    """Model, ledger, history, reports and times, as if it had been trained here."""
    config = small_config(*BASE, "strategy.server_momentum=0.5")
    first, second = federation_of(config, "train"), federation_of(config, "train")
    assert second.history == first.history
    assert second.strategy.reports == [
        replace(r, metrics={}) for r in first.strategy.reports
    ]
    assert second.seconds["train"] == first.seconds["train"]
    for name, array in first.strategy.ledger.arrays().items():
        assert array.tobytes() == second.strategy.ledger.arrays()[name].tobytes()


@pytest.mark.parametrize(
    "change",
    [
        *("seed=1", "clients=4", "rounds=3", "model.hidden=[17]"),
        *("client.learning_rate=0.02", "client.batch_size=16", "client.momentum=0.5"),
        *("client.local_epochs=2", "strategy.server_momentum=0.5"),
        *("strategy.server_learning_rate=0.5", "strategy.client_fraction=0.5"),
        *("strategy.max_update_norm_ratio=50", "strategy.max_num_examples=9999"),
        *("attack=backdoor", "strategy.form=parameters", "data.split_writers=true"),
        "strategy.keep_local_models=true",
        *("data.partition=iid", "data.partition=dirichlet", "data.partition=shards"),
    ],
)
def test_what_determines_a_training_changes_its_name(change: str, cache: Path):
    names = {identity_of(small_config(*BASE, *more)) for more in ((), (change,))}
    assert len(names) == 2


@pytest.mark.parametrize(
    "change",
    [
        *("forget=2", "retrain=remaining", "retrain_rounds=5", "reference=false"),
        *("engine=local", "strategy.scale=0.5", "strategy.renormalise=true"),
        *("strategy.round_timeout_s=5", "strategy.ledger_memory_mib=0"),
        *("checkpoint=3", "client.device=cpu", "client.evaluate_after_fit=true"),
        *("data.alpha=0.5", "data.shards_per_client=3"),  # of another partition
    ],
)
def test_what_does_not_determine_a_training_leaves_its_name(change: str, cache: Path):
    names = {identity_of(small_config(*BASE, *more)) for more in ((), (change,))}
    assert len(names) == 1


@pytest.mark.parametrize(
    ("partition", "change", "counts"),
    [
        ("dirichlet", "data.alpha=0.5", True),
        ("dirichlet", "data.shards_per_client=3", False),
        ("shards", "data.shards_per_client=3", True),
        ("shards", "data.alpha=0.5", False),
        ("iid", "data.alpha=0.5", False),
    ],
)
def test_a_partitions_option_counts_where_it_deals(
    partition: str, change: str, counts: bool
):
    plain = (*BASE, f"data.partition={partition}")
    one, two = small_config(*plain), small_config(*plain, change)
    assert (identity_of(one) != identity_of(two)) == counts


def identity_of(config: Config, clients: tuple[int, ...] | None = None) -> str:
    """Return the name under which a training with these clients is kept."""
    method = NegativeGradient(config, "no assignment").training_identity()
    return digest_of(
        training_identity(
            config,
            clients=clients or tuple(range(config.clients)),
            digest_of_data=lambda: load_dataset(config.data.name).digest,
            method=method,
        )
    )


def test_each_attack_option_counts_where_the_attacker_takes_part():
    attack = ("attack=backdoor", "attack.clients=[1]")
    plain = small_config(*BASE)
    for option in ("attack.fraction=0.4", "attack.target=3", "attack.trigger_size=2"):
        one, two = small_config(*BASE, *attack), small_config(*BASE, *attack, option)
        assert identity_of(one) != identity_of(two)
        # The reference without the attacker is the same for all of them.
        assert identity_of(one, (0, 2)) == identity_of(two, (0, 2))
        assert identity_of(one, (0, 2)) == identity_of(plain, (0, 2))
    assert identity_of(plain, (0, 2)) != identity_of(plain, (0, 1))


@pytest.mark.parametrize(
    ("attack", "option", "counts"),
    [
        ("model_replacement", "attack.boost=7", True),
        ("sybils", "attack.shared=backdoor", True),
        ("canaries", "attack.canaries=7", True),
        ("backdoor", "attack.boost=7", False),
        ("backdoor", "attack.shared=backdoor", False),
        ("backdoor", "attack.canaries=7", False),
    ],
)
def test_an_attacks_own_option_counts_with_that_attack_only(
    attack: str, option: str, counts: bool
):
    plain = (*BASE, f"attack={attack}", "attack.clients=[0,1]")
    one, two = small_config(*plain), small_config(*plain, option)
    assert (identity_of(one) != identity_of(two)) == counts


def test_a_change_of_the_training_code_invalidates(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    federation_of(small_config(*BASE), "train")
    (tmp_path / "altered.py").write_text("# another way to train\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(store, "TRAINING", (*store.TRAINING, "altered"))
    assert federation_of(small_config(*BASE), "train").resumed == {"train": 0}
    monkeypatch.undo()
    monkeypatch.setenv("FEDNEG_CACHE", str(cache))
    assert federation_of(small_config(*BASE), "train").reused == {"train"}


class OtherTraining(NegativeGradient):
    """Trains in another way."""

    def _sample(self, clients: Sequence[int], stream: int) -> list[int]:
        return super()._sample(clients, stream + 1)


class OtherForgetting(LedgerFedAvg):
    """Forgets in another way."""

    def rectify(self, before: Vector, client_ids: tuple[int, ...]) -> Vector:
        """Do nothing."""
        return before


def test_a_method_that_trains_differently_shares_no_training():
    config = replace(
        small_config(*BASE), strategy=replace(small_config().strategy, options={})
    )
    base = NegativeGradient(config, "").training_identity()
    assert OtherForgetting(config, "").training_identity() == base
    other = OtherTraining(config, "").training_identity()
    assert other != base
    assert other["options"] == {"form": "update", "scale": None, "renormalise": False}


def test_a_recovery_is_resumed_only_after_the_same_forgetting(cache: Path):
    """It starts from the unlearned model, which every option of a method changes."""

    def recover(*overrides: str) -> dict[str, int]:
        config = small_config(*BASE, *overrides)
        grid = RecordingGrid(client_app, config.clients)
        federation = Federation(
            grid, config, Progress("", 0, Console(file=io.StringIO()))
        )
        unlearned = federation.unlearn(federation.train(), config.forget)
        federation.recover(unlearned, config.remaining, 2, forget=config.forget)
        federation.resumed.pop("train", None)
        return federation.resumed

    assert recover() == {"recover": 0}
    assert recover() == {}
    assert recover("strategy.scale=0.5") == {"recover": 0}
    assert recover("forget=2") == {"recover": 0}


def test_a_data_set_with_one_other_pixel_is_another():
    data = load_dataset("digits")
    images = data.images.copy()
    images[-1, -1, -1] ^= 1
    assert replace(data, images=images).digest != data.digest
    labels = data.labels.copy()
    assert replace(data, labels=labels).digest == data.digest


def test_a_training_in_which_a_client_failed_is_not_reused(
    cache: Path, monkeypatch: pytest.MonkeyPatch
):
    """A worker that died is no part of what determines a training."""
    plain = InlineGrid.send_and_receive

    def lossy(self: InlineGrid, messages: Any, **rest: Any) -> list[Message]:
        return [
            reply
            for reply in plain(self, messages, **rest)
            if reply.metadata.message_type != "train"
            or reply.metadata.src_node_id != FIRST_NODE_ID + 2
        ]

    monkeypatch.setattr(InlineGrid, "send_and_receive", lossy)
    first = federation_of(small_config(*BASE), "train")
    assert [f.client_id for r in first.strategy.reports for f in r.failures] == [2, 2]
    monkeypatch.setattr(InlineGrid, "send_and_receive", plain)
    again = federation_of(small_config(*BASE), "train")
    assert again.resumed == {"train": 0}
    assert not any(r.failures for r in again.strategy.reports)


def test_cache_false_neither_reads_nor_writes(cache: Path):
    federation_of(small_config(*BASE), "train")
    before = sorted(cache.rglob("*"))
    off = federation_of(small_config(*BASE, "cache=false"))
    assert (off.reused, off.resumed) == (set(), {})
    assert sorted(cache.rglob("*")) == before


def test_real_clients_share_no_training(cache: Path, monkeypatch: pytest.MonkeyPatch):
    """Nothing tells the server whether their data are the same as before."""
    monkeypatch.setattr(composition, "is_deployed", lambda grid: True)
    config = small_config(*BASE, "strategy.trust=unauthenticated")
    made = federation_of(config, "train")
    assert len(made.history) == 1 + config.rounds
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FEDNEG_CACHE", str(tmp_path / "file"))
    with pytest.raises(FedNegError, match="file/training cannot be written: Not a dir"):
        federation_of(small_config(*BASE), "train")


@pytest.mark.slow
def test_a_sweep_trains_once_and_says_so(tmp_path: Path):
    done = command(
        *("-m", "forget=0,1,2", "data=digits", "rounds=2", "client.local_epochs=1"),
        *("engine=inline", "hydra.sweep.dir=sweep"),
        *("report=false", "verdict.retrainings=0"),
        cwd=tmp_path,
        FEDNEG_CACHE=str(tmp_path / "cache"),
    )
    assert done.returncode == 0, done.stderr
    costs = [
        json.loads((tmp_path / f"sweep/{k}/results.json").read_text())["cost"]
        for k in range(3)
    ]
    assert [c["reused_training"] for c in costs] == [False, True, True]
    assert [c["reused_retraining"] for c in costs] == [False] * 3
    assert done.stderr.count("train: all 2 rounds were trained before") == 2
    assert done.stdout.count("it was reused") == 2
    models = [
        (tmp_path / f"sweep/{k}/model_original.safetensors").read_bytes()
        for k in range(3)
    ]
    assert len(set(models)) == 1
    assert len({c["train_seconds"] for c in costs}) == 1


# -- locks ----------------------------------------------------------------------------


def test_a_lock_is_one_at_a_time(tmp_path: Path):
    entry = Entry(tmp_path / "entry")
    with entry.locked():
        handle = os.open(tmp_path / "entry" / "lock", os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(BlockingIOError), entry.locked():
            pass
        os.close(handle)
    with entry.locked():
        pass


def test_a_lock_of_a_removed_entry_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Somebody removes the folder after this process has opened the lock file."""
    entry = Entry(tmp_path / "entry")
    plain, removed = fcntl.flock, []

    def flock(handle: int, operation: int) -> None:
        if not removed:
            removed.append(True)
            entry.remove()
        plain(handle, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with entry.locked():
        assert removed
        assert (tmp_path / "entry" / "lock").is_file()


# -- fedneg cache ---------------------------------------------------------------------


def test_list_shows_what_is_kept(cache: Path, capsys: pytest.CaptureFixture[str]):
    run_words(["cache", "list"])
    assert capsys.readouterr().out == f"nothing is kept in {cache / 'training'}\n"
    federation_of(small_config(*BASE, "attack=backdoor"))
    run_words(["cache", "list"])
    said = " ".join(capsys.readouterr().out.split())
    for part in ("2 of 2", "2 trainings", "without 1", "backdoor", "seed 0"):
        assert part in said


def test_prune_removes_what_nobody_uses(
    cache: Path, capsys: pytest.CaptureFixture[str]
):
    federation_of(small_config(*BASE))
    first, second = Store().entries()
    run_words(["cache", "prune", "--older-than", "1d"])
    assert "removed 0 trainings" in capsys.readouterr().out
    os.utime(first.folder / "lock", (0, 0))
    run_words(["cache", "prune", "--older-than", "1d"])
    assert "removed 1 trainings" in capsys.readouterr().out
    assert Store().entries() == [second]
    with second.locked():
        run_words(["cache", "prune"])
        assert f"{second.digest[:12]} is in use and stays" in capsys.readouterr().out
    run_words(["cache", "prune"])
    assert Store().entries() == []


@pytest.mark.parametrize(
    "words",
    [[], ["lost"], ["prune", "--older-than", "soon"], ["prune", "--older-than", "-1"]],
)
def test_a_wrong_word_is_one_line_and_exit_code_2(words: list[str], tmp_path: Path):
    done = command("cache", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("fedneg: error: fedneg cache")
    assert len(done.stderr.splitlines()) == 1


def test_a_cache_is_its_owners_alone(cache: Path):
    """It holds ledger rows and client's answers; an older version's is tightened."""
    training = cache / "training"
    training.mkdir(parents=True)
    before = os.umask(0o000)
    training.chmod(0o755)
    try:
        federation_of(small_config(*BASE, "rounds=1"), "train")
        (entry,) = Store().entries()
        names = {path.name for path in entry.folder.iterdir()}
        (entry.folder / "identity.json").chmod(0o644)
        federation_of(small_config(*BASE, "rounds=1"), "train")
    finally:
        os.umask(before)
    assert names >= {"lock", "identity.json", "round-000001.safetensors"}
    modes = {p.name: p.stat().st_mode & 0o077 for p in (training, *training.rglob("*"))}
    assert set(modes.values()) == {0}


def test_a_training_behind_a_link_is_pruned_where_it_lies(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    federation_of(small_config(*BASE, "rounds=1"), "train")
    (entry,) = Store().entries()
    entry.folder.rename(tmp_path / "disk")
    entry.folder.symlink_to(tmp_path / "disk")
    run_words(["cache", "prune"])
    assert "removed 1 trainings" in capsys.readouterr().out
    assert not (tmp_path / "disk").exists()
    assert Store().entries() == []


def test_what_cannot_be_pruned_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch):
    """A training that stays is not said to be removed."""
    federation_of(small_config(*BASE, "rounds=1"), "train")

    def refuse(path: object, *_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(PermissionError, match="Operation not permitted"):
        run_words(["cache", "prune"])
    monkeypatch.undo()
