"""What a forgetting method implements: one class with a few hooks, most with defaults.

A method overrides `rectify`, which runs on the server. One in which clients take part
says in how many rounds, who, and what counts of their answers. What people are told of
a method it says itself (`About`, `remains`): nobody else names it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedneg.core.checks import build, choice
from fedneg.core.errors import FedNegError
from fedneg.core.parameters import Vector
from fedneg.core.samples import ALL, REST
from fedneg.core.settings import Config, StrategySettings
from fedneg.records.receipts import NOTHING as NOTHING  # where whoever writes one looks


@dataclass(frozen=True)
class Needs:
    """What a method needs in order to forget; rounds of repair after it are not in it.

    Attributes
    ----------
    leaving_client : bool
        Whether clients must be online for their own forgetting.
    remaining_rounds : int
        In how many rounds of the unlearn phase, at most, clients that stay must be.
    proxy : str or None
        Which inputs the server uses, that belong to no client.
    server_bytes : int
        Size of what the method reads of that which the server keeps: all rows of it,
        since anybody may ask to be forgotten, not only the rows of those who did.
        Measured, of the ledger as it is. What only keeps the ledger in order (momentum
        rows), weights and client ids, and the inputs of `proxy` are not in it.
    """

    leaving_client: bool = False
    remaining_rounds: int = 0
    proxy: str | None = None
    server_bytes: int = 0


# What a method is to a comparison, in the order of its tables.
METHOD, BASELINE, CONTROL = KINDS = ("method", "baseline", "control")


@dataclass(frozen=True)
class About:
    """What a method says of itself to people; nothing that is computed hangs on it.

    Attributes
    ----------
    phrase : str or None
        How it forgets, as 'Forget client 1, by' goes on; ``{whom}`` becomes 'it' or
        'them'. None: people are told its name.
    kind : str
        ``method``: up for comparison. ``baseline``: what the methods are measured by.
        ``control``: what the verdict is measured by.
    title : str or None
        What a baseline is called where a sentence begins with it; None: its name.
    yardstick : bool
        Whether a comparison says how much cheaper than this one the others reach the
        same accuracy.
    never : str or None
        The verdict that shows, given of this method, that verdicts cannot be trusted.
    place : int or None
        A number of its own: its colour and marker in figures, and where it stands in
        tables among its kind. None: after those that have one, by name.
    """

    phrase: str | None = None
    kind: str = METHOD
    title: str | None = None
    yardstick: bool = False
    never: str | None = None
    place: int | None = None

    def __post_init__(self) -> None:
        choice("about.kind", self.kind, KINDS)


class ForgettingMethod:
    """The part of a strategy that comes after training.

    Nothing here changes how a federation is trained, so all methods share trainings;
    what a method needs the ledger to keep (`keeps_local_models`, `keeps_updates`,
    `keeps_recent`) is part of a training's identity.

    Attributes
    ----------
    about : About
        What people are told of it.
    settings : StrategySettings
    options : Options
        Those of the method, checked.
    """

    about = About()

    @dataclass(frozen=True)
    class Options:
        """Options of the method, as in its YAML; subclasses replace this class."""

    config: Config
    settings: StrategySettings
    options: Any

    @classmethod
    def parse_options(cls, config: Config) -> Any:
        """Check and freeze the method's own options; raises FedNegError."""
        return build(cls.Options, "strategy", config.strategy.options)

    # Whether it begins anew from what `rectify` returns, with an empty ledger.
    starts_over = False
    # Whether it draws parameters as the task does before round 1.
    draws_anew = False
    # How many times their old weights `rectify` gave to the clients that stay.
    spread = 1.0
    # Whether its rounds are rounds of the training again, each with whom it had.
    rebuilds = False
    # Whether clients that are to be forgotten take part in their own forgetting.
    needs_leaving_client = False
    # Whether it can forget some of a client's examples (`forget_samples`): with nothing
    # that is kept of whole clients.
    forgets_samples = False

    @classmethod
    def remains(cls, report: Mapping[str, Any], client_id: int) -> str:
        """Return what the method left of a client's contribution, for its receipt.

        Parameters
        ----------
        report : mapping
            The `method_report` that it gave right after forgetting, which may have been
            kept since. By default its ``remains``; where it has none, that a part does.

        Returns
        -------
        str
            Half a sentence; it begins with `NOTHING` where nothing does.
        """
        return str(report.get("remains", "a part of the client's summed updates"))

    def check_kept(self, client_ids: tuple[int, ...]) -> None:
        """Raise FedNegError if the ledger lacks what forgetting these clients takes.

        Asked before anything is changed. What was trained from a model that contained
        a forgotten client goes in its purge, and the run before may have had a method
        that keeps less.
        """

    def parts(self) -> NDArray[np.intp] | None:
        """Return the part of the model, 0, 1, .., that each of d parameters is in.

        For a method that treats parts on their own: what it left of a contribution is
        looked for part by part (`fedneg.evaluation.isolation`). None: all in one.
        """
        return None

    def rectify(self, before: Vector, client_ids: tuple[int, ...]) -> Vector:
        """Return the parameters after forgetting; the ledger still has `client_ids`.

        Runs on the server, sees `self.ledger` and nothing of any client's data. Where
        clients take part, this is what they start from in the first unlearn round.
        """
        raise FedNegError(f"strategy={self.settings.name} cannot forget a client")

    @classmethod
    def unlearn_rounds(cls, config: Config) -> int:
        """Return how many rounds an unlearn phase has."""
        return 1

    def rounds_beyond(self, ran: int, rounds: int) -> int:
        """Return how many rounds beyond the training's the unlearned model has had.

        What it is compared with is retrained for as many.

        Parameters
        ----------
        ran : int
            In how many rounds of the unlearn phase clients that stay trained.
        rounds : int
            Of the training.

        Returns
        -------
        int
            Below 0 of a method that started over, and had fewer.
        """
        return ran - rounds if self.starts_over else ran

    def unlearn_clients(self, number: int) -> tuple[int, ...]:
        """Return who is asked in unlearn round `number` (1-based); by default nobody.

        `self.forgetting` and `self.remaining` are the two sides; with `forget_samples`
        those that forget some of their examples are on both.
        """
        return ()

    def unlearn_part(self, number: int) -> str:
        """Return what of their examples clients train on in unlearn round `number`.

        By default all of them, or what stays where some are to be forgotten.
        """
        return REST if self.config.forget_samples else ALL

    def unlearn_stream(self, number: int) -> int | None:
        """Return the server round that clients are told; None: that of the history."""
        return None

    def unlearn_settings(self, number: int) -> dict[str, int | float | str]:
        """Return what clients are told too; ``assignment`` replaces what they do."""
        return {}

    def adjust(self, number: int, client_id: int, local: Vector) -> Vector:
        """Return what counts as a client's local parameters in an unlearn round.

        They are not to be written to. By default as they came, to the last bit.
        """
        return local

    def needs(self) -> Needs:
        """Return what the method needs, once `reset` has made a ledger.

        By default nothing but the model that is there.
        """
        return Needs(leaving_client=self.needs_leaving_client)

    def task_needs(self) -> tuple[str, ...]:
        """Return the optional fields of a task that the method cannot do without."""
        return ()

    @property
    def keeps_local_models(self) -> bool:
        """Whether the method needs each client's last local model in the ledger."""
        return False

    @property
    def keeps_updates(self) -> int:
        """Every how many rounds the ledger keeps all clients' updates; 0: never."""
        return 0

    @property
    def keeps_recent(self) -> int:
        """How many rounds' updates the ledger keeps whole, the last ones; 0: none.

        Of what is older it keeps sums that age (`fedneg.ledger.bank`).
        """
        return 0
