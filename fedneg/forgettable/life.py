"""The life of a strategy in somebody's own app: requests carried out, kills survived.

What fedneg/live/ does for a federation of fedneg's own app, told in the words of
Flower's `start()`. After every round a checkpoint is written, with the entry of the log
before it, and whoever has asked to be forgotten is taken out of the model; the rounds
that follow repair it; then all that could give the contribution back is purged, and
receipts are written. A start goes on where the last one was, however that ended.

What lies in the folder, how it is held to the log, purged and proved is told in
fedneg/records/ and fedneg/lasting/.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from inspect import signature
from operator import index
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, Message
from flwr.serverapp.strategy import Result, Strategy

from fedneg.core.errors import FedNegError
from fedneg.core.exits import mistake_of, mistakes_in
from fedneg.core.parameters import Vector, digest_of_model
from fedneg.forgettable import results
from fedneg.forgettable.held import told_of
from fedneg.forgettable.holding import Holding
from fedneg.forgettable.standing import Standing, say
from fedneg.lasting.erasure import Erasure
from fedneg.lasting.work import Work
from fedneg.records.requests import UNLEARNED
from fedneg.records.state import State

DUE_DAYS = 30.0


@dataclass(frozen=True)
class Leaving:
    """Clients that are being taken out, while rounds of the method are to come.

    Attributes
    ----------
    clients : list of int
    present, absent : list of int
        Those of them that are in the model, and those that never were.
    model, seed, correction : Vector
        The model that had them, the parameters that it all began with, and the ledger's
        correction: what rounding and earlier forgetting left.
    must_go : mapping
        What may be found nowhere in the end (`Remnants.of`).
    scale : float
        Of a plain subtraction.
    """

    clients: list[int]
    present: list[int]
    absent: list[int]
    model: Vector
    seed: Vector
    correction: Vector
    must_go: Mapping[int, Mapping[str, Vector]]
    scale: float


class Life:
    """What a strategy with ``state=`` does next, and what it writes down.

    Parameters
    ----------
    held : Holding
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
        held: Holding,
        folder: Path,
        keys: Path | None,
        *,
        repair_rounds: int,
        every: int,
    ) -> None:
        self.held, self.repair_rounds = held, repair_rounds
        if folder == Path():
            raise FedNegError("state must be a folder of its own, got the working one")
        self.state = State(folder, keys)
        self.at = Standing(held, self.state, every=every)
        self.is_going = False
        self.before = 0  # rounds of earlier starts
        self.leaving: Leaving | None = None

    # -- what the strategy calls -------------------------------------------------------

    def start(self, strategy: Strategy, *arguments: Any, **more: Any) -> Result:
        """Run the rounds that are missing, and those that repair; return the results.

        Parameters
        ----------
        strategy : Strategy
            The forgettable one.
        arguments, more
            Those of Flower's `start`; `num_rounds` is how many there are to be in all.
        """
        bound = signature(Strategy.start).bind(strategy, *arguments, **more)
        bound.apply_defaults()
        given, whole, is_first = bound.arguments, Result(), True
        with self._going(given["initial_arrays"]):
            self.at.planned = index(given["num_rounds"])
            self._carry_out()
            while is_first or self._missing():
                self.before, is_first = self.at.rounds, False
                own = {
                    "initial_arrays": self.held.arrays,
                    "num_rounds": self._missing(),
                    "evaluate_fn": results.counted_on(
                        given["evaluate_fn"], whole, before=self.before
                    ),
                }
                found = Strategy.start(**{**given, **own})
                results.add(whole, found, before=self.before)
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
            ids = self.held.check(client_ids, arrays)
            if self.at.work is not None:
                self._finish(self.at.work)  # with the rounds of repair that it had
            for client_id in ids:
                self.state.requests.accept(client_id, clients=None, due_days=DUE_DAYS)
            found = self._take_out(ids, scale)
            if self.at.work is not None and self._lacks(self.at.work) <= 0:
                self._finish(self.at.work)
        return found

    def look(self) -> None:
        """Leave out whoever has asked to be forgotten."""
        self.held.nodes.leave_out(self.state.excluded())

    def after_round(
        self, arrays: ArrayRecord | None, replies: Sequence[Message]
    ) -> ArrayRecord | None:
        """Write a round down and carry out what was asked; return the model after it.

        None if nobody's reply changed it, and nobody was forgotten. Else it is the
        ledger's, bit for bit: so a start after a kill comes to the same.
        """
        at = self.at
        at.rounds += 1
        failures = sum(reply.has_error() for reply in replies)
        phase = "unlearn" if self.leaving else "recover" if at.work else "train"
        at.step(phase, clients=len(replies) - failures, failures=failures)
        at.failed = {
            str(self.held.nodes.client(r.metadata.src_node_id)): r.error.reason
            or "no reason"
            for r in replies
            if r.has_error()
        }
        self.look()
        if self.leaving is not None:
            if self.held.unlearn_rounds == 0:
                self._has_left(self.leaving)
        else:
            at.trained += 1
            if at.work is not None:
                at.work.recovered += 1
            at.keep(due=at.work is not None)
        is_other = self._carry_out() or arrays is not None
        at.tell()
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
        folders = self.state.folder, self.state.keys
        with mistakes_in(*folders), self.state.running():
            self.is_going = True
            try:
                if not self.at.go_on_from(arrays):
                    self.leaving = None
                self.look()
                yield
                if self.leaving is None:
                    self.at.hand_over()
                self.at.end()
            except (FedNegError, OSError) as error:
                with suppress(OSError, FedNegError):  # the disk may be full
                    said = str(mistake_of(error) or error)
                    told = self.state.read_status()
                    self.state.write_status({**told, "error": said})
                raise
            finally:
                self.is_going = False

    # -- what is asked -----------------------------------------------------------------

    def _missing(self) -> int:
        """Return how many rounds are to come, by what is known now."""
        lack = 0
        if self.leaving is not None:
            lack = self.held.unlearn_rounds + self.repair_rounds
        elif self.at.work is not None:
            lack = self._lacks(self.at.work)
        return max(self.at.planned - self.at.trained, lack)

    def _lacks(self, work: Work) -> int:
        """Return how many rounds of repair a forgetting lacks.

        None where nobody was taken out of the model, or nobody is left to repair it.
        """
        was_there = set(work.clients) - set(work.method.get("absent", ()))
        if not (was_there and self.at.trainer.contains):
            return 0
        return self.repair_rounds - work.recovered

    def _carry_out(self) -> bool:
        """Do what no round is needed for; return whether the model is another."""
        is_other = False
        while self.leaving is None:
            if self.at.work is not None:
                if self._lacks(self.at.work) > 0:
                    break
                self._finish(self.at.work)
                continue
            clients = sorted(r.client_id for r in self.state.requests.open())
            # Before anybody trained there is no model to take somebody out of.
            if not (clients and self.at.trainer.ledger.clients):
                break
            self._take_out(clients, 1.0)
            is_other = True
        return is_other

    def _take_out(self, clients: list[int], scale: float) -> ArrayRecord:
        """Take clients out of the model; return it."""
        say(f"forgetting {', '.join(map(str, clients))}")
        ledger, contains = self.at.trainer.ledger, self.at.trainer.contains
        model = self.held.vector
        leaving = Leaving(
            clients,
            [k for k in clients if k in contains],
            [k for k in clients if k not in contains],
            model,
            ledger.initial.copy(),
            ledger.correction.copy(),
            # While the rows are still there; they are to be found nowhere in the end.
            self.at.remnants.of(clients, model),
            scale,
        )
        found = self.held.arrays
        if leaving.present:
            found = self.held.take_out(leaving.present, scale)
        if self.held.unlearn_rounds and leaving.present:
            self.leaving = leaving
        else:
            self.at.step("unlearn", clients=0, failures=0)
            self._has_left(leaving)
        return found

    def _has_left(self, leaving: Leaving) -> None:
        """Write down that clients are out of the model."""
        remnants, after = self.at.remnants, self.held.vector
        method = told_of(self.held, leaving.present, leaving.absent, leaving.scale)
        chosen = self.held.method
        ledger = self.at.trainer.ledger
        began_anew = chosen is not None and chosen.starts_over
        kept = ledger.correction
        if not began_anew:
            ledger.correction = kept - leaving.correction  # what this one changed
        try:
            method["left"] = remnants.left(
                leaving.must_go,
                after,
                seed=leaving.seed,
                starts_over=began_anew,
                parts=None if chosen is None else chosen.parts(),
            )
        finally:
            ledger.correction = kept
        files = remnants.scan_window_files(leaving.must_go, stays=after)
        self.leaving = None
        self.at.work = Work(
            leaving.clients,
            "remaining" if self.repair_rounds else "none",
            self.at.place,
            0,
            {"model": digest_of_model(leaving.model)},
            {"model": digest_of_model(after)},
            method,
        )
        clients = leaving.clients
        self.at.keep(due=True, event=UNLEARNED, clients=clients, scan_windows=files)
        self.state.requests.mark(clients, UNLEARNED)

    def _finish(self, work: Work) -> None:
        """Purge what holds the forgotten, and write their receipts."""
        more: dict[str, Any] = {"around": type(self.held.strategy).__name__}
        if self.held.depends:
            more["depends"] = list(self.held.depends)
        Erasure(self.state, self.at.checkpoints, self.at.remnants).finish(
            work,
            self.held.vector,
            self.at.place,
            history=self.at.history,
            measured={},
            remains=lambda client_id, w: str(w.method["remains_of"][str(client_id)]),
            more=more,
        )
        self.at.work = None
        for client_id in work.clients:
            say(f"receipt: {self.state.receipts / f'forget-{client_id}.json'}")
