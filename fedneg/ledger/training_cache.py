"""Trained federations on the disk, each under a digest of all that determined it.

``$FEDNEG_CACHE/training/<digest>/`` holds ``identity.json``, a lock, and checkpoints.
Who trains an entry holds its lock; the system gives it back however the process ends.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedneg.core.errors import FedNegError
from fedneg.core.files import PRIVATE_FILE, make_folder, remove, tighten, write_bytes
from fedneg.core.locks import take
from fedneg.core.machine import cache_root
from fedneg.core.reading import read_json
from fedneg.core.settings import Config
from fedneg.core.source import code_digest
from fedneg.ledger.checkpoint import Checkpoints

SCHEMA = 1
# Who runs a training, on the side of the server and of the clients. What they import
# determines, bit for bit, what it ends with. Clients' own data is read by real clients
# only, whose trainings are not kept.
TRAINING = ("fedneg.federation", "fedneg.engines.simulate")


def training_identity(
    config: Config,
    *,
    clients: tuple[int, ...],
    digest_of_data: Callable[[], str] | None,
    method: Mapping[str, Any],
) -> dict[str, Any]:
    """Return everything that determines a training from the initial parameters.

    Parameters
    ----------
    clients : tuple of int
        Who takes part.
    digest_of_data : () -> str, optional
        The task's own (`fedneg.tasks.task.Extras`).
    method : mapping
        What the strategy adds (`LedgerFedAvg.training_identity`).
    """
    import torch  # seconds, which `fedneg cache` need not wait

    from fedneg.tasks.lookup import code_of  # and so does this

    client = asdict(config.client)
    del client["evaluate_after_fit"]
    # The same numbers come out wherever they are the same operations.
    cuda = config.client.device != "cpu" and torch.cuda.is_available()
    client["device"] = "cuda" if cuda else "cpu"
    if config.engine.cohort > 1:  # sums in another order
        client["cohort"] = config.engine.cohort
    attack: dict[str, Any] = {"name": "none"}
    if set(config.attack.clients or ()) & set(clients):
        attack = config.attack.settings
    strategy = config.strategy
    return {
        "schema": SCHEMA,
        "code": code_digest((*TRAINING, *code_of(config.task))),
        "torch": torch.__version__,
        "seed": config.seed,
        "clients": config.clients,
        "taking_part": list(clients),
        "rounds": config.rounds,
        **_what(config, digest_of_data),
        "client": client,
        "attack": attack,
        "strategy": {
            "server_learning_rate": strategy.server_learning_rate,
            "server_momentum": strategy.server_momentum,
            "client_fraction": strategy.client_fraction,
            "max_update_norm_ratio": strategy.max_update_norm_ratio,
            "max_num_examples": strategy.max_num_examples,
        },
        "method": dict(method),
    }


def _what(config: Config, digest: Callable[[], str] | None) -> dict[str, Any]:
    """Return what is trained: the built-in task, or one of the user's own."""
    found = None if digest is None else digest()
    if config.task is not None:
        options = dict(config.task_options)
        return {"task": config.task, "task_options": options, "data": found}
    data = config.data
    return {
        "data": {"name": data.name, "digest": found, **data.partition_settings},
        "model": asdict(config.model),
    }


def digest_of(identity: Mapping[str, Any]) -> str:
    """Return the name of an identity: a sha256 in hex, 64 digits."""
    text = json.dumps(identity, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Entry:
    """One training on the disk."""

    folder: Path

    @property
    def digest(self) -> str:
        """The digest of its identity."""
        return self.folder.name

    def identity(self) -> dict[str, Any]:
        """Return what determined it; raises OSError or ValueError if unreadable."""
        found: dict[str, Any] = read_json(self.folder / "identity.json")
        return found

    def checkpoints(self, every: int = 1) -> Checkpoints:
        """Return its checkpoints; write only while holding the lock."""
        return Checkpoints(self.folder, every=every)

    def num_bytes(self) -> int:
        """Return the size of its files."""
        total = 0
        for path in self.folder.iterdir():
            try:
                total += path.stat().st_size
            except FileNotFoundError:  # a checkpoint that has just been replaced
                continue
        return total

    def last_used(self) -> float:
        """Return when somebody last held its lock, in seconds since 1970."""
        return (self.folder / "lock").stat().st_mtime

    @contextmanager
    def locked(self, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold the entry's lock: nobody else trains it or removes it.

        Parameters
        ----------
        waiting : callable, optional
            Called once if somebody else holds it; then it is waited for, as long as
            that takes. None: do not wait.

        Raises
        ------
        BlockingIOError
            If somebody else holds it and nobody wants to wait.
        FedNegError
            If the folder cannot be written.
        """
        while True:
            handle = self._open()
            try:
                self._take(handle, waiting)
                # Whoever had it may have removed the folder meanwhile.
                if self._is_mine(handle):
                    os.utime(handle)
                    self._tighten()
                    yield
                    return
            finally:
                os.close(handle)

    def _open(self) -> int:
        """Return the lock file's descriptor; folder and file are made if need be."""
        try:
            make_folder(self.folder)
            # Of a cache that was made when files were everybody's to read.
            tighten(self.folder.parent, below=False)
            return os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, PRIVATE_FILE)
        except OSError as error:
            raise self._unwritable(error) from None

    def _tighten(self) -> None:
        try:
            tighten(self.folder)
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> FedNegError:
        return FedNegError(
            f"the cache folder {self.folder.parent} cannot be written: "
            f"{error.strerror}; set FEDNEG_CACHE to another folder, or use cache=false"
        )

    def describe(self, identity: Mapping[str, Any]) -> None:
        """Write down what the entry is, once; the lock is held.

        Raises
        ------
        FedNegError
            If the folder cannot be written.
        """
        path = self.folder / "identity.json"
        try:
            if not path.is_file():
                text = json.dumps(identity, sort_keys=True, indent=1) + "\n"
                write_bytes(path, text.encode())
        except OSError as error:
            raise self._unwritable(error) from None

    @staticmethod
    def _take(handle: int, waiting: Callable[[], None] | None) -> None:
        if take(handle, timeout_s=0):
            return
        if waiting is None:
            raise BlockingIOError
        waiting()
        take(handle)

    def _is_mine(self, handle: int) -> bool:
        """Return whether the lock held is the one that others would find."""
        try:
            found = (self.folder / "lock").stat()
        except FileNotFoundError:
            return False
        return os.path.samestat(found, os.fstat(handle))

    def remove(self) -> None:
        """Remove it; the lock is held. Raises OSError for what cannot be removed."""
        # The folder may be a link to another disk, where it must not be left.
        real = self.folder.resolve()
        # NFS keeps the lock's file, under another name, until it is given back.
        shutil.rmtree(real, ignore_errors=True)
        for path in real.glob("[!.]*"):
            path.unlink()  # says what is wrong
        if self.folder.is_symlink():
            self.folder.unlink()

    def forget_checkpoints(self) -> None:
        """Remove what was trained, and leave the entry; the lock is held."""
        for path in self.folder.glob("*round-*"):
            remove(path)


class Store:
    """All entries, below the cache root."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = (root or cache_root()) / "training"

    def entry(self, identity: Mapping[str, Any]) -> Entry:
        """Return the entry of an identity, whether it is there or not."""
        return Entry(self.root / digest_of(identity))

    def entries(self) -> list[Entry]:
        """Return all entries, by digest."""
        if not self.root.is_dir():
            return []
        return [Entry(p) for p in sorted(self.root.iterdir()) if len(p.name) == 64]
