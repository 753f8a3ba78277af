"""The life of a federation: train, carry out what was asked, go on, survive.

Told in the words of a `Federation` (fedneg/federation/), one round at a time. After
every round it is decided anew what comes next, so that a request counts from the moment
it is accepted. Where it stands is in the last checkpoint: a run that was killed goes on
after the last complete round, with the same bytes.

Longer than others: what a step changes, a checkpoint keeps and the status tells are the
same few values of one class, and the order in which they are written is what survives a
kill; the purge (erasure.py) and the folder (state.py) have files of their own.
"""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pandas as pd

from fedneg.core import outputs
from fedneg.core.errors import FedNegError
from fedneg.core.exits import mistake_of
from fedneg.core.formats import number as finite
from fedneg.core.parameters import Vector, digest_of_model
from fedneg.core.progress import Progress, say, show_notice
from fedneg.core.settings import Config
from fedneg.core.unanswered import EVALUATE, describe
from fedneg.history import HISTORY_COLUMNS
from fedneg.ledger.checkpoint import Restored
from fedneg.live.erasure import Erasure
from fedneg.live.remnants import Remnants
from fedneg.live.work import Work
from fedneg.records.account import ENDED, GATE, KEPT, RESUMED
from fedneg.records.agreement.federation import of_model
from fedneg.records.requests import ACCEPTED, UNLEARNED
from fedneg.records.sealed import Sealed
from fedneg.records.state import State
from fedneg.strategies.hooks import Hooks

# A client id that nobody has: of a checkpoint, the global parameters alone.
NOBODY = -1

if TYPE_CHECKING:
    from collections.abc import Callable

    from fedneg.federation import Federation


def do_live_job(
    make_federation: "Callable[[Config, Progress, Hooks], Federation]",
    config: Config,
    overrides: Sequence[str],
    notices: Sequence[str] = (),
) -> None:
    """Train up to `config.rounds`, and carry out every open request."""
    state = State.of(config)
    with state.running():
        progress = Progress(_title(config), config.rounds)

        def on_wait(
            text: str,
        ) -> None:  # there is a `live` before anybody is waited for
            live.tell(waiting=text)

        def on_refused(client_id: int | None, why: str) -> None:
            progress.step(f"refused: {why}")
            state.audit.append("refused", client=client_id, why=why)

        hooks = Hooks(excluded=state.excluded, on_wait=on_wait, on_refused=on_refused)
        federation = make_federation(config, progress, hooks)
        state.settle(config, overrides, deployed=federation.deployed)
        live = Live(state, federation)
        with progress:
            try:
                live.restore()
                while live.step():
                    pass
                live.end()
            except (FedNegError, OSError) as error:
                with suppress(OSError):  # the disk may be full
                    said = str(mistake_of(error) or error)
                    state.write_status({**state.read_status(), "error": said})
                raise
    for notice in (*notices, *state.notices, *federation.notices):
        show_notice(notice)
    live.show()


