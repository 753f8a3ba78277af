"""The life of a federation: train, carry out what was asked, go on, survive.

Told in the words of a `Federation` (fedneg/federation/), one round at a time. After
every round it is decided anew what comes next, so that a request counts from the moment
it is accepted. Where it stands is written down in standing.py, and found again by a run
after a kill in restore.py; the purge is in fedneg/lasting/.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from fedneg.core.errors import FedNegError
from fedneg.core.exits import mistake_of
from fedneg.core.formats import number as finite
from fedneg.core.parameters import Vector, digest_of_model
from fedneg.core.progress import Progress, say, show_notice
from fedneg.core.settings import Config
from fedneg.core.unanswered import EVALUATE, describe
from fedneg.federation import Federation
from fedneg.lasting.erasure import Erasure
from fedneg.lasting.work import Work
from fedneg.live.measured import canaries_of, measured_of, remains, validation_part
from fedneg.live.restore import restore
from fedneg.live.standing import Standing
from fedneg.records.account import GATE
from fedneg.records.facts import fixed_settings
from fedneg.records.requests import UNLEARNED
from fedneg.records.state import State
from fedneg.strategies.hooks import Hooks


def do_live_job(
    make_federation: Callable[[Config, Progress, Hooks], Federation],
    config: Config,
    overrides: Sequence[str],
    notices: Sequence[str] = (),
) -> None:
    """Train up to `config.rounds`, and carry out every open request."""
    state = State.of(config)
    with state.running():
        progress = Progress(_title(config), config.rounds)

        def on_wait(text: str) -> None:
            standing.tell(waiting=text)  # there is one before anybody is waited for

        def on_refused(client_id: int | None, why: str) -> None:
            progress.step(f"refused: {why}")
            state.audit.append("refused", client=client_id, why=why)

        hooks = Hooks(excluded=state.excluded, on_wait=on_wait, on_refused=on_refused)
        federation = make_federation(config, progress, hooks)
        progress.quality = federation.task.shown_quality
        state.settle(
            fixed_settings(config),
            overrides,
            deployed=federation.deployed,
            encrypt=config.encrypt,
        )
        standing = Standing(state, federation)
        live = Live(standing)
        with progress:
            try:
                restore(standing)
                while live.step():
                    pass
                standing.end()
            except (FedNegError, OSError) as error:
                with suppress(OSError):  # the disk may be full
                    said = str(mistake_of(error) or error)
                    state.write_status({**state.read_status(), "error": said})
                raise
    for notice in (*notices, *state.notices, *federation.notices):
        show_notice(notice)
    _show(standing)


class Live:
    """What a federation does next.

    Parameters
    ----------
    standing : Standing
        Where it stands; every step changes it.
    """

    def __init__(self, standing: Standing) -> None:
        self.at = standing
        self.state, self.federation = standing.state, standing.federation
        self.config, self.strategy = standing.config, standing.strategy
        self.erasure = Erasure(standing.state, standing.checkpoints, standing.remnants)

    def step(self) -> bool:
        """Do what comes next: one round, or the end of a request; False: nothing."""
        if self.at.work is not None:
            self._go_on(self.at.work)
        elif requests := self.state.requests.open():
            clients = [request.client_id for request in requests]
            # Who is to take part in its own forgetting has an unlearn phase to itself.
            alone = self.strategy.needs_leaving_client
            self._begin(clients[:1] if alone else clients)
        elif self.at.trained < self.config.rounds:
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
        place = self.at.server_round + 1
        self.at.parameters = self.federation.round(
            name,
            self._remaining(),
            self.at.parameters,
            first_round=place,
            first_stream=place if stream is None else stream,
            shown=(number, of),
        )
        self.at.server_round = place
        self.at.contains |= self._took_part()

    def _took_part(self) -> set[int]:
        """Return who trained in the round that was last entered."""
        entries = self.strategy.ledger.participation
        if not entries or self.strategy.reports[-1].clients == 0:
            return set()
        return set(entries[-1].weights)

    def _train(self) -> None:
        of = self.config.rounds
        self._round("train", self.at.trained + 1, of)
        self.at.trained += 1
        self.at.keep()
        if self.at.trained == of:
            self.at.serve()

    # -- a request ---------------------------------------------------------------------

    def _begin(self, clients: list[int]) -> None:
        """Take clients out of the model, by the method or by starting over."""
        if self.config.retrain != "scratch":
            self.strategy.check_kept(tuple(clients))
        self.federation.progress.step(f"forgetting {', '.join(map(str, clients))}")
        before = self._measured(clients)
        # While the rows are still there; they are to be found nowhere in the end.
        must_go = self.at.remnants.of(clients, self.at.parameters)
        absent = [k for k in clients if k not in self.at.contains]
        self._unlearn(clients, before, must_go, absent)

    def _unlearn(
        self,
        clients: list[int],
        before: dict[str, Any],
        must_go: Mapping[int, Mapping[str, Vector]],
        absent: list[int],
    ) -> None:
        place, mode = self.at.server_round + 1, self.config.retrain
        method: dict[str, Any]
        if mode == "scratch":
            self.at.parameters = self.federation.start_over(place)
            self.at.contains, method = set(), {"form": "from the initial parameters"}
        else:
            self.at.parameters = self.federation.round(
                "unlearn",
                (),
                self.at.parameters,
                first_round=place,
                first_stream=place,
                forget=clients,
            )
            left = self.at.remnants.left(
                must_go,
                self.at.parameters,
                seed=self.strategy.initial,
                starts_over=self.strategy.starts_over,
                parts=self.strategy.parts(),
            )
            self.strategy.ledger.fold_correction()
            if self.strategy.starts_over:
                self.at.contains = set()
            for entry in self.strategy.ledger.participation:
                # Every round of the phase, not its last alone.
                if entry.server_round >= place:
                    self.at.contains |= set(entry.weights)
            self.at.contains -= set(clients)
            place += self.federation.unlearn_rounds - 1
            method = self.strategy.method_report | {"left": left}
        self.strategy.forgotten |= set(clients)
        self.at.server_round = place
        files = self.at.remnants.scan_window_files(must_go, stays=self.at.parameters)
        method["strategy"] = self.config.strategy.name
        if absent and not self.strategy.needs_leaving_client:
            method["absent"] = absent
        unlearned = self._measured(clients)
        self.at.work = Work(clients, mode, place, 0, before, unlearned, method)
        self.at.keep(due=True, event=UNLEARNED, clients=clients, scan_windows=files)
        self.state.requests.mark(clients, UNLEARNED)

    def _go_on(self, work: Work) -> None:
        """Repair the model by one round, or hand it over."""
        mode = self.config.retrain
        if mode == "scratch" and work.mode != "scratch":
            self._unlearn(work.clients, work.before, {}, work.method.get("absent", []))
            return
        of = {"none": 0, "remaining": self.config.retrain_rounds}.get(
            work.mode, self.at.trained
        )
        if work.recovered < of:
            # From scratch, every client draws what it drew when it was trained first.
            stream = work.recovered + 1 if work.mode == "scratch" else None
            self._round("recover", work.recovered + 1, of, stream=stream)
            work.recovered += 1
            self.at.keep(due=True)
            return
        after = self._measured(work.clients)
        self._check_gate(work, after)
        self.federation.progress.step(
            "asking the remaining clients how good the model is"
        )
        answers = self.strategy.evaluate_clients(
            self.federation.grid, self.at.parameters, (validation_part(self.config),)
        )
        if missing := dict(self.strategy.unanswered):
            model = f"the model after forgetting {', '.join(map(str, work.clients))}"
            self.at.warn(describe(EVALUATE, model, missing))
        self.federation.progress.step("purging what holds the forgotten")
        part = validation_part(self.config)
        self.erasure.finish(
            work,
            self.at.parameters,
            self.at.server_round,
            history=self.federation.history,
            measured=measured_of(work, after, answers, missing, part),
            remains=remains,
        )
        self.at.work = None
        self.at.tell()

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

    def _measured(self, clients: Sequence[int]) -> dict[str, Any]:
        """Return what is known of the current model, for clients that leave."""
        found = self.federation.test.measure(self.at.parameters)
        values: dict[str, Any] = {
            "model": digest_of_model(self.at.parameters),
            "test_accuracy": found.accuracy,
            # A model that diverged has no loss that JSON could hold.
            "test_loss": finite(found.loss),
        }
        rate = self.federation.test.attack_success_rate(self.at.parameters)
        if rate is not None:
            values["attack_success_rate"] = rate
        canaries = canaries_of(
            self.federation.test, self.at.parameters, self.config, clients
        )
        return values | ({"canaries": canaries} if canaries else {})


def _show(standing: Standing) -> None:
    """Print where the federation stands, in a few lines."""
    last: Mapping[str, Any] = standing.federation.history[-1]
    out = sorted(standing.state.requests.excluded())
    quality = standing.federation.task.shown_quality
    say(
        f"{standing.trained} of {standing.config.rounds} rounds trained, round "
        f"{standing.server_round} in all; test {quality} {last['accuracy']:.4f}; "
        f"forgotten: {', '.join(map(str, out)) or 'nobody'}"
    )
    for path in sorted(standing.state.receipts.glob("[!.]*.json")):
        say(f"receipt: {path}")
    say(f"model: {standing.state.model}")


def _title(config: Config) -> str:
    return (
        f"fedneg: {config.task or config.data.name}, {config.clients} clients, "
        f"seed {config.seed}, state {config.state}"
    )
