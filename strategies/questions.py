"""What clients are asked about a model: to measure it, or to answer questions about it.

Nothing here trains: a federation ends with the same bytes whoever was asked what.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from logging import WARNING
from typing import TypeVar

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.common import log
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fedneg.arrays import record_of
from fedneg.core.assignment import Assignment
from fedneg.core.layout import Layout
from fedneg.core.parameters import Vector
from fedneg.core.samples import ALL, GONE
from fedneg.core.settings import Config, StrategySettings
from fedneg.evaluation.client_answers import (
    CHECK_EVERY,
    MAX_EXAMPLES,
    RELEARN_CAP,
    ClientAnswers,
)
from fedneg.evaluation.relearn import RelearnTime
from fedneg.strategies.claims import MAX_LOSS, PARTS, count, loss, rate, reason_of
from fedneg.strategies.hooks import Hooks
from fedneg.strategies.replies import (
    HEADER_BYTES,
    claims_of,
    examples_of,
    read_evaluation,
)
from fedneg.strategies.roster import Roster

# Who is to leave may be gone already; it is not waited for as a round waits.
WAIT_FOR_ANSWERS_S = 10.0
Answer = TypeVar("Answer")


class Questions:
    """The part of a strategy that asks clients about a model.

    The attributes are those of `LedgerFedAvg`.

    Attributes
    ----------
    unanswered : dict of int to str
        Why there is no answer to the last question, by the client ids that it was for.
    """

    config: Config
    settings: StrategySettings
    assignment: str
    roster: Roster
    hooks: Hooks
    arrayrecord_key: str
    configrecord_key: str
    unanswered: dict[int, str]
    layout: Layout
    _asked: dict[int, int]

    def assignment_for(self, part: str) -> str:
        """Return what clients are told to work on, of a part of their examples."""
        if part == ALL:
            return self.assignment
        return Assignment.from_json(self.assignment).of_part(part).to_json()

    def _to_clients(
        self, record: RecordDict, clients: Iterable[int], message_type: str
    ) -> list[Message]:
        """Address one record to those clients that are online, wherever they are."""
        node_of = self.roster.node_of
        ids = sorted(set(clients) & set(node_of))
        self._asked = {node_of[k]: k for k in ids}
        return [
            Message(record, dst_node_id=node_of[k], message_type=message_type)
            for k in ids
        ]

    def evaluate_clients(
        self,
        grid: Grid,
        parameters: Vector,
        parts: Sequence[str] = PARTS,
        *,
        among: Collection[int] | None = None,
        part: str = ALL,
    ) -> dict[int, dict[str, float]]:
        """Return what each client measures of a model on parts of its own data.

        Clients that are out are not asked; those that do not answer, or not as can be
        believed, are missing from the result and in `unanswered`. Who is not online is
        waited for as long as a round waits, once; nobody can keep a model, or the end
        of somebody's request, waiting for ever by not answering.

        Parameters
        ----------
        among : collection of int, optional
            Only these are asked; by default everybody.
        part : str
            Of which of their training examples (`fedneg.core.samples`).
        """
        everybody = range(self.config.clients) if among is None else sorted(among)
        clients = [k for k in everybody if k not in self.hooks.excluded()]
        wait_s = self.settings.wait_for_clients_s
        self.roster.look_for(grid, clients, timeout_s=wait_s)
        return self._answers(
            grid,
            parameters,
            clients,
            {"parts": " ".join(parts)},
            part=part,
            read=lambda reply, k: read_evaluation(
                reply,
                k,
                parts,
                max_num_examples=self.settings.max_num_examples,
                own_task=self.config.task is not None,
            ),
            said=("evaluation", "evaluate the model"),
        )

    def question_clients(
        self,
        grid: Grid,
        parameters: Vector,
        clients: Collection[int],
        *,
        relearn_target: float | None,
        relearn_cap: int = RELEARN_CAP,
        check_every: int = CHECK_EVERY,
    ) -> dict[int, ClientAnswers]:
        """Return what clients answer about a model, by client id, in order.

        Parameters
        ----------
        clients : collection of int
            Only these are asked, whether they are out or not: it is their data.
        relearn_target : float or None
            The original's `check_loss`, nats; None: nothing is relearned.
        relearn_cap, check_every : int
            As `fedneg.evaluation.relearn.relearn_time`.

        Returns
        -------
        dict of int to ClientAnswers
            Without those that are not online, that cannot answer (a model that
            diverged), or whose answer is not usable; each is in `unanswered`.
        """
        wait_s = min(self.settings.wait_for_clients_s, WAIT_FOR_ANSWERS_S)
        self.roster.look_for(grid, clients, timeout_s=wait_s)
        settings: dict[str, int | float | str] = {
            "role": "answering",
            "relearn-cap": relearn_cap,
            "check-every": check_every,
        }
        if relearn_target is not None:
            settings["relearn-target"] = float(relearn_target)

        def read(reply: Message, client_id: int) -> ClientAnswers:
            return read_answers(
                reply,
                client_id,
                max_num_examples=self.settings.max_num_examples,
                relearn_cap=None if relearn_target is None else relearn_cap,
            )

        return self._answers(
            grid,
            parameters,
            clients,
            settings,
            part=GONE if self.config.forget_samples else ALL,
            read=read,
            said=("answers", "answer questions about the model"),
        )

    def _answers(
        self,
        grid: Grid,
        parameters: Vector,
        clients: Collection[int],
        settings: Mapping[str, int | float | str],
        *,
        part: str,
        read: Callable[[Message, int], Answer],
        said: tuple[str, str],
    ) -> dict[int, Answer]:
        """Return the usable answers by client id; `said` names them in the log."""
        arrays = record_of(self.layout, parameters)
        config = ConfigRecord({"assignment": self.assignment_for(part), **settings})
        record = RecordDict(
            {self.arrayrecord_key: arrays, self.configrecord_key: config}
        )
        messages = self._to_clients(record, clients, MessageType.EVALUATE)
        replies = grid.send_and_receive(messages, timeout=self.settings.round_timeout_s)
        found, self.unanswered = usable(
            replies, self._asked, clients, read=read, said=said
        )
        return found


def usable(
    replies: Iterable[Message],
    asked: Mapping[int, int],
    clients: Collection[int],
    *,
    read: Callable[[Message, int], Answer],
    said: tuple[str, str],
) -> tuple[dict[int, Answer], dict[int, str]]:
    """Return the usable answers by client id, and why there is none of the others.

    Parameters
    ----------
    asked : mapping of int to int
        The client of each node that was asked.
    clients : collection of int
        All that should have been: who was not is not online.
    read : callable
        Gives an answer, or raises.
    said : (str, str)
        Name answers in the log.
    """
    found: dict[int, Answer] = {}
    answered: set[int] = set()
    unanswered = dict.fromkeys(sorted(set(clients) - set(asked.values())), "not online")
    for reply in replies:
        client_id = asked.get(reply.metadata.src_node_id)
        if client_id is None:
            continue
        try:
            if client_id in answered:
                found.pop(client_id, None)
                raise ValueError("answered more than once")
            answered.add(client_id)
            found[client_id] = read(reply, client_id)
        except Exception as error:
            # As for parameters: whatever the bytes of somebody's choice lead to
            # is that client's failure, and not the server's.
            unanswered[client_id] = reason = reason_of(error)
            log(WARNING, "client %d: no %s: %s", client_id, said[0], reason)
    for client_id in sorted(set(clients) - set(found)):
        unanswered.setdefault(client_id, "no reply")
        log(WARNING, "client %d did not %s", client_id, said[1])
    return dict(sorted(found.items())), dict(sorted(unanswered.items()))


def read_answers(
    message: Message,
    client_id: int,
    *,
    max_num_examples: int,
    relearn_cap: int | None,
) -> ClientAnswers:
    """Return a client's answers, checked.

    Parameters
    ----------
    relearn_cap : int or None
        Of the relearning that was asked for; None: none was.

    Raises
    ------
    ValueError
        What is wrong: an error reply, another client's id, an absurd count, arrays that
        are larger than answers are, unreadable, or no rows of finite numbers, a rate
        or a time that cannot be.
    KeyError
        If a record or an entry is missing.
    """
    metrics = claims_of(message, client_id)
    examples_of(metrics, max_num_examples)
    confidence = message.content.array_records["confidence"]
    if set(confidence) != {"members", "unseen"}:
        names = ", ".join(sorted(confidence)[:3])
        raise ValueError(f"members and unseen expected, got {names or 'nothing'}")
    return ClientAnswers(
        members=_read_confidence(confidence, "members"),
        unseen=_read_confidence(confidence, "unseen"),
        as_trained_accuracy=rate("accuracy", metrics["accuracy"]),
        as_trained_loss=loss("loss", metrics["loss"]),
        check_loss=loss("check-loss", metrics["check-loss"]),
        relearn=_read_relearn(metrics, relearn_cap),
    )


def _read_confidence(record: ArrayRecord, name: str) -> NDArray[np.float64]:
    """Return one array; it is for `ClientAnswers` to say whether it holds numbers."""
    array, most = record[name], HEADER_BYTES + 8 * MAX_EXAMPLES
    if len(array.data) > most:
        raise ValueError(
            f"{name} of at most {most} bytes expected, got {len(array.data)}"
        )
    try:
        found = array.numpy()
    except Exception as error:
        # As for parameters: bytes of the sender's choice are not the server's failure.
        raise ValueError(f"{name} cannot be read: {error}") from error
    if not isinstance(found, np.ndarray):  # NumPy reads a zip file as a set of arrays
        raise ValueError(f"{name} cannot be read: no array")
    if found.size > MAX_EXAMPLES:
        raise ValueError(
            f"{name} must hold at most {MAX_EXAMPLES} numbers, got {found.size}"
        )
    if found.dtype.kind == "f" and (np.abs(found) > MAX_LOSS).any():
        # A scaled confidence is a difference of losses.
        raise ValueError(
            f"{name} must hold numbers from -{MAX_LOSS:g} to {MAX_LOSS:g}, got "
            f"{found[np.abs(found) > MAX_LOSS][0]:g}"
        )
    return found


def _read_relearn(
    metrics: Mapping[str, object], relearn_cap: int | None
) -> RelearnTime | None:
    """Return the relearn time, which is there exactly if it was asked for."""
    in_epochs = "relearn-epochs" in metrics
    if relearn_cap is None:
        if in_epochs or "relearn-batches" in metrics:
            raise ValueError("relearned without having been asked to")
        return None
    name = "relearn-epochs" if in_epochs else "relearn-batches"
    batches = count(name, metrics[name], most=relearn_cap)
    reached = count("relearn-reached", metrics["relearn-reached"], most=1)
    if in_epochs:  # how many of them the cap stands for only the client knows
        return RelearnTime(batches, bool(reached), "epochs")
    if not reached and batches != relearn_cap:
        raise ValueError(
            f"relearn-reached must be 1, or 0 after {relearn_cap} batches, "
            f"got {reached} after {batches}"
        )
    return RelearnTime(batches, bool(reached))
