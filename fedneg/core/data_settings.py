"""What makes forgetting easy or hard: who holds which images, and who attacks.

Part of the configuration (`fedneg.core.settings`), as frozen values checked when made.
"""

from dataclasses import asdict, dataclass
from typing import Any

from fedneg.core.checks import choice, flag, number, whole
from fedneg.core.errors import FedNegError

DATA = ("mnist", "digits")
NUM_CLASSES = 10  # of both: digits
PARTITIONS = ("writer", "iid", "dirichlet", "shards")
ATTACKS = (
    *("none", "label_flip", "backdoor"),
    *("model_replacement", "sybils", "canaries"),
)


@dataclass(frozen=True)
class DataSettings:
    """Which data, where it lies, and how it is dealt out to the clients.

    Attributes
    ----------
    root : str or None
        None: $FEDNEG_DATA, else the cache.
    partition : str
        The rule (`fedneg.data.partition.partition`).
    split_writers : bool
        For ``writer``: allow more clients than writers.
    alpha : float
        For ``dirichlet``: the concentration; small is skewed.
    shards_per_client : int
        For ``shards``.
    """

    name: str
    requested: str
    root: str | None
    download: bool
    partition: str
    split_writers: bool
    alpha: float
    shards_per_client: int

    def __post_init__(self) -> None:
        choice("data.name", self.name, (*DATA, "auto"))
        flag("data.download", self.download)
        flag("data.split_writers", self.split_writers)
        if self.root is not None and (not isinstance(self.root, str) or not self.root):
            raise FedNegError(f"data.root must be a folder or null, got {self.root!r}")
        choice("data.partition", self.partition, PARTITIONS)
        if self.split_writers and self.partition != "writer":
            raise FedNegError(
                "data.split_writers=true needs data.partition=writer, got "
                f"data.partition={self.partition}"
            )
        # Within these no share of a Dirichlet draw is lost to rounding.
        number("data.alpha", self.alpha, minimum=1e-3, maximum=1e6)
        whole("data.shards_per_client", self.shards_per_client, minimum=1)

    @property
    def partition_settings(self) -> dict[str, Any]:
        """Return the keys that decide who gets which image, and nothing else."""
        own: dict[str, dict[str, Any]] = {
            "writer": {"split_writers": self.split_writers},
            "dirichlet": {"alpha": self.alpha},
            "shards": {"shards_per_client": self.shards_per_client},
        }
        return {"partition": self.partition, **own.get(self.partition, {})}


@dataclass(frozen=True)
class AttackSettings:
    """Who attacks, and how (`fedneg.data.attacks`, `fedneg.data.canaries`).

    Attributes
    ----------
    name : str
        ``model_replacement`` is a backdoor whose attackers lengthen their updates;
        ``sybils`` all train on the first one's poisoned images.
    clients : tuple of int or None
        None: the clients to forget.
    fraction : float
        Of an attacker's training images that is poisoned.
    target, trigger_size : int
        A backdoor's class, and the pixels of a side of its mark.
    boost : float or None
        For ``model_replacement``: how many times longer an update becomes. None: the
        number of clients over that of attackers and the server learning rate.
    shared : str
        For ``sybils``: what their images are poisoned by.
    canaries : int
        For ``canaries``: how many a client plants, and how many match them.
    """

    name: str
    clients: tuple[int, ...] | None
    fraction: float
    target: int
    trigger_size: int
    boost: float | None
    shared: str
    canaries: int

    def __post_init__(self) -> None:
        choice("attack.name", self.name, ATTACKS)
        number("attack.fraction", self.fraction, above=0, maximum=1)
        whole("attack.target", self.target, minimum=0)
        whole("attack.trigger_size", self.trigger_size, minimum=1)
        if self.boost is not None:
            number("attack.boost", self.boost, above=0)
        choice("attack.shared", self.shared, ("label_flip", "backdoor"))
        whole("attack.canaries", self.canaries, minimum=1)

    @property
    def poison(self) -> str:
        """What is done to images: none, label_flip, backdoor or canaries."""
        if self.name == "sybils":
            return self.shared
        return "backdoor" if self.name == "model_replacement" else self.name

    def source_of(self, client_id: int) -> int:
        """Return the client whose images a client trains on: for sybils the first's."""
        attackers = self.clients or ()
        if self.name == "sybils" and client_id in attackers:
            return attackers[0]
        return client_id

    @property
    def settings(self) -> dict[str, Any]:
        """Return the keys that decide what this attack does; no other attack's own."""
        found = asdict(self)
        for key, name in (
            ("boost", "model_replacement"),
            ("shared", "sybils"),
            ("canaries", "canaries"),
        ):
            if self.name != name:
                del found[key]
        return found
