"""The life of a strategy in somebody's own app: requests carried out, kills survived.

What fedneg/live/ does for a federation of fedneg's own app, told in the words of
Flower's `start()`. After every round a checkpoint is written, with the entry of the log
before it, and whoever has asked to be forgotten is taken out of the model; the rounds
that follow repair it; then all that could give the contribution back is purged, and
receipts are written. A start goes on where the last one was, however that ended.

What lies in the folder, how it is held to the log, purged and proved is told in
fedneg/records/ and fedneg/lasting/.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from logging import INFO
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message
from flwr.common.logger import log
from flwr.serverapp.strategy import Result

from fedneg.core.errors import FedNegError
from fedneg.core.parameters import Vector, digest_of_model
from fedneg.forgettable import results
from fedneg.forgettable.files import empty_ledger, names_in, shape_of
from fedneg.forgettable.held import Held, Trainer, fixed_of, told_of
from fedneg.forgettable.names import Names
from fedneg.lasting.erasure import Erasure
from fedneg.lasting.keeping import write_end, write_kept
from fedneg.lasting.remnants import Remnants
from fedneg.lasting.restoring import (
    check_found,
    mark_open,
    resume,
    serve_again,
    work_of,
)
from fedneg.lasting.work import Work
from fedneg.ledger.ledger import Ledger
from fedneg.records.account import KEPT
from fedneg.records.agreement.federation import of_model
from fedneg.records.kept import Kept
from fedneg.records.requests import UNLEARNED
from fedneg.records.state import State

DUE_DAYS = 30.0
Run = Callable[[ArrayRecord, int, results.Evaluate | None], Result]


@dataclass
class Leaving:
    """Clients that are being taken out, while rounds of the method are to come.

    Attributes
    ----------
    clients : list of int
    before : str
        Digest of the model that had them.
    must_go : mapping
        What may be found nowhere in the end (`Remnants.of`).
    method : mapping
        What the method says of what it did.
    """

    clients: list[int]
    before: str
    must_go: Mapping[int, Mapping[str, Vector]]
    method: dict[str, Any]


class Life:
    """What a strategy with ``state=`` does next, and what it writes down.

    Parameters
    ----------
    held : Held
    folder : Path
    keys : Path, optional
        By default beside it.
    repair_rounds : int
        How many rounds follow a forgetting before it is purged.
    every : int
        Write a checkpoint after every so many rounds.
    """

    def __init__(
        self,
        held: Held,
        folder: Path,
        keys: Path | None,
        *,
        repair_rounds: int,
        every: int,
    ) -> None:
        for name, value, least in (
            ("repair_rounds", repair_rounds, 0),
            ("checkpoint", every, 1),
        ):
            if type(value) is not int or value < least:
                raise FedNegError(f"{name} must be at least {least}, got {value!r}")
        self.held, self.trainer = held, Trainer(held)
        self.state = State(folder, keys)
        self.repair_rounds, self.every = repair_rounds, every
        self.is_going = False
        # The head of the checkpoint that memory stands for; empty: for none.
        self._head = ""
        self._begin_anew()

    def _begin_anew(self) -> None:
        # Steps of every kind, forgetting too; Flower's rounds; those that trained.
        self.place = self.rounds = self.trained = self.kept_place = 0
        self.work: Work | None = None
        self.leaving: Leaving | None = None
        self.history: list[dict[str, Any]] = []
        self._planned = 0

    # -- what the strategy calls -------------------------------------------------------

    def run(
        self,
        run: Run,
        arrays: ArrayRecord,
        num_rounds: int,
        evaluate: results.Evaluate | None,
    ) -> Result:
        """Run the rounds that are missing, and those that repair; return the results.

        Parameters
        ----------
        run : callable
            Flower's own loop: from arrays, so many rounds, with a function that
            evaluates.
        """
        whole, is_first = Result(), True
        with self._going(arrays):
            self._planned = num_rounds
            self._carry_out()
            while is_first or self._missing():
                before, is_first = self.rounds, False
                counted = results.counted_on(evaluate, whole, before=before)
                found = run(self.held.arrays, self._missing(), counted)
                results.add(whole, found, before=before)
            whole.arrays = self.held.arrays
        return whole

    def forget(
        self, client_ids: Sequence[int], arrays: ArrayRecord | None, scale: float
    ) -> ArrayRecord:
        """Accept requests of clients and take them out; return the model without them.

        The rounds that repair it are those of the next start.
        """
        with self._going(None):
            if self.leaving is not None:
                raise FedNegError(
                    f"{self.held.unlearn_rounds} rounds of the last forgetting are "
                    "still to come: run them first"
                )
            ids = self.held._check(client_ids, arrays)
            if self.work is not None:
                self._finish(self.work)  # with the rounds of repair that it had
            for client_id in ids:
                self.state.requests.accept(client_id, clients=None, due_days=DUE_DAYS)
            found = self._take_out(ids, arrays, scale)
            if self.work is not None and self._lacks(self.work) <= 0:
                self._finish(self.work)
        return found

    def look(self) -> None:
        """Leave out whoever has asked to be forgotten."""
        self.held._leave_out(self.state.excluded())

    def after_round(
        self, arrays: ArrayRecord | None, replies: Sequence[Message]
    ) -> ArrayRecord | None:
        """Write a round down and carry out what was asked; return the model after it.

        None if nobody's reply changed it, and nobody was forgotten. Else it is the
        ledger's, bit for bit: so a start after a kill comes to the same.
        """
        self.place, self.rounds = self.place + 1, self.rounds + 1
        failed = [r for r in replies if r.has_error()]
        phase = "unlearn" if self.leaving else "recover" if self.work else "train"
        row = {"server_round": self.place, "phase": phase}
        counts = {"clients": len(replies) - len(failed), "failures": len(failed)}
        self.history.append({**row, **counts})
        self.look()
        if self.leaving is not None:
            if self.held.unlearn_rounds == 0:
                self._has_left(self.leaving)
        else:
            self.trained += 1
            if self.work is not None:
                self.work.recovered += 1
            self._keep(due=self.work is not None or bool(self.state.requests.open()))
        is_other = self._carry_out() or arrays is not None
        self.tell()
        return self.held.arrays if is_other else None

    # -- from one start to the next ----------------------------------------------------

    @contextmanager
    def _going(self, arrays: ArrayRecord | None) -> Iterator[None]:
        """Be the one run of the folder, from where the log says that it stands."""
        if self.is_going:
            raise FedNegError(
                "start() is going on: ask by `fedneg request forget CLIENT --state "
                f"{self.state.folder}`, and it forgets after its round"
            )
        with self.state.running():
            self.is_going = True
            try:
                self._go_on_from(arrays)
                self._head = ""
                self._tell_notices()
                yield
                self._end()
            except (FedNegError, OSError) as error:
                with suppress(OSError, FedNegError):  # the disk may be full
                    told = self.state.read_status()
                    self.state.write_status({**told, "error": str(error)})
                raise
            finally:
                self.is_going = False

    def _go_on_from(self, arrays: ArrayRecord | None) -> None:
        """Have the ledger of the last whole checkpoint, if there is one."""
        self.checkpoints = self.state.checkpoints(every=self.every, encrypt=False)
        self.remnants = Remnants(
            self.trainer, self.checkpoints, self.state.scan_windows
        )
        self.erasure = Erasure(self.state, self.checkpoints, self.remnants)
        facts = self.state.facts()
        if facts is None and arrays is None:
            raise FedNegError("nobody has trained yet: there is nothing to forget")
        wanted = None if arrays is None else Names.of(arrays, self.held._model)
        if wanted is not None:
            fixed = fixed_of(self.held.strategy, wanted)
            self.state.settle(fixed, [], deployed=False, encrypt=False)
        if self._head and self._newest() == self._head:
            self._check_known(arrays)
        else:
            self._restore(arrays)
        self.look()

    def _names_in(self, app: Mapping[str, Any]) -> Names:
        """Return whose arrays a checkpoint holds."""
        try:
            return names_in(app, self.held._model)
        except (KeyError, TypeError, ValueError) as error:
            raise FedNegError(
                f"the federation in {self.state.folder} cannot go on: {error}"
            ) from None

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
            if arrays is None:
                raise FedNegError("nobody has trained yet: there is nothing to forget")
            self.held._clear()
            self.held._begin(arrays)
            if state.account.line:  # a kill kept the first from being written
                resume(state, self.held._vector, 0)
            return
        names = self._names_in(kept.app)
        size = found.ledger.initial.size
        fixed = fixed_of(self.held.strategy, names)
        state.settle(fixed, [], deployed=False, encrypt=False)
        self.held._take_back(
            found.ledger, names, kept.app["facts"], found.parameters[:size]
        )
        self.place = self.kept_place = found.rounds
        self.trained, self.rounds = kept.trained, kept.app["rounds"]
        self.history, self.work = list(kept.history), work_of(state, kept)
        mark_open(state, self.work)
        resume(state, self.held._vector, self.place)
        if self.work is None:
            self._serve()
        for text in odd:
            again = self.work is None or serve_again(
                state, checkpoints, self.trainer.bytes_of
            )
            what = "is made again" if again else "stays so until the next is in service"
            say(f"{text}; it {what}")
        self._compare(arrays)
        self.tell()

    def _end(self) -> None:
        """Leave the folder as the next start is to find it."""
        if self.leaving is None and self.trainer.ledger.clients:
            if self.place != self.kept_place:
                self._keep(due=True)
            if self.work is None:
                self._serve()
        self.tell()
        write_end(self.state, self.remnants, self.place)
        self._head = self._newest()

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
        names = self.held._names
        assert names is not None, "a ledger has names"
        parameters, rest = names.read(arrays)
        size = self.trainer.ledger.initial.size
        model = self.held._vector
        same = np.array_equal(parameters, model[:size])
        return same and np.array_equal(rest, model[size:])

    def _is_origin(self, arrays: ArrayRecord) -> bool:
        names = self.held._names
        assert names is not None, "a ledger has names"
        parameters, _ = names.read(arrays)
        return digest_of_model(parameters) == self.trainer.ledger.origin

    # -- what is asked -----------------------------------------------------------------

    def _missing(self) -> int:
        """Return how many rounds are to come, by what is known now."""
        lack = 0
        if self.leaving is not None:
            lack = self.held.unlearn_rounds + self.repair_rounds
        elif self.work is not None:
            lack = self._lacks(self.work)
        return max(self._planned - self.trained, lack)

    def _lacks(self, work: Work) -> int:
        """Return how many rounds of repair a forgetting lacks; of nothing, none."""
        was_there = set(work.clients) - set(work.method.get("absent", ()))
        return self.repair_rounds - work.recovered if was_there else 0

    def _carry_out(self) -> bool:
        """Do what no round is needed for; return whether the model is another."""
        is_other = False
        while self.leaving is None:
            if self.work is not None:
                if self._lacks(self.work) > 0:
                    break
                self._finish(self.work)
                continue
            clients = sorted(r.client_id for r in self.state.requests.open())
            # Before anybody trained there is no model to take somebody out of.
            if not (clients and self.trainer.ledger.clients):
                break
            self._take_out(clients, None, 1.0)
            is_other = True
        return is_other

    def _take_out(
        self, clients: list[int], arrays: ArrayRecord | None, scale: float
    ) -> ArrayRecord:
        """Take clients out of the model; return it."""
        say(f"forgetting {', '.join(map(str, clients))}")
        model, contains = self.held._vector, self.trainer.contains
        present = [k for k in clients if k in contains]
        absent = [k for k in clients if k not in contains]
        # While the rows are still there; they are to be found nowhere in the end.
        must_go = self.remnants.of(clients, model)
        # What rounding left so far is nobody's: the correction is this forgetting's.
        self.trainer.ledger.fold_correction()
        seed = self.trainer.ledger.initial.copy()
        found = self.held.arrays
        if present:
            found = self.held._take_out(present, arrays, scale)
        self.look()
        method = told_of(self.held, present, absent, scale)
        chosen = self.held._method
        method["left"] = self.remnants.left(
            must_go,
            self.held._vector,
            seed=seed,
            starts_over=chosen is not None and chosen.starts_over,
            parts=None if chosen is None else chosen.parts(),
        )
        self.trainer.ledger.fold_correction()
        self.leaving = Leaving(clients, digest_of_model(model), must_go, method)
        if not (present and self.held.unlearn_rounds):
            self.place += 1
            row = {"server_round": self.place, "phase": "unlearn"}
            self.history.append({**row, "clients": 0, "failures": 0})
            self._has_left(self.leaving)
        return found

    def _has_left(self, leaving: Leaving) -> None:
        """Write down that clients are out of the model."""
        clients, model = leaving.clients, self.held._vector
        files = self.remnants.scan_window_files(leaving.must_go, stays=model)
        self.leaving = None
        self.work = Work(
            clients,
            "remaining" if self.repair_rounds else "none",
            self.place,
            0,
            {"model": leaving.before},
            {"model": digest_of_model(model)},
            leaving.method,
        )
        self._keep(due=True, event=UNLEARNED, clients=clients, scan_windows=files)
        self.state.requests.mark(clients, UNLEARNED)

    def _finish(self, work: Work) -> None:
        """Purge what holds the forgotten, and write their receipts."""
        more: dict[str, Any] = {"around": type(self.held.strategy).__name__}
        depends = getattr(self.held, "depends", ())
        if depends:
            more["depends"] = list(depends)
        self.erasure.finish(
            work,
            self.held._vector,
            self.place,
            history=self.history,
            measured={},
            remains=lambda client_id, w: str(w.method["remains_of"][str(client_id)]),
            more=more,
        )
        self.work = None
        for client_id in work.clients:
            say(f"receipt: {self.state.receipts / f'forget-{client_id}.json'}")

    # -- what is written ---------------------------------------------------------------

    def _keep(
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
            self.trained, self._planned, ledger.num_bytes
        )
        if due and ledger.clients:
            names, model = self.held._names, self.held._vector
            assert names is not None, "a ledger has names"
            app = {
                **shape_of(ledger, names),
                "origin": ledger.origin,
                "rounds": self.rounds,
                "facts": self.held._facts(),
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

    def _serve(self) -> None:
        """Put the model in service; it has its checkpoint."""
        model = self.held._vector
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
                "rounds": self._planned,
                "clients": len(self.held._places),
                "excluded": sorted(self.state.excluded()),
                "carrying_out": self.work.clients if self.work else [],
                "recovered": self.work.recovered if self.work else 0,
            }
        )

    def _room_for(self, facts: Mapping[str, Any]) -> Ledger:
        """Return a ledger of zeros for what a checkpoint's facts tell of."""
        ledger = empty_ledger(facts["app"], self.held.memory_mib)
        ledger.origin = facts["app"]["origin"]
        return ledger

    def _tell_notices(self) -> None:
        while self.state.notices:
            say(self.state.notices.pop(0))


def say(text: str) -> None:
    """Log a line where Flower logs its own."""
    log(INFO, "fedneg: %s", text)
