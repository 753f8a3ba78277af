"""What a lasting federation keeps in a checkpoint beside its ledger."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedneg.ledger.checkpoint_files import CheckpointFiles, DamagedCheckpointError


@dataclass(frozen=True)
class Kept:
    """The facts in the head of a checkpoint.

    Attributes
    ----------
    model : str or None
        Digest of the global parameters; None if an older fedneg wrote it.
    trained : int
        Training rounds that are done.
    contains : list of int
        Client ids whose updates are in the model.
    work : mapping or None
        The requests that are being carried out (`fedneg.lasting.work.Work`).
    history : list of mapping
        A row for every round.
    app : mapping or None
        Of an app of somebody's own (`fedneg.forgettable`): its arrays, and whose each
        row of the ledger is.
    """

    model: str | None
    trained: int
    contains: list[int]
    work: Mapping[str, Any] | None
    history: list[dict[str, Any]]
    app: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, facts: Mapping[str, Any], stem: Path) -> "Kept":
        """Return what facts say.

        Parameters
        ----------
        facts : mapping
            As a checkpoint gives them.
        stem : Path
            Of that checkpoint, for the error.

        Raises
        ------
        DamagedCheckpointError
            If they are no federation's.
        """
        try:
            kept = cls(**{"model": None, **facts})
            numbers = [kept.trained, *kept.contains]
            if not all(type(number) is int for number in numbers):
                raise TypeError("a client id or number of rounds is none")
        except TypeError as error:
            raise DamagedCheckpointError(
                f"{stem} is damaged: its head is no federation's ({error})"
            ) from None
        return kept

    @classmethod
    def read(cls, checkpoints: CheckpointFiles, rounds: int) -> "Kept":
        """Return what a checkpoint's head says; raises as `CheckpointFiles.facts`."""
        return cls.of(checkpoints.facts(rounds), checkpoints.stem(rounds))

    def facts(self) -> dict[str, Any]:
        """Return it as a checkpoint takes it."""
        found = dict(vars(self))
        if self.app is None:
            del found["app"]
        return found
