"""Who is asked, who is who, and what is left of the strategy that somebody gave."""

from collections.abc import Iterable
from typing import Any

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from builders.strangers import INITIAL, Watched, trained, written
from builders.waiting import PATIENCE_S
from fedneg import Forgettable
from fedneg.core.errors import FedNegError


class Listed(FedAvg):
    """A strategy with a list of nodes of its own, which asks no grid for them."""

    nodes: tuple[int, ...] = ()
    # Whether it sends to all by itself before the round, as one that looks around.
    asks: str = ""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return a message for each node of the list."""
        config["server-round"] = server_round
        content = RecordDict({"arrays": arrays, "config": config})
        found = self._construct_messages(content, list(self.nodes), "train")
        if self.asks == "pushes":
            grid.push_messages(found)
        elif self.asks == "waits":
            list(grid.send_and_receive(found))
        yield from found


@pytest.mark.parametrize("asks", ["", "pushes", "waits"])
def test_nothing_is_sent_to_whom_a_strategy_lists_and_who_was_forgotten(
    asks: str, flower_log: pytest.LogCaptureFixture
):
    grid, pushed = Watched(), list[int]()
    inner = Listed(fraction_evaluate=0.0)
    inner.nodes = tuple(grid.get_node_ids())
    held, arrays = trained(inner, grid)
    gone = held.clients[1]
    arrays = held.forget([gone], arrays)
    assert "nothing is sent" not in flower_log.text
    grid.sent.clear()
    inner.asks = asks
    real = grid.push_messages

    def push(messages: Iterable[Message]) -> Iterable[str]:
        asked = list(messages)
        pushed.extend(m.metadata.dst_node_id for m in asked)
        return real(asked)

    grid.push_messages = push  # type: ignore[method-assign]
    held.start(grid, arrays, 2, PATIENCE_S)
    stay = {0, 2, 3}
    assert set(grid.asked("train")) == stay
    assert len(grid.asked("train")) == (12 if asks == "waits" else 6)
    assert len(pushed) == (6 if asks == "pushes" else 0)
    assert gone not in pushed
    said = f"a message for node {gone}, whose client {gone} was forgotten"
    assert flower_log.text.count(said) == 1


def test_a_grid_says_of_no_node_that_is_out():
    grid = Watched()
    seen = list[list[int]]()

    class Looking(FedAvg):
        def configure_train(self, *arguments: Any) -> Iterable[Message]:
            seen.append([node.node_id for node in arguments[-1].get_nodes()])
            return super().configure_train(*arguments)

    held, arrays = trained(Looking(fraction_evaluate=0.0), grid, 1)
    gone = held.clients[0]
    held.start(grid, held.forget([gone], arrays), 1, PATIENCE_S)
    everybody = sorted(grid.get_node_ids())
    assert [sorted(one) for one in seen] == [
        everybody,
        [node for node in everybody if node != gone],
    ]


# -- who is who ------------------------------------------------------------------------


def test_a_node_is_not_what_clients_calls_another_ones_client():
    """By default it would be called so, and the two be one without a word."""
    grid = Watched()
    one, two, *_ = grid.get_node_ids()
    said = rf"clients= says that node {one} is client {two}, and nothing of node {two}"
    with pytest.raises(FedNegError, match=said):
        trained(FedAvg(fraction_evaluate=0.0), grid, clients={one: two})
    assert grid.rounds == [], "nobody has trained"
    held, _ = trained(
        FedAvg(fraction_evaluate=0.0), Watched(), clients={one: two, two: one}
    )
    assert set(held.clients) == set(grid.get_node_ids())


class Together(Watched):
    """A grid whose nodes all say that they are one client."""

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Let them."""
        found = super().send_and_receive(messages, timeout=timeout)
        for reply in found:
            reply.content["metrics"]["client-id"] = 7
        return found


@pytest.mark.parametrize("fraction_train", [1.0, 0.0])
def test_two_nodes_of_a_round_that_say_they_are_one_client_are_an_error(
    fraction_train: float,
):
    """As they train, and as they measure."""
    grid = Together()
    said = r"^nodes 100\d and 100\d both answer as client 7 in one round: give each"
    inner = FedAvg(fraction_train=fraction_train)
    held = Forgettable(inner, clients="client-id")
    for _ in range(2):
        with pytest.raises(FedNegError, match=said):
            held.start(grid, written(INITIAL), 1, PATIENCE_S)
        assert held.clients == ()


@pytest.mark.parametrize("late", [0, 1, None])
def test_a_node_that_says_nothing_is_not_the_client_of_another_one(late: int | None):
    """Node 1001 is called so by itself, and node 1000 says that its client is.

    They come in one round, or the one after the other.
    """

    class Says(Watched):
        def send_and_receive(
            self, messages: Iterable[Message], *, timeout: float | None = None
        ) -> list[Message]:
            found = super().send_and_receive(messages, timeout=timeout)
            for reply in found:
                says = reply.metadata.src_node_id == 1000
                reply.content["metrics"]["client"] = 1001 if says else 0.5
            return found

    grid = Says(late={} if late is None else {late: 1})
    said = r"nodes 100[01] and 100[01] would both be client 1001, since one says nothi"
    with pytest.raises(FedNegError, match=said):
        trained(FedAvg(fraction_evaluate=0.0), grid, clients="client")
    assert len(grid.rounds) == (1 if late is None else 2)


# -- what is the owner's ---------------------------------------------------------------


@pytest.mark.parametrize("ends", ["well", "with an exception"])
def test_what_a_strategy_waits_for_is_its_owners_again(ends: str):
    wanted = {
        "min_train_nodes": 4,
        "min_evaluate_nodes": 3,
        "min_available_nodes": 4,
    }
    seen = set[int]()

    class Looking(FedAvg):
        def aggregate_train(self, *arguments: Any) -> Any:
            seen.add(self.min_train_nodes)
            if ends != "well" and len(held.forgotten) == 1:
                raise RuntimeError("a bug of somebody's")
            return super().aggregate_train(*arguments)

    inner, grid = Looking(**wanted), Watched()
    held = Forgettable(inner)
    arrays = held.start(grid, written(INITIAL), 1, PATIENCE_S).arrays
    arrays = held.forget([held.clients[0]], arrays)
    assert {name: getattr(inner, name) for name in wanted} == wanted
    if ends == "well":
        held.start(grid, arrays, 1, PATIENCE_S)
    else:
        with pytest.raises(RuntimeError):
            held.start(grid, arrays, 1, PATIENCE_S)
    assert {name: getattr(inner, name) for name in wanted} == wanted
    assert seen == {4, 3}


def test_what_a_strategy_says_of_its_minima_meanwhile_stays():
    class Growing(FedAvg):
        def configure_train(self, *arguments: Any) -> Iterable[Message]:
            self.min_available_nodes = 1
            return super().configure_train(*arguments)

    inner = Growing(fraction_evaluate=0.0, min_available_nodes=4)
    held, arrays = trained(inner, Watched(), 1)
    inner.min_available_nodes = 4
    held.start(Watched(), held.forget([held.clients[0]], arrays), 1, PATIENCE_S)
    assert inner.min_available_nodes == 1
