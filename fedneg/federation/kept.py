"""Trainings that are kept: a run takes from an earlier one what that had trained.

A training that was killed goes on after its last checkpoint; one that ended is taken
whole, with its history and times, and with what was measured of its model.
"""

import hashlib
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from fedneg.core.errors import FedNegError
from fedneg.core.formats import human_bytes
from fedneg.core.parameters import Vector
from fedneg.core.samples import ALL
from fedneg.federation.composition import Parts
from fedneg.federation.rounds import Rounds
from fedneg.ledger.checkpoint import LARGE_BYTES, Checkpoints, Restored
from fedneg.ledger.training_cache import Entry, Store, training_identity
from fedneg.strategies.phases import Phase, RoundReport
from fedneg.tasks import calls
from fedneg.tasks.device import choose_device
from fedneg.tasks.task import ClientRef


class KeptTrainings:
    """Runs phases from where an earlier run of the same ones stopped, if any did.

    Parameters
    ----------
    parts : Parts
    rounds : Rounds
        Run what nobody has trained; taken back are history and times.
    beside : KeptTrainings, optional
        Who is to know where these are kept, too.

    Attributes
    ----------
    reused : set of str
        Phases that an earlier run had trained to their end.
    resumed : dict of str to int
        Phases that were trained, and after which round they went on (0: new).
    """

    def __init__(
        self, parts: Parts, rounds: Rounds, *, beside: "KeptTrainings | None" = None
    ) -> None:
        self.parts, self.rounds = parts, rounds
        self.reused: set[str] = set()
        self.resumed: dict[str, int] = {}
        self._temporary: list[Entry] = []
        self._beside = beside
        self._digest: str | None = None
        self._entries: dict[bytes, Entry] = beside._entries if beside else {}

    def identity(self, clients: tuple[int, ...], part: str = ALL) -> dict[str, Any]:
        """Return everything that determines a training with these clients.

        Of a task that is not deterministic nothing does: it is of no use.

        Parameters
        ----------
        part : str
            What of their examples they train on; all of them is as if none were to go.
        """
        if not self.parts.task.deterministic:
            return {}
        own: dict[str, Any] = {}
        if part != ALL:
            samples = self.parts.config.forget_samples
            own = {"part": part, "samples": {str(k): s for k, s in samples.items()}}
        return own | training_identity(
            self.parts.config,
            clients=clients,
            digest_of_data=self.parts.task.extras.digest or self._digest_of_data,
            method=self.parts.strategy.training_identity(),
        )

    @property
    def _may(self) -> bool:
        """Whether trainings may be kept."""
        # The server does not know the data of real clients: nothing tells it whether
        # another training would be the same. Nor does anything if the task does not say
        # that it is.
        parts = self.parts
        return parts.config.cache and parts.task.deterministic and not parts.deployed

    def _digest_of_data(self) -> str:
        """Return a digest of all that an untrained model answers on a task's data.

        For a task that knows none: a file that it reads may have been edited since.
        """
        if not self._may:
            return ""  # whatever they are
        if self._beside is not None:
            return self._beside._digest_of_data()
        if self._digest is None:
            task, clients = self.parts.task, self.parts.config.clients
            device = choose_device(self.parts.config.client.device)
            model = self.parts.prototype.build().to(device)
            told = hashlib.sha256()
            for k in range(clients):
                try:
                    split = calls.split_of(task, ClientRef(k, clients))
                    for part in (split.unseen, *split.measured.values()):
                        if len(part):
                            told.update(calls.losses(task, model, part).tobytes())
                except FedNegError as error:  # of a client that will say so itself
                    told.update(str(error).encode())
            for part in self.parts.test.parts:
                told.update(calls.losses(task, model, part).tobytes())
            self._digest = told.hexdigest()
        return self._digest

    def entry_of(self, parameters: Vector) -> Entry | None:
        """Return where the training of a model is kept, if it is."""
        return self._entries.get(parameters.tobytes())

    def close(self) -> None:
        """Remove what was kept for this run only."""
        for entry in self._temporary:
            with suppress(BlockingIOError), entry.locked():
                entry.remove()

    def run(
        self,
        phase: Phase,
        parameters: Vector,
        identity: Mapping[str, Any],
        *,
        lasting: bool = True,
    ) -> Vector:
        """Return the parameters after a phase, by whichever runs it was trained.

        Parameters
        ----------
        parameters : Vector, shape (d,)
            Before its first round.
        identity : mapping
            Everything that determines what it ends with.
        lasting : bool
            Whether it is of use to other runs; if not, `close` removes it.
        """
        if not self._may:
            return self.rounds.run(phase, parameters)
        strategy, step = self.parts.strategy, self.parts.progress.step
        entry = Store().entry(identity)
        if not lasting:
            self._temporary.append(entry)
        with entry.locked(lambda: step("waiting for a run that trains the same")):
            checkpoints = entry.checkpoints(self.parts.config.checkpoint)
            checkpoints.tidy()
            entry.describe(identity)
            found = checkpoints.restore(strategy.ledger, self.parts.warn)
            done = 0 if found is None else found.rounds
            if found is not None:
                parameters = found.parameters
                self._take_back(phase, found)
            if done < phase.rounds:
                checkpoints.check_room(strategy.ledger.num_bytes)
                self.resumed[phase.name] = done

                def keep(rounds: int, after: Vector) -> None:
                    self._keep(checkpoints, rounds, phase, after, lasting=lasting)

                parameters = self.rounds.run(phase, parameters, done=done, keep=keep)
            own = strategy.reports[len(strategy.reports) - phase.rounds :]
            # A worker that died is no part of the identity, and may not die again.
            if any(report.failures for report in own):
                entry.forget_checkpoints()
            elif lasting:
                self._entries[parameters.tobytes()] = entry
            return parameters

    def _take_back(self, phase: Phase, found: Restored) -> None:
        """Enter the rounds of a checkpoint into history, reports and times."""
        done, of = found.rounds, phase.rounds
        for number, (row, report) in enumerate(
            zip(found.facts["history"], found.facts["reports"], strict=True),
            start=phase.first_round,
        ):
            self.rounds.history.append(
                row | {"server_round": number, "phase": phase.name}
            )
            self.parts.strategy.reports.append(
                RoundReport.from_json(report, server_round=number, phase=phase.name)
            )
        self.rounds.seconds[phase.name] = found.facts["seconds"]
        progress = self.parts.progress
        progress.skip(done)
        if done == of:
            self.reused.add(phase.name)
            progress.step(f"{phase.name}: all {of} rounds were trained before")
        else:
            progress.step(f"{phase.name}: going on after round {done} of {of}")

    def _keep(
        self,
        checkpoints: Checkpoints,
        done: int,
        phase: Phase,
        after: Vector,
        *,
        lasting: bool,
    ) -> None:
        """Write a checkpoint if one is due."""
        strategy, seconds = self.parts.strategy, self.rounds.seconds
        size = strategy.ledger.num_bytes
        started = time.perf_counter()
        if checkpoints.is_due(done, phase.rounds, size, lasting=lasting):
            if size > LARGE_BYTES:
                self.parts.progress.step(
                    f"keeping {human_bytes(size)} after round {done}"
                )
            facts = {
                "history": self.rounds.history[-done:],
                "reports": [r.to_json() for r in strategy.reports[-done:]],
                "seconds": seconds[phase.name],
            }
            is_last = done == phase.rounds
            checkpoints.write(done, after, strategy.ledger, facts, complete=is_last)
        seconds["checkpoint"] += time.perf_counter() - started
