"""Where a strategy in somebody's own app stands, in its folder and in memory.

What a round changes, a checkpoint keeps and the status tells are the same few values.
A start has those of the last whole checkpoint, if the log says that it stands there.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from logging import INFO
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from flwr.common import log

from fedneg.core.errors import FedNegError
from fedneg.core.parameters import digest_of_model
from fedneg.forgettable.files import ledger_for, names_in, shape_of
from fedneg.forgettable.held import Trainer, fixed_of
from fedneg.forgettable.holding import Holding
from fedneg.forgettable.names import Names
from fedneg.forgettable.views import first_other
from fedneg.lasting.keeping import write_end, write_kept
from fedneg.lasting.remnants import Remnants
from fedneg.lasting.restoring import (
    check_found,
    mark_open,
    remake,
    resume,
    work_of,
)
from fedneg.lasting.work import Work
from fedneg.ledger.ledger import Ledger
from fedneg.records.account import KEPT
from fedneg.records.agreement.federation import of_model
from fedneg.records.kept import Kept
from fedneg.records.state import State


class Standing:
    """Where a strategy stands.

    Parameters
    ----------
    held : Holding
    state : State
    every : int
        Write a checkpoint after every so many rounds.

    Attributes
    ----------
    place : int
        Steps of every kind so far: rounds, and models made without somebody.
    rounds : int
        Rounds of Flower's among them.
    trained : int
        Those that were no part of a forgetting.
    planned : int
        How many of these this start is to come to.
    kept_place : int
        The step of the last checkpoint.
    failed : dict of str to str
        Which clients failed in the last round, and why.
    work : Work or None
        Requests that are being repaired.
    history : list of mapping
        A row for every step.
    """

    def __init__(self, held: Holding, state: State, *, every: int) -> None:
        self.held, self.state, self.every = held, state, every
        self.trainer = Trainer(held)
        self.planned = 0
        self.failed: dict[str, str] = {}
        # The head of the checkpoint that memory stands for; empty: for none.
        self._head = ""
        self._begin_anew()

    def _begin_anew(self) -> None:
        self.place = self.rounds = self.trained = self.kept_place = 0
        self.work: Work | None = None
        self.history: list[dict[str, Any]] = []

    # -- what a start goes on from -----------------------------------------------------

    def go_on_from(self, arrays: ArrayRecord | None) -> bool:
        """Have the ledger of the last whole checkpoint, or begin at arrays.

        Parameters
        ----------
        arrays : ArrayRecord, optional
            With which the program starts; None goes on only.

        Returns
        -------
        bool
            Whether memory was as the folder is, and was left alone.

        Raises
        ------
        FedNegError
            If the folder is of another strategy or model, or not where its log says;
            or there is nothing to go on from.
        """
        self.checkpoints = self.state.checkpoints(every=self.every, encrypt=False)
        self.remnants = Remnants(
            self.trainer, self.checkpoints, self.state.scan_windows
        )
        if arrays is not None:
            wanted = Names.of(arrays, self.held.module)
            self._settle(wanted)
        is_same = bool(self._head) and self._newest() == self._head
        if is_same:
            self._check_known(arrays)
            self.held.settle()  # as after a kill
        else:
            self._restore(arrays)
        self._head = ""
        while self.state.notices:
            say(self.state.notices.pop(0))
        return is_same

    def _settle(self, names: Names) -> None:
        fixed = fixed_of(self.held.strategy, names)
        self.state.settle(fixed, [], deployed=False, encrypt=False)

    def _newest(self) -> str:
        """Return the digest of the last checkpoint; empty if it cannot be read."""
        there = self.checkpoints.rounds()
        with suppress(FedNegError):
            return self.checkpoints.digest(there[-1]) if there else ""
        return ""

    def _restore(self, arrays: ArrayRecord | None) -> None:
        checkpoints, state = self.checkpoints, self.state
        checkpoints.tidy()
        odd = [d.text for d in of_model(state.model, state.account)]
        damage: list[str] = []
        found = checkpoints.restore_into(self._room_for, damage.append, strict=True)
        for text in damage:
            say(text)
        kept = check_found(state, checkpoints, found, damage, say)
        self._begin_anew()
        if found is None or kept is None or kept.app is None:
            self._begin(arrays)
            return
        names = self._names_in(kept.app)
        self._settle(names)
        parameters = found.parameters[: found.ledger.initial.size]
        self.held.take_back(found.ledger, names, kept.app["facts"], parameters)
        self.place = self.kept_place = found.rounds
        self.trained, self.rounds = kept.trained, kept.app["rounds"]
        self.history, self.work = list(kept.history), work_of(state, kept)
        mark_open(state, self.work)
        resume(state, self.held.vector, self.place)
        checkpoints.check_room(found.ledger.num_bytes)
        if self.work is None:
            self.serve()  # a run may have been killed before that
        remake(
            state,
            checkpoints,
            self.trainer.bytes_of,
            odd,
            say,
            is_served=self.work is None,
        )
        self._compare(arrays)
        self.tell()

    def _room_for(self, facts: Mapping[str, Any]) -> Ledger:
        """Return a ledger of zeros for what a checkpoint's facts tell of."""
        ledger = ledger_for(facts["app"], self.held.memory_mib)
        ledger.origin = facts["app"]["origin"]
        return ledger

    def _begin(self, arrays: ArrayRecord | None) -> None:
        if arrays is None:
            raise FedNegError("nobody has trained yet: there is nothing to forget")
        self.held.clear()
        self.held.begin(arrays)
        if self.state.account.line:  # a kill kept the first from being written
            resume(self.state, self.held.vector, 0)

    def _names_in(self, app: Mapping[str, Any]) -> Names:
        """Return whose arrays a checkpoint holds."""
        try:
            return names_in(app, self.held.module)
        except (KeyError, TypeError, ValueError) as error:
            raise FedNegError(
                f"the federation in {self.state.folder} cannot go on: {error}"
            ) from None

    def _compare(self, arrays: ArrayRecord | None) -> None:
        """Say it if the model of the folder goes on, and not the arrays given."""
        if arrays is None or self._is_model(arrays):
            return
        given = "initial arrays"
        if not self._is_origin(arrays):
            given = "arrays given, with which it did not begin"
        say(
            f"the federation in {self.state.folder} has gone on to round "
            f"{self.rounds}: its model goes on, and not the {given}"
        )

    def _check_known(self, arrays: ArrayRecord | None) -> None:
        """Raise FedNegError for arrays that were made of the model meanwhile."""
        if arrays is None or self._is_model(arrays) or self._is_origin(arrays):
            self._compare(arrays)
            return
        raise FedNegError(
            "these arrays are not those that the ledger stands for; go on with the "
            "last ones, or begin anew with another state folder"
        )

    def _is_model(self, arrays: ArrayRecord) -> bool:
        return self.held.other_in(arrays) is None

    def _is_origin(self, arrays: ArrayRecord) -> bool:
        names, ledger = self.held.known, self.trainer.ledger
        parameters, rest = names.read(arrays)
        frozen = {name: arrays[name] for name in names.frozen}
        return (
            digest_of_model(parameters) == ledger.origin
            and np.array_equal(rest, ledger.statistics.initial)
            and first_other(frozen, names.frozen) is None
        )

    # -- what is written ---------------------------------------------------------------

    def keep(
        self,
        *,
        due: bool,
        event: str = KEPT,
        clients: Sequence[int] = (),
        scan_windows: Mapping[int, bytes] | None = None,
    ) -> None:
        """Write a checkpoint, if one is due and there is a ledger, and the status."""
        ledger = self.trainer.ledger
        due = due or self.checkpoints.is_due(
            self.trained, self.planned, ledger.num_bytes
        )
        if due and ledger.clients:
            names, model = self.held.names, self.held.vector
            assert names is not None, "a ledger has names"
            app = {
                **shape_of(ledger, names),
                "origin": ledger.origin,
                "rounds": self.rounds,
                "clients": sorted(self.held.places),
                "facts": self.held.facts(),
            }
            kept = Kept(
                digest_of_model(model),
                self.trained,
                self.trainer.contains,
                asdict(self.work) if self.work else None,
                self.history,
                app,
            )
            write_kept(
                self.state,
                self.remnants,
                kept,
                model,
                self.place,
                event=event,
                clients=clients,
                scan_windows=scan_windows,
            )
            self.kept_place = self.place
        self.tell()

    def step(self, phase: str, *, clients: int, failures: int) -> None:
        """Count a step, and note who took part in it."""
        self.place += 1
        row = {"server_round": self.place, "phase": phase}
        self.history.append({**row, "clients": clients, "failures": failures})

    def hand_over(self) -> None:
        """Keep what is not kept yet, and put the model in service unless in repair."""
        if self.trainer.ledger.clients:
            if self.place != self.kept_place:
                self.keep(due=True)
            if self.work is None:
                self.serve()

    def end(self) -> None:
        """Leave the folder as the next start is to find it."""
        self.tell()
        write_end(self.state, self.remnants, self.place)
        self._head = self._newest()

    def serve(self) -> None:
        """Put the model in service; it has its checkpoint."""
        model = self.held.vector
        self.state.serve(
            self.trainer.bytes_of(model),
            server_round=self.place,
            model=digest_of_model(model),
        )

    def tell(self) -> None:
        """Write status.json: what `fedneg status` shows."""
        last: Mapping[str, Any] = self.history[-1] if self.history else {}
        self.state.write_status(
            {
                "phase": last.get("phase"),
                "server_round": self.place,
                "kept_round": self.kept_place,
                "trained": self.trained,
                "repaired": sum(row["phase"] == "recover" for row in self.history),
                "rounds": self.planned,
                "clients": len(self.held.places),
                "failed": self.failed,
                "excluded": sorted(self.state.excluded()),
                "carrying_out": self.work.clients if self.work else [],
                "recovered": self.work.recovered if self.work else 0,
            }
        )


def say(text: str) -> None:
    """Log a line where Flower logs its own."""
    log(INFO, "fedneg: %s", text)