class Live:
    """Where a federation stands, and its next step.

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

    def __init__(self, state: State, federation: "Federation") -> None:
        self.state, self.federation = state, federation
        self.config, self.strategy = federation.config, federation.strategy
        self.progress = federation.progress
        self.checkpoints = state.checkpoints(
            every=self.config.checkpoint, encrypt=self.config.encrypt
        )
        self.parameters: Vector = federation.initial
        self.server_round = self.trained = self.kept_round = 0
        self.contains: set[int] = set()
        self.work: Work | None = None
        self.remnants = Remnants(federation, self.checkpoints, state.scan_windows)
        self.erasure = Erasure(state, federation, self.checkpoints, self.remnants)

    # -- where it stands ---------------------------------------------------------------

    def restore(self) -> None:
        """Go on from the last whole checkpoint, if there is one.

        Raises
        ------
        FedNegError
            If it is not where the log says that the federation stands, or contains a
            client that was forgotten.
        """
        self.checkpoints.tidy()
        account = self.state.account
        standing = account.standing
        odd = [d.text for d in of_model(self.state.model, account)]
        damage: list[str] = []
        found = self.checkpoints.restore(
            self.strategy.ledger, damage.append, strict=True
        )
        for text in damage:
            self._warn(text)
        if found is None:
            self._refuse_lost_checkpoints(damage)
            if account.line:  # a kill kept the first from being written
                self._resume()
            self.federation.measure_initial()
        else:
            self._refuse_unlogged(found)
            if standing is not None and found.rounds < standing and not damage:
                self._warn(
                    f"there is no checkpoint of round {standing}, where the federation "
                    f"stood; it goes on after round {found.rounds}"
                )
            self._take_back(found)
        self.checkpoints.check_room(self.strategy.ledger.num_bytes)
        if found is not None and self.work is None:
            # After a rollback, or a run that was killed before this.
            self._serve()
        for text in odd:
            again = self.work is None or self._serve_again()
            what = "is made again" if again else "stays so until the next is in service"
            self._warn(f"{text}; it {what}")
        self.strategy.forgotten |= {
            r.client_id for r in self.state.requests.all() if r.status != ACCEPTED
        }
        self.tell()

    def _serve(self) -> None:
        """Put the current model in service; it has its checkpoint."""
        self.state.serve(
            self.federation.bytes_of(self.parameters),
            server_round=self.server_round,
            model=digest_of_model(self.parameters),
        )

    def _serve_again(self) -> bool:
        """Make the model in service again, if a checkpoint still holds it."""
        served = self.state.account.served
        if served is None or served.round not in self.checkpoints.rounds():
            return False
        try:
            found = self.checkpoints.rows(served.round, NOBODY)["global"]
        except FedNegError:
            return False  # damaged, or its key was destroyed
        content = self.federation.bytes_of(found)
        if hashlib.sha256(content).hexdigest() != served.sha256:
            return False
        self.state.serve(content, server_round=served.round, model=served.model)
        return True

    def _refuse_lost_checkpoints(self, damage: Sequence[str]) -> None:
        """Raise FedNegError if there were checkpoints: the ledger is not made twice."""
        account = self.state.account
        kept = self.state.read_status().get("kept_round", 0)
        if kept or account.has_checkpoint:
            kept = max([kept, *(number for number, _ in account.line)])
            raise FedNegError(
                f"there is no whole checkpoint in {self.checkpoints.folder}, and there "
                f"was one of round {kept}; bring it back from a backup, or begin anew "
                f"with another state folder{''.join(f' ({text})' for text in damage)}"
            )

    def _refuse_unlogged(self, found: Restored) -> None:
        """Raise FedNegError unless the log says that the federation stands there."""
        stem = self.checkpoints.folder / f"round-{found.rounds:06d}"
        account, contains = self.state.account, set(found.facts["contains"])
        named = account.restorable()
        if found.rounds not in [number for number, _ in named]:
            last = " or ".join(str(n) for n in sorted({n for n, _ in named})) or "none"
            raise FedNegError(
                f"{stem} is not where the audit log says that the federation stands "
                f"(after round {last}); bring that checkpoint back from a backup"
            )
        if (found.rounds, digest_of_model(found.parameters)) not in named:
            raise FedNegError(
                f"{stem} holds another model than the audit log says; bring the right "
                "one back from a backup"
            )
        destroyed = self.state.vault.destroyed() if self.config.encrypt else set()
        for client_id in sorted(contains & (account.forgotten | destroyed)):
            raise FedNegError(
                f"{stem} contains client {client_id}, which was forgotten; it is not "
                "used, bring a later one from a backup"
            )

    def _take_back(self, found: Restored) -> None:
        facts = found.facts
        self.parameters, self.server_round = found.parameters, found.rounds
        self.kept_round = found.rounds
        self.trained, self.contains = facts["trained"], set(facts["contains"])
        self.federation.history[:] = facts["history"]
        if facts["work"] is not None:
            self.work = Work(**facts["work"])
            open_now = {r.client_id for r in self.state.requests.open()}
            if not set(self.work.clients) & open_now:
                self.work = None  # its receipts were written before the run ended
        # A run that was killed after the checkpoint may not have come to this.
        self._write_history()
        self.progress.skip(min(self.trained, self.progress.planned))
        self.progress.step(f"going on after round {self.server_round}")
        self._mark_open()
        self._resume()

    def _resume(self) -> None:
        self.state.audit.append(
            RESUMED, round=self.server_round, model=digest_of_model(self.parameters)
        )

    def _mark_open(self) -> None:
        """Let open requests say what the checkpoint does: a kill may have come between.

        So may a last checkpoint that is damaged: then the client is in the model again.
        """
        unlearned = set(self.work.clients) if self.work else set()
        for request in self.state.requests.open():
            status = UNLEARNED if request.client_id in unlearned else ACCEPTED
            self.state.requests.mark([request.client_id], status)

    def _keep(
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
            model = digest_of_model(self.parameters)
            told: dict[str, Any] = {"clients": list(clients)} if clients else {}
            if scan_windows is not None:
                told["fingerprints"] = {
                    str(k): hashlib.sha256(content).hexdigest()
                    for k, content in scan_windows.items()
                }
            self.state.audit.append(event, round=self.server_round, model=model, **told)
            self.remnants.write_scan_windows(scan_windows or {})
            facts = {
                "model": model,
                "trained": self.trained,
                "contains": sorted(self.contains),
                "work": asdict(self.work) if self.work else None,
                "history": self.federation.history,
            }
            self.checkpoints.write(self.server_round, self.parameters, ledger, facts)
            self.kept_round = self.server_round
        self._write_history()
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

    def _write_history(self) -> None:
        history = self.federation.history
        table = pd.DataFrame(history, columns=list(HISTORY_COLUMNS))
        outputs.write_csv(self.state.history, table, shared=False)

    # -- one step ----------------------------------------------------------------------

    def step(self) -> bool:
        """Do what comes next: one round, or the end of a request; False: nothing."""
        if self.work is not None:
            self._go_on(self.work)
        elif requests := self.state.requests.open():
            clients = [request.client_id for request in requests]
            # Who is to take part in its own forgetting has an unlearn phase to itself.
            alone = self.strategy.needs_leaving_client
            self._begin(clients[:1] if alone else clients)
        elif self.trained < self.config.rounds:
            self._train()
        else:
            return False
        return True

    def _remaining(self) -> tuple[int, ...]:
        out = self.state.excluded()
        return tuple(k for k in range(self.config.clients) if k not in out)

    def _round(
        self, name: str, number: int, of: int, *, stream: int | None = None
    ) -> None:
        """Let the remaining clients train one round."""
        place = self.server_round + 1
        self.parameters = self.federation.round(
            name,
            self._remaining(),
            self.parameters,
            first_round=place,
            first_stream=place if stream is None else stream,
            shown=(number, of),
        )
        self.server_round = place
        self.contains |= self._took_part()

    def _took_part(self) -> set[int]:
        """Return who trained in the round that was last entered."""
        entries = self.strategy.ledger.participation
        if not entries or self.strategy.reports[-1].clients == 0:
            return set()
        return set(entries[-1].weights)

    def _train(self) -> None:
        of = self.config.rounds
        self._round("train", self.trained + 1, of)
        self.trained += 1
        self._keep()
        if self.trained == of:
            self._serve()

    # -- a request ---------------------------------------------------------------------

    def _begin(self, clients: list[int]) -> None:
        """Take clients out of the model, by the method or by starting over."""
        if self.config.retrain != "scratch":
            self.strategy.check_kept(tuple(clients))
        self.progress.step(f"forgetting {', '.join(map(str, clients))}")
        before = self._measured()
        # While the rows are still there; they are to be found nowhere in the end.
        must_go = self.remnants.of(clients, self.parameters)
        absent = [k for k in clients if k not in self.contains]
        self._unlearn(clients, before, must_go, absent)

    def _unlearn(
        self,
        clients: list[int],
        before: dict[str, Any],
        must_go: Mapping[int, Mapping[str, Vector]],
        absent: list[int],
    ) -> None:
        place, mode = self.server_round + 1, self.config.retrain
        method: dict[str, Any]
        if mode == "scratch":
            self.parameters = self.federation.start_over(place)
            self.contains, method = set(), {"form": "from the initial parameters"}
        else:
            self.parameters = self.federation.round(
                "unlearn",
                (),
                self.parameters,
                first_round=place,
                first_stream=place,
                shown=(1, self.federation.unlearn_rounds),
                forget=clients,
            )
            left = self.remnants.left(must_go, self.parameters)
            self.strategy.ledger.fold_correction()
            if self.strategy.starts_over:
                self.contains = set()
            for entry in self.strategy.ledger.participation:
                # Every round of the phase, not its last alone.
                if entry.server_round >= place:
                    self.contains |= set(entry.weights)
            self.contains -= set(clients)
            place += self.federation.unlearn_rounds - 1
            method = self.strategy.method_report | {"left": left}
        self.strategy.forgotten |= set(clients)
        self.server_round = place
        files = self.remnants.scan_window_files(must_go, stays=self.parameters)
        method["strategy"] = self.config.strategy.name
        if absent and not self.strategy.needs_leaving_client:
            method["absent"] = absent
        self.work = Work(clients, mode, place, 0, before, self._measured(), method)
        self._keep(due=True, event=UNLEARNED, clients=clients, scan_windows=files)
        self.state.requests.mark(clients, UNLEARNED)

    def _go_on(self, work: Work) -> None:
        """Repair the model by one round, or hand it over."""
        mode = self.config.retrain
        if mode == "scratch" and work.mode != "scratch":
            self._unlearn(work.clients, work.before, {}, work.method.get("absent", []))
            return
        of = {"none": 0, "remaining": self.config.retrain_rounds}.get(
            work.mode, self.trained
        )
        if work.recovered < of:
            # From scratch, every client draws what it drew when it was trained first.
            stream = work.recovered + 1 if work.mode == "scratch" else None
            self._round("recover", work.recovered + 1, of, stream=stream)
            work.recovered += 1
            self._keep(due=True)
            return
        after = self._measured()
        self._check_gate(work, after)
        self.progress.step("asking the remaining clients how good the model is")
        answers = self.strategy.evaluate_clients(
            self.federation.grid, self.parameters, ("val",)
        )
        if missing := dict(self.strategy.unanswered):
            model = f"the model after forgetting {', '.join(map(str, work.clients))}"
            self._warn(describe(EVALUATE, model, missing))
        self.erasure.finish(
            work, after, answers, missing, self.parameters, self.server_round
        )
        self.work = None
        self.tell()

    def _check_gate(self, work: Work, after: Mapping[str, Any]) -> None:
        """Raise FedNegError if the model is too bad to be handed over."""
        gate = self.config.strategy.gate
        if after["test_accuracy"] >= gate * work.before["test_accuracy"]:
            return
        self.state.audit.append(GATE, clients=work.clients, after=after)
        raise FedNegError(
            f"after forgetting {work.clients} and {work.recovered} recovery rounds the "
            f"test accuracy is {after['test_accuracy']:.4f}, below strategy.gate="
            f"{gate:g} times {work.before['test_accuracy']:.4f}; the model before "
            "stays in service and the request open; run again with more "
            "retrain_rounds, or with retrain=scratch"
        )

    def _measured(self) -> dict[str, Any]:
        """Return what is known of the current model."""
        found = self.federation.test.measure(self.parameters)
        values: dict[str, Any] = {
            "model": digest_of_model(self.parameters),
            "test_accuracy": found.accuracy,
            # A model that diverged has no loss that JSON could hold.
            "test_loss": finite(found.loss),
        }
        rate = self.federation.test.attack_success_rate(self.parameters)
        if rate is not None:
            values["attack_success_rate"] = rate
        return values

    # -- telling -----------------------------------------------------------------------

    def end(self) -> None:
        """Say that nothing is left to do, and with which checkpoints.

        No act of this run is missing any more, and nobody writes until the next.
        """
        self.tell()
        left = {}
        for number in self.checkpoints.rounds():
            with suppress(FedNegError):
                left[number] = self.checkpoints.digest(number)
        self.state.audit.append(ENDED, round=self.server_round, checkpoints=left)

    def _warn(self, text: str) -> None:
        self.federation.notices.append(text)
        self.progress.step(text)

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
                "loss": finite(last.get("loss")),
                "carrying_out": work.clients if work else [],
                "recovered": work.recovered if work else 0,
            }
        )

    def show(self) -> None:
        """Print where the federation stands, in a few lines."""
        last: Mapping[str, Any] = self.federation.history[-1]
        out = sorted(self.state.requests.excluded())
        say(
            f"{self.trained} of {self.config.rounds} rounds trained, round "
            f"{self.server_round} in all; test accuracy {last['accuracy']:.4f}; "
            f"forgotten: {', '.join(map(str, out)) or 'nobody'}"
        )
        for path in sorted(self.state.receipts.glob("[!.]*.json")):
            say(f"receipt: {path}")
        say(f"model: {self.state.model}")


def _title(config: Config) -> str:
    return (
        f"fedneg: {config.data.name}, {config.clients} clients, seed {config.seed}, "
        f"state {config.state}"
    )
