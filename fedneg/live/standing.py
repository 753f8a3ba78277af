"""Where a federation stands, and how that is written down.

What a step changes, a checkpoint keeps and the status tells are the same few values.
The order in which they are written is what survives a kill: the entry of the log, the
scan windows that it names, the checkpoint, and then what is only for watching.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from fedneg.core import outputs
from fedneg.core.errors import FedNegError
from fedneg.core.formats import number as finite
from fedneg.core.parameters import Vector, digest_of_model
from fedneg.federation import Federation
from fedneg.history import HISTORY_COLUMNS
from fedneg.lasting.keeping import write_end, write_kept
from fedneg.lasting.remnants import Remnants
from fedneg.lasting.work import Work
from fedneg.ledger.ledger import Ledger
from fedneg.records.account import KEPT
from fedneg.records.kept import Kept
from fedneg.records.sealed import Sealed
from fedneg.records.state import State


class Trainer:
    """A federation of fedneg's own app, as a purge must know it: ids are rows."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation

    @property
    def ledger(self) -> Ledger:
        """The strategy's."""
        return self.federation.strategy.ledger

    @property
    def initial(self) -> Vector:
        """Of the whole model."""
        return self.federation.initial

    def row_of(self, client_id: int) -> int | None:
        """Return the client id."""
        return client_id

    def bytes_of(self, parameters: Vector) -> bytes:
        """Return the file of a model."""
        return self.federation.bytes_of(parameters)


class Standing:
    """Where a federation stands.

    Parameters
    ----------
    state : State
        Held by `state.running()`.
    federation : Federation

    Attributes
    ----------
    parameters : Vector, shape (d,)
        The global parameters.
    server_round : int
        Rounds of every kind so far.
    trained : int
        Training rounds among them.
    kept_round : int
        The round of the last checkpoint.
    contains : set of int
        Client ids whose updates went into the parameters and were not taken out.
    work : Work or None
    """

    def __init__(self, state: State, federation: Federation) -> None:
        self.state, self.federation = state, federation
        self.config, self.strategy = federation.config, federation.strategy
        self.checkpoints = state.checkpoints(
            every=self.config.checkpoint, encrypt=self.config.encrypt
        )
        self.remnants = Remnants(
            Trainer(federation), self.checkpoints, state.scan_windows
        )
        self.parameters: Vector = federation.initial
        self.server_round = self.trained = self.kept_round = 0
        self.contains: set[int] = set()
        self.work: Work | None = None

    # -- what a run goes on from -------------------------------------------------------

    def keep(
        self,
        *,
        due: bool = False,
        event: str = KEPT,
        clients: Sequence[int] = (),
        scan_windows: Mapping[int, bytes] | None = None,
    ) -> None:
        """Write a checkpoint, with its entry before it, history and status.

        Parameters
        ----------
        due : bool
            Write one whatever `checkpoint` says.
        event : str
            The entry's; `clients` are of whom it tells.
        scan_windows : mapping of client id to bytes, optional
            The files that the entry names, and that must be there when the checkpoint
            is.
        """
        ledger = self.strategy.ledger
        if due or self.checkpoints.is_due(
            self.trained, self.config.rounds, ledger.num_bytes
        ):
            self._refuse_destroyed()
            kept = Kept(
                digest_of_model(self.parameters),
                self.trained,
                sorted(self.contains),
                asdict(self.work) if self.work else None,
                self.federation.history,
            )
            write_kept(
                self.state,
                self.remnants,
                kept,
                self.parameters,
                self.server_round,
                event=event,
                clients=clients,
                scan_windows=scan_windows,
            )
            self.kept_round = self.server_round
        self.write_history()
        self.tell()

    def _refuse_destroyed(self) -> None:
        """Raise FedNegError if rows that went into the model could not be sealed."""
        form = self.checkpoints.form
        gone = form.forgotten & self.contains if isinstance(form, Sealed) else set()
        if gone:
            raise FedNegError(
                f"the model contains clients {sorted(gone)}, whose keys were destroyed "
                f"or requests done: no checkpoint of it in {self.checkpoints.folder} "
                "could tell their rows"
            )

    def write_history(self) -> None:
        """Write history.csv."""
        history = self.federation.history
        table = pd.DataFrame(history, columns=list(HISTORY_COLUMNS))
        outputs.write_csv(self.state.history, table, shared=False)

    def serve(self) -> None:
        """Put the current model in service; it has its checkpoint."""
        self.state.serve(
            self.federation.bytes_of(self.parameters),
            server_round=self.server_round,
            model=digest_of_model(self.parameters),
        )

    def end(self) -> None:
        """Say that nothing is left to do, and with which checkpoints."""
        self.tell()
        write_end(self.state, self.remnants, self.server_round)

    # -- for watching ------------------------------------------------------------------

    def warn(self, text: str) -> None:
        """Say something at once, and again when the run ends."""
        self.federation.notices.append(text)
        self.federation.progress.step(text)

    def tell(self, *, waiting: str = "") -> None:
        """Write status.json: what `fedneg status` shows."""
        history, reports = self.federation.history, self.strategy.reports
        last: Mapping[str, Any] = history[-1] if history else {}
        roster, work = self.strategy.roster, self.work
        self.state.write_status(
            {
                "waiting": waiting,
                "phase": last.get("phase"),
                "server_round": self.server_round,
                "kept_round": self.kept_round,
                "trained": self.trained,
                "rounds": self.config.rounds,
                "clients": self.config.clients,
                "trust": roster.trust,
                "online": sorted(roster.node_of),
                "excluded": sorted(self.state.excluded()),
                "refused": {str(k): why for k, why in roster.refused.items()},
                "failed": {
                    str(f.client_id): f.reason
                    for f in (reports[-1].failures if reports else [])
                },
                "unanswered": {
                    str(k): why for k, why in self.strategy.unanswered.items()
                },
                "accuracy": last.get("accuracy"),
                "quality_name": self.federation.task.shown_quality,
                "loss": finite(last.get("loss")),
                "carrying_out": work.clients if work else [],
                "recovered": work.recovered if work else 0,
            }
        )
