"""A phase's rounds, each run, measured, timed, shown, and entered into the history."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from fedneg.core.parameters import Vector
from fedneg.federation.composition import Parts
from fedneg.history import history_row
from fedneg.strategies.phases import Phase, RoundReport

AfterRound = Callable[[RoundReport, Vector], None]


class Rounds:
    """Runs phases of a federation.

    Parameters
    ----------
    parts : Parts

    Attributes
    ----------
    history : list of dict
        One row per round, the columns of history.csv.
    seconds : dict of str to float
        Wall time of each phase, and of writing checkpoints.
    """

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.history: list[dict[str, object]] = []
        self.seconds: dict[str, float] = {"checkpoint": 0.0}

    @property
    def last_round(self) -> int:
        """The number of the last round; 0 before the first."""
        return int(str(self.history[-1]["server_round"])) if self.history else 0

    def enter(
        self, report: RoundReport, parameters: Vector, seconds: float = 0.0
    ) -> tuple[float, float]:
        """Enter a round into the history; return its accuracy and loss, as measured."""
        found = self.parts.test.measure(parameters)
        self.history.append(history_row(report, found, seconds=seconds))
        return found.accuracy, found.loss

    def run(
        self,
        phase: Phase,
        parameters: Vector,
        *,
        forget: Sequence[int] = (),
        after_round: AfterRound | None = None,
        done: int = 0,
        keep: Callable[[int, Vector], None] | None = None,
        shown: tuple[int, int] | None = None,
    ) -> Vector:
        """Run what is left of a phase; return the parameters after it.

        Parameters
        ----------
        parameters : Vector, shape (d,)
            Before its first round that is left.
        forget : sequence of int
            Whom an unlearn phase is to forget.
        after_round : callable, optional
            Called with the report and the parameters of every round.
        done : int
            Rounds of it that an earlier run has done.
        keep : callable, optional
            Called with the number of rounds done and the parameters, to keep them.
        shown : tuple of int, optional
            A round's number and of how many, for people; by default those of the phase.
        """
        started = round_started = time.perf_counter()
        outside, before = 0.0, self.seconds.get(phase.name, 0.0)

        def on_round(report: RoundReport, after: Vector) -> dict[str, float]:
            nonlocal round_started, outside
            ended = time.perf_counter()
            self.seconds[phase.name] = before + ended - started - outside
            accuracy, loss = self.enter(report, after, ended - round_started)
            number = report.server_round - phase.first_round + 1
            self.parts.progress.round(
                phase.name,
                *(shown or (number, phase.rounds)),
                accuracy=accuracy,
                loss=loss,
                failures=[
                    f"round {f.server_round}: client {f.client_id} left out: {f.reason}"
                    for f in report.failures
                ],
            )
            if after_round is not None:
                after_round(report, after)
            if keep is not None:
                keep(number, after)
            # Measuring and keeping are no part of what a phase costs.
            round_started = time.perf_counter()
            outside += round_started - ended
            return {"accuracy": accuracy, "loss": loss}

        rest = replace(
            phase,
            rounds=phase.rounds - done,
            first_round=phase.first_round + done,
            first_stream=phase.first_stream + done,
        )
        return self.parts.strategy.run_phase(
            self.parts.grid, rest, parameters, forget=forget, after_round=on_round
        )
