"""What of its examples a client works on, where some of them are to be forgotten."""

from collections.abc import Sized

import numpy as np
from numpy.typing import NDArray

from fedneg.core.assignment import Assignment
from fedneg.core.samples import ALL, GONE, KEY, POISONED, places_of
from fedneg.tasks import calls
from fedneg.tasks.task import Task


class Part:
    """The part that an assignment asks a client to work on.

    Parameters
    ----------
    task : Task
    assignment : Assignment
    client_id : int
    """

    def __init__(self, task: Task, assignment: Assignment, client_id: int) -> None:
        self._task, self._assignment, self._client_id = task, assignment, client_id
        chosen = assignment.forget_samples.get(client_id)
        self._chosen = None if assignment.part == ALL else chosen

    @property
    def is_all(self) -> bool:
        """Whether it is all of them."""
        return self._chosen is None

    @property
    def goes(self) -> bool:
        """Whether it is those that are to go."""
        return not self.is_all and self._assignment.part == GONE

    @property
    def is_poison(self) -> bool:
        """Whether it is those that the client's attack has poisoned, or planted."""
        return self.goes and self._chosen == POISONED

    def places(self, count: int, *, own: int, source: int) -> NDArray[np.int64]:
        """Return its places among all that the client trains on, ascending.

        Parameters
        ----------
        count : int
            How many these are.
        own : int
            How many of them, the first, its attack has not added.
        source : int
            The client whose examples they are: for sybils the first's.

        Raises
        ------
        FedNegError
            As `places_of`, and if the task cannot say which are poisoned.
        """
        if self._chosen is None:
            return np.arange(count)
        assignment = self._assignment
        gone = places_of(
            self._chosen,
            count,
            seed=assignment.seed,
            client_id=self._client_id,
            poisoned=lambda: calls.poisoned_places(
                self._task,
                own,
                assignment.attack,
                seed=assignment.seed,
                client_id=source,
            ),
        )
        if self.goes:
            return gone
        return np.setdiff1d(np.arange(count), gone)

    def taken(self, data: Sized, places: NDArray[np.int64]) -> Sized:
        """Return some examples; FedNegError if the task cannot take some."""
        self._task.require("take", of=KEY)
        assert self._task.extras.take is not None
        return self._task.extras.take(data, places)
