"""Who is believed to be which client, by key, and what becomes of the absent."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.app import ConfigRecord, Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from builders.federations import (
    Answer,
    Behaviour,
    Bench,
    RecordingGrid,
    acting_clients,
    small_config,
)
from builders.waiting import PATIENCE_S
from fedneg.client_app import app as real_clients
from fedneg.core.errors import FedNegError
from fedneg.core.parameters import NDArrays
from fedneg.engines.inline import FIRST_NODE_ID
from fedneg.records.pins import FIRST_SIGHT, OPERATOR, Pins, key_digest_of
from fedneg.server_app import run
from fedneg.strategies import roster as roster_module
from fedneg.strategies.hooks import NO_HOOKS, Hooks
from fedneg.strategies.phases import Phase
from fedneg.strategies.roster import Roster

SSH = (Encoding.OpenSSH, PublicFormat.OpenSSH)
PEM = (Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
KEYS = [ec.generate_private_key(ec.SECP384R1()).public_key() for _ in range(6)]
INITIAL = [np.full((2, 3), 0.5, np.float32), np.array([1, -1], np.float32)]


def ssh(number: int) -> bytes:
    """Return one of the public keys as an operator's file has it."""
    return KEYS[number].public_bytes(*SSH)


def print_of(number: int) -> str:
    """Return the digest of one of the keys."""
    return key_digest_of(ssh(number))


def stays(arrays: NDArrays, server_round: int) -> Answer:
    return [*arrays], 1


@dataclass
class RealNode:
    """What a Grid says of a node."""

    node_id: int
    public_key: bytes


class KeyedGrid(RecordingGrid):
    """A grid of nodes that have keys, come, go, and say who they are."""

    def __init__(self, clients: int, *, simulated: int = 0) -> None:
        super().__init__(acting_clients(dict.fromkeys(range(99), stays)), clients)
        self.simulated = simulated
        self.keys: dict[int, bytes] = {}
        self.asked_nodes: list[int] = []
        self.timeouts: list[float | None] = []
        self.hanging: set[int] = set()
        self.answers: dict[int, Any] = {}
        self._one = dict(self.contexts)
        self.contexts.clear()

    def come(self, node: int, claims: int, key: int | bytes | None = None) -> None:
        """Let a node come online that claims a client id."""
        found = self._one[FIRST_NODE_ID]
        context = type(found)(
            run_id=found.run_id,
            node_id=node,
            node_config={"partition-id": claims, "num-partitions": self.simulated},
            state=RecordDict(),
            run_config={},
        )
        self.contexts[node] = context
        self.keys[node] = ssh(key) if isinstance(key, int) else key or b""

    def go(self, node: int) -> None:
        """Let a node go."""
        del self.contexts[node]

    def get_nodes(self) -> list[RealNode]:
        """Return who is online, with public keys."""
        return [RealNode(number, self.keys[number]) for number in self.contexts]

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Any:
        """Answer questions as told, where something is told."""
        replies = []
        for message in list(messages):
            node = message.metadata.dst_node_id
            if message.metadata.message_type == "query":
                self.asked_nodes.append(node)
                self.timeouts.append(timeout)
                if node in self.hanging:
                    continue
                if isinstance(self.answers.get(node), RecordDict):
                    self._stamped([message])
                    replies.append(Message(self.answers[node], reply_to=message))
                    continue
            replies += super().send_and_receive([message])
        return replies


def roster_of(clients: int, trust: str | None, pins: Pins | None = None) -> Roster:
    """Return a roster that writes down what it tells of."""
    said: list[tuple[int | None, str]] = []
    hooks = Hooks(on_refused=lambda client, why: said.append((client, why)))
    made = Roster(clients, trust, pins, hooks)
    made.told = said  # type: ignore[attr-defined]
    return made


def told(made: Roster) -> list[tuple[int | None, str]]:
    """Return what was told of refused nodes."""
    return made.told  # type: ignore[attr-defined,no-any-return]


def look(made: Roster, grid: KeyedGrid, times: int = 1) -> dict[int, int]:
    """Look who is there, waiting for nobody."""
    for _ in range(times):
        made.discover(grid, (), timeout_s=0)
    return made.node_of


# -- keys ------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(3))
def test_one_key_has_one_digest_whatever_its_form(number: int):
    key = KEYS[number]
    forms = [key.public_bytes(*SSH), key.public_bytes(*PEM)]
    forms += [
        forms[0] + b" operator@host\n",
        b"\n" + forms[0],
        forms[1].replace(b"\n", b"\r\n"),
    ]
    assert len({key_digest_of(form) for form in forms}) == 1
    assert len({print_of(k) for k in range(6)}) == 6


@given(st.binary(max_size=200))
def test_what_is_no_key_is_a_value_error(data: bytes):
    for prefix in (b"", b"-----BEGIN PUBLIC KEY-----\n", b"ecdsa-sha2-nistp384 "):
        with pytest.raises(ValueError, match=r"."):
            key_digest_of(prefix + data)


def test_pins_are_there_for_the_next_process(tmp_path: Path):
    made = Pins(tmp_path / "state" / "roster.json")
    made.add(1, print_of(1), OPERATOR)
    made.add(0, print_of(0), FIRST_SIGHT)
    made.add(2, print_of(2), OPERATOR)
    made.remove(2)
    made.remove(7)
    found = Pins(tmp_path / "state" / "roster.json")
    assert [(k, p.key, p.source) for k, p in found.all().items()] == [
        (0, print_of(0), "first sight"),
        (1, print_of(1), "operator"),
    ]
    assert (found.key_of(0), found.key_of(2)) == (print_of(0), None)
    assert (found.client_of(print_of(1)), found.client_of(print_of(2))) == (1, None)


def test_a_key_of_two_clients_is_refused_and_nothing_is_written(tmp_path: Path):
    path = tmp_path / "roster.json"
    made = Pins(path)
    made.add(0, print_of(0), OPERATOR)
    before = path.read_bytes()
    message = f"key {print_of(0)[:16]} belongs to client 0, and cannot be client 1's"
    with pytest.raises(FedNegError, match=message):
        made.add(1, print_of(0), OPERATOR)
    assert path.read_bytes() == before
    made.add(0, print_of(3), OPERATOR)  # its own pin may be replaced
    made.add(1, print_of(0), OPERATOR)
    assert Pins(path).client_of(print_of(0)) == 1


def test_a_first_sight_replaces_nothing():
    made = Pins()
    made.add(0, print_of(0), OPERATOR)
    with pytest.raises(FedNegError, match="client 0 has another key already"):
        made.add(0, print_of(1), FIRST_SIGHT)
    assert made.key_of(0) == print_of(0)


def test_a_run_and_an_operator_may_both_write(tmp_path: Path):
    """Each of two that read the file before finds, and keeps, what the other wrote."""
    path = tmp_path / "roster.json"
    of_run, of_operator = Pins(path), Pins(path)
    of_operator.add(0, print_of(0), OPERATOR)
    of_run.add(1, print_of(1), FIRST_SIGHT)
    with pytest.raises(FedNegError, match="belongs to client 1"):
        of_operator.add(2, print_of(1), OPERATOR)
    assert {k: pin.source for k, pin in Pins(path).all().items()} == {
        0: "operator",
        1: "first sight",
    }


ADD_20 = """
import sys
from pathlib import Path
from fedneg.records.pins import Pins
pins = Pins(Path(sys.argv[1]))
for number in range(int(sys.argv[2]), 60, 3):
    pins.add(number, f"{number:064x}", "operator")
"""


def test_processes_that_pin_at_once_lose_nothing(tmp_path: Path):
    path = tmp_path / "roster.json"
    running = [
        subprocess.Popen([sys.executable, "-c", ADD_20, str(path), str(k)])
        for k in range(3)
    ]
    assert [process.wait(PATIENCE_S) for process in running] == [0, 0, 0]
    assert list(Pins(path).all()) == list(range(60))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        '{"x": {"key": "a", "source": "operator", "since": "now"}}',
        '{"0": "a"}',
        '{"0": {"key": "a"}}',
        '{"0": {"key": "a", "source": "s", "since": "t", "more": 1}}',
        '{"0": {"key": [], "source": "s", "since": "t"}}',
        '{"0": {"key": "a", "source": "s", "since": "t"},'
        ' "1": {"key": "a", "source": "s", "since": "t"}}',
        b"\xff\xfe",
    ],
)
def test_a_damaged_roster_is_named(tmp_path: Path, text: str | bytes):
    path = tmp_path / "roster.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(FedNegError, match=f"{path} is no roster of keys"):
        Pins(path)


# -- trust=listed ----------------------------------------------------------------------


def listed(tmp_path: Path, count: int = 2) -> Pins:
    """Return the operator's list of clients 0.. with the keys 0.. ."""
    pins = Pins(tmp_path / "roster.json")
    for number in range(count):
        pins.add(number, print_of(number), OPERATOR)
    return pins


def test_listed_believes_listed_keys_only(tmp_path: Path):
    grid, made = KeyedGrid(3), roster_of(3, "listed", listed(tmp_path))
    grid.come(11, 1, 1)
    grid.come(12, 2, 2)  # not listed
    grid.come(10, 0, KEYS[0].public_bytes(*PEM))
    assert look(made, grid) == {0: 10, 1: 11}
    remedy = (
        "the operator's roster has no key for client 2 (fedneg roster add, or "
        "strategy.trust=first_sight)"
    )
    assert told(made) == [(2, remedy)]
    assert made.refused == {2: remedy}
    assert list(made.pins.all()) == [0, 1]


def test_a_key_listed_meanwhile_counts_without_a_new_run(tmp_path: Path):
    grid, made = KeyedGrid(3), roster_of(3, "listed", listed(tmp_path))
    grid.come(12, 2, 2)
    assert look(made, grid) == {}
    Pins(tmp_path / "roster.json").add(2, print_of(2), OPERATOR)
    assert look(made, grid) == {2: 12}
    assert made.refused == {}
    Pins(tmp_path / "roster.json").remove(2)
    assert look(made, grid) == {}


@pytest.mark.parametrize("trust", ["listed", "first_sight"])
@pytest.mark.parametrize("key", [b"", b"no key at all"])
def test_a_node_without_a_key_is_refused(tmp_path: Path, trust: str, key: bytes):
    grid, made = KeyedGrid(2), roster_of(2, trust, listed(tmp_path))
    grid.come(10, 0, key)
    assert look(made, grid) == {}
    assert told(made) == [
        (
            0,
            "the node that calls itself client 0 has no key, and "
            f"strategy.trust={trust} needs one",
        )
    ]


@pytest.mark.parametrize("trust", ["listed", "first_sight"])
def test_the_key_of_one_client_is_not_another(tmp_path: Path, trust: str):
    grid, made = KeyedGrid(3), roster_of(3, trust, listed(tmp_path))
    grid.come(10, 1, 0)
    grid.come(11, 2, 1)
    assert look(made, grid) == {}
    assert told(made) == [
        (1, "client 0's node claims to be client 1"),
        (2, "client 1's node claims to be client 2"),
    ]


# -- trust=first_sight -----------------------------------------------------------------


def test_first_sight_pins_and_holds_on_to_it(tmp_path: Path):
    """Client 0's node is gone, another key claims the id, in another process."""
    grid, path = KeyedGrid(2), tmp_path / "roster.json"
    grid.come(10, 0, 0)
    grid.come(11, 1, 1)
    assert look(roster_of(2, "first_sight", Pins(path)), grid) == {0: 10, 1: 11}
    assert Pins(path).key_of(0) == print_of(0)
    assert Pins(path).all()[0].source == "first sight"
    grid.go(10)
    grid.come(12, 0, 5)
    made = roster_of(2, "first_sight", Pins(path))
    assert look(made, grid) == {1: 11}
    why = f"a node with another key ({print_of(5)[:16]}) claims to be client 0"
    assert told(made) == [(0, why)]
    grid.come(13, 0, 0)  # the true one is back while the impostor is still there
    assert look(made, grid) == {0: 13, 1: 11}
    assert made.refused == {0: why}


@pytest.mark.parametrize("trust", ["listed", "first_sight"])
def test_a_restarted_node_is_known_by_its_key(tmp_path: Path, trust: str):
    grid, made = KeyedGrid(2), roster_of(2, trust, listed(tmp_path))
    grid.come(10, 0, 0)
    assert look(made, grid) == {0: 10}
    grid.go(10)
    assert look(made, grid) == {}
    grid.come(77, 0, 0)
    assert look(made, grid) == {0: 77}
    assert told(made) == []


def test_two_at_first_sight_are_both_refused_and_neither_is_pinned():
    grid, made = KeyedGrid(1), roster_of(1, "first_sight")
    grid.come(10, 0, 0)
    grid.come(11, 0, 1)
    assert look(made, grid) == {}
    assert not made.pins.all()
    grid.go(10)
    assert look(made, grid) == {0: 11}
    assert made.pins.key_of(0) == print_of(1)


def test_one_key_at_two_nodes_is_one_client_and_ends_no_run():
    grid, made = KeyedGrid(3), roster_of(3, "first_sight")
    grid.come(10, 0, 0)
    grid.come(11, 1, 0)
    grid.come(12, 2, 2)
    assert look(made, grid) == {0: 10, 2: 12}
    [(client, why)] = told(made)
    assert client == 1
    assert "belongs to client 0, and cannot be client 1's too" in why


def test_a_node_whose_key_changed_is_asked_and_judged_anew():
    grid, made = KeyedGrid(1), roster_of(1, "first_sight")
    grid.come(10, 0, 0)
    assert look(made, grid) == {0: 10}
    grid.come(10, 0, 1)
    assert look(made, grid) == {}
    assert grid.asked_nodes == [10, 10]
    assert "another key" in made.refused[0]


# -- trust=unauthenticated -------------------------------------------------------------


def test_unauthenticated_believes_anybody_but_not_two_of_them():
    grid, made = KeyedGrid(2), roster_of(2, "unauthenticated")
    grid.come(10, 0)
    grid.come(11, 1, 1)
    assert look(made, grid) == {0: 10, 1: 11}
    grid.come(12, 1)
    assert look(made, grid, times=5) == {0: 10}
    why = "two nodes call themselves client 1"
    assert made.refused == {1: why}
    assert told(made) == [(1, why), (1, why)]  # once for each of the two nodes
    grid.go(11)
    assert look(made, grid) == {0: 10, 1: 12}
    assert made.refused == {}


def test_a_refusal_is_told_once_and_again_if_it_comes_back():
    grid, made = KeyedGrid(2), roster_of(2, "unauthenticated")
    grid.come(10, 7)
    look(made, grid, times=4)
    why = "a node calls itself client 7; client ids are 0 to 1 (clients=2)"
    assert told(made) == [(7, why)]
    grid.come(11, -1)
    look(made, grid, times=2)
    assert [client for client, _ in told(made)] == [7, -1]
    grid.go(10)
    look(made, grid)
    grid.come(10, 7)
    look(made, grid, times=2)
    assert [client for client, _ in told(made)] == [7, -1, 7]


def test_every_node_is_asked_once():
    grid, made = KeyedGrid(3), roster_of(3, "unauthenticated")
    for client_id in range(3):
        grid.come(10 + client_id, client_id)
        look(made, grid, times=2)
    assert grid.asked_nodes == [10, 11, 12]


# -- nodes that answer nonsense --------------------------------------------------------


def identity(**entries: Any) -> RecordDict:
    """Return the content of an answer."""
    named = {name.replace("_", "-"): value for name, value in entries.items()}
    return RecordDict({"identity": ConfigRecord(named)})


NONSENSE = {
    "nothing": RecordDict(),
    "no id": identity(num_partitions=0),
    "no number of nodes": identity(client_id=0),
    "a word": identity(client_id="zero", num_partitions=0),
    "a part of an id": identity(client_id=0.5, num_partitions=0),
    "bytes": identity(client_id=b"0", num_partitions=0),
    "a list": identity(client_id=[0], num_partitions=0),
    "true": identity(client_id=True, num_partitions=0),
    "a very long number": identity(client_id="9" * 10_000, num_partitions=0),
    "another number of nodes": identity(client_id=0, num_partitions=99),
    "an error": None,
}


@pytest.mark.parametrize("content", NONSENSE.values(), ids=NONSENSE.keys())
def test_nonsense_stops_nobody_and_is_asked_about_again(
    content: RecordDict | None, monkeypatch: pytest.MonkeyPatch
):
    grid, made = KeyedGrid(2), roster_of(2, "first_sight")
    grid.come(10, 0, 0)
    grid.come(11, 1, 1)
    if content is None:
        del grid.contexts[10].node_config["partition-id"]  # it raises
    else:
        grid.answers[10] = content
    made.discover(grid, [1], timeout_s=0)
    assert made.node_of == {1: 11}
    with pytest.raises(FedNegError, match="client 0 is not online; a node answered: "):
        made.discover(grid, timeout_s=0)
    assert grid.asked_nodes == [10, 11]  # not again at once
    monkeypatch.setattr(roster_module, "ASK_AGAIN_S", 0)
    grid.answers.clear()
    grid.contexts[10].node_config["partition-id"] = 0
    assert look(made, grid) == {0: 10, 1: 11}
    assert grid.asked_nodes == [10, 11, 10]


def test_a_node_that_hangs_is_asked_more_and_more_seldom(
    monkeypatch: pytest.MonkeyPatch,
):
    """After 10, 20 and 40 s, if 5 s is what one waits that answered nonsense.

    Each question has an end of its own, however long clients are waited for.
    """
    now = [0.0]
    monkeypatch.setattr(roster_module.time, "monotonic", lambda: now[0])
    grid, made = KeyedGrid(2), roster_of(2, "unauthenticated")
    grid.come(10, 0)
    grid.come(11, 1)
    grid.hanging = {10}
    asked_at = []
    for second in range(100):
        now[0], before = float(second), grid.asked_nodes.count(10)
        made.discover(grid, [1], timeout_s=3600)
        if grid.asked_nodes.count(10) > before:
            asked_at.append(second)
    assert asked_at == [0, 10, 30, 70]
    assert set(grid.timeouts) == {roster_module.QUESTION_TIMEOUT_S}
    grid.hanging.clear()
    now[0] = 1000.0
    assert look(made, grid) == {0: 10, 1: 11}


def test_workers_of_a_simulation_may_take_minutes_to_come_up():
    """Their first answer waits for their imports, not for the time clients have."""
    grid = KeyedGrid(1)
    grid.come(10, 0)
    Roster(1).discover(grid, timeout_s=0)
    (given,) = grid.timeouts
    assert given == roster_module.SIMULATED_TIMEOUT_S > roster_module.QUESTION_TIMEOUT_S


def test_the_number_of_nodes_of_a_simulation_does_end_the_run():
    grid = KeyedGrid(2, simulated=3)
    grid.come(10, 0)
    with pytest.raises(FedNegError, match="clients=2 but the federation has 3 nodes"):
        Roster(2).discover(grid, timeout_s=0)


# -- waiting ---------------------------------------------------------------------------


def test_it_goes_on_without_the_absent_and_takes_them_when_they_are_back(
    monkeypatch: pytest.MonkeyPatch,
):
    """Waits for client 2 once, not at every round; and again once it was there."""
    naps: list[float] = []
    monkeypatch.setattr(roster_module.time, "monotonic", lambda: 1000 + sum(slept))
    grid, made = KeyedGrid(3), roster_of(3, "unauthenticated")
    slept: list[float] = []
    monkeypatch.setattr(
        roster_module.time, "sleep", lambda s: (naps.append(s), slept.append(s))
    )
    grid.come(10, 0)
    grid.come(11, 1)

    def waited() -> bool:
        naps.clear()
        made.discover(grid, minimum=2, timeout_s=1)
        return bool(naps)

    assert waited()
    assert made.node_of == {0: 10, 1: 11}
    assert not waited()
    grid.come(12, 2)
    assert not waited()
    assert made.node_of == {0: 10, 1: 11, 2: 12}
    grid.go(12)
    assert waited()
    assert not waited()


def test_below_the_minimum_it_ends_and_names_who_is_missing():
    grid, made = KeyedGrid(4), roster_of(4, "unauthenticated")
    grid.come(10, 0)
    with pytest.raises(
        FedNegError,
        match=r"waited 0 s for 2 of clients; clients 1, 2, 3 are not online$",
    ):
        made.discover(grid, minimum=2, timeout_s=0)
    grid.come(12, 9)
    with pytest.raises(FedNegError, match="not online; refused: a node calls itself"):
        made.discover(grid, minimum=2, timeout_s=0)
    grid.come(11, 1)
    made.discover(grid, minimum=2, timeout_s=0)


def test_who_is_waited_for_is_told_once_and_only_if_it_takes_a_while(
    monkeypatch: pytest.MonkeyPatch,
):
    clock = [0.0]
    monkeypatch.setattr(roster_module.time, "monotonic", lambda: clock[0])

    def sleep(seconds: float) -> None:
        clock[0] += seconds
        if clock[0] > 3:
            grid.contexts.setdefault(12, grid.contexts[10])

    monkeypatch.setattr(roster_module.time, "sleep", sleep)
    grid = KeyedGrid(2)
    heard: list[tuple[float, str]] = []
    hooks = Hooks(on_wait=lambda text: heard.append((clock[0], text)))
    made = Roster(2, "unauthenticated", hooks=hooks)
    grid.come(10, 0)
    with pytest.raises(FedNegError, match="waited 2 s for all 2 clients; client 1 is"):
        made.discover(grid, timeout_s=2)
    [(when, text)] = heard
    assert text == "waiting for clients [1], up to 2 s"
    assert 1 < when < 2
    heard.clear()
    made.discover(grid, [0], timeout_s=60)
    assert heard == []


# -- through the strategy --------------------------------------------------------------


def moving(client_id: int) -> Behaviour:
    """Return a client that moves every number by 1 + its id."""

    def train(arrays: NDArrays, server_round: int) -> Answer:
        return [a + np.float32(1 + client_id) for a in arrays], 1

    return train


def bench(
    changed: dict[int, Behaviour] | None = None,
    *overrides: str,
    clients: int = 4,
    hooks: Hooks = NO_HOOKS,
) -> Bench:
    """Return a federation of clients 0.. that move the model by 1, 2, ... ."""
    behaviours = {k: moving(k) for k in range(clients)} | (changed or {})
    config = small_config(
        f"clients={clients}",
        "forget=null",
        "strategy.wait_for_clients_s=0",
        *overrides,
    )
    roster = Roster(clients, "unauthenticated", hooks=hooks)
    made = Bench(config, INITIAL, behaviours, hooks=hooks, roster=roster)
    for context in made.grid.contexts.values():
        context.node_config["num-partitions"] = 0
    return made


def moves(made: Bench) -> list[float]:
    """Return by how much each round moved the model's first number."""
    path = [0.5, *(float(after[0]) for after in made.after)]
    return [b - a for a, b in pairwise(path)]


def test_an_absent_client_is_a_failure_of_the_round_until_it_is_back():
    """All four move it by (1+2+3+4)/4 = 2.5, without the last by (1+2+3)/3 = 2."""
    made = bench(None, "strategy.min_clients=3")
    context = made.grid.contexts.pop(FIRST_NODE_ID + 3)
    made.train(2)
    made.grid.contexts[FIRST_NODE_ID + 50] = context
    made.train(1)
    assert moves(made) == [2, 2, 2.5]
    assert made.failures() == [(1, 3, "not online"), (2, 3, "not online")]
    assert [r.clients for r in made.strategy.reports] == [3, 3, 4]
    made.grid.contexts.pop(FIRST_NODE_ID)
    made.grid.contexts.pop(FIRST_NODE_ID + 1)
    with pytest.raises(FedNegError, match="3 of clients; clients 0, 1 are not online"):
        made.train(1)


def test_the_minimum_is_at_most_who_is_left():
    """Two of four asked to be forgotten: min_clients=3 means the two that stay."""
    hooks = Hooks(excluded=lambda: {0, 1})
    made = bench(None, "strategy.min_clients=3", hooks=hooks)
    made.train(1)
    assert moves(made) == [3.5]  # (3 + 4) / 2


def test_without_a_minimum_all_must_be_there():
    made = bench()
    del made.grid.contexts[FIRST_NODE_ID + 3]
    with pytest.raises(FedNegError, match="all 4 clients; client 3 is not online"):
        made.train(1)


def test_a_refused_node_is_not_asked_to_train_nor_to_evaluate():
    made = bench(None, "strategy.min_clients=1")
    made.grid.contexts[FIRST_NODE_ID].node_config["partition-id"] = 1
    made.train(1)
    assert made.grid.asked("train") == [2, 3]
    made.strategy.evaluate_clients(made.grid, made.model, ("val",))
    assert made.grid.asked("evaluate") == [2, 3]


def test_who_is_out_is_not_waited_for_nor_asked():
    made = bench(hooks=Hooks(excluded=lambda: {3}))
    del made.grid.contexts[FIRST_NODE_ID + 3]
    made.train(2)
    made.strategy.evaluate_clients(made.grid, made.model, ("val",))
    assert made.grid.asked("train") == [0, 1, 2] * 2
    assert made.grid.asked("evaluate") == [0, 1, 2]
    assert made.failures() == []
    assert moves(made) == [2, 2]


def test_who_asks_during_a_round_is_not_counted_in_it():
    """Client 0 asks while client 2 trains: its reply was in before; (2+3+4)/3 = 3."""
    out: set[int] = set()

    def asks(arrays: NDArrays, server_round: int) -> Answer:
        out.add(0)
        return moving(2)(arrays, server_round)

    made = bench({2: asks}, hooks=Hooks(excluded=lambda: out))
    made.train(2)
    assert moves(made) == [3, 3]
    assert made.failures() == [(1, 0, "asked to be forgotten meanwhile")]
    assert made.grid.asked("train") == [0, 1, 2, 3, 1, 2, 3]
    assert not made.strategy.ledger.contributions[0].any()
    assert 0 not in made.strategy.ledger.participation[0].weights


def ledger_bytes(made: Bench) -> list[bytes]:
    """Return every bit of a ledger."""
    ledger = made.strategy.ledger
    arrays = [array.tobytes() for array in ledger.arrays().values()]
    return [*arrays, json.dumps(ledger.facts()).encode()]


@pytest.mark.parametrize("momentum", [0, 0.5])
def test_a_round_of_the_forgotten_that_is_refused_changes_no_bit(momentum: float):
    judged: list[tuple[float, float]] = []

    def accept(before: np.ndarray, after: np.ndarray) -> bool:
        judged.append((float(before[0]), float(after[0])))
        return False

    momentum_of = f"strategy.server_momentum={momentum}"
    made = bench(None, momentum_of, hooks=Hooks(accept=accept))
    made.train(1)
    made.strategy.forgotten = {1}
    model, ledger = made.model.tobytes(), ledger_bytes(made)
    kept = made.model.copy()
    after = made.strategy.run_phase(made.grid, Phase("recover", (1,), 1), made.model)
    assert judged == [(kept[0], kept[0] + 2)]
    assert made.model.tobytes() == model
    assert after.tobytes() == model
    assert ledger_bytes(made) == ledger
    assert made.failures() == [
        (1, 1, "its round failed the gate; the model before it is kept")
    ]
    assert made.strategy.reports[-1].clients == 0
    # Rounds of others are not looked at, so they stand.
    made.strategy.run_phase(made.grid, Phase("recover", (0, 2), 1), made.model)
    assert len(judged) == 1
    assert made.strategy.reports[-1].clients == 2


def test_a_round_of_the_forgotten_that_is_accepted_stands():
    made = bench()  # by default all are
    made.strategy.forgotten = {1}
    made.train(1, clients=[1])
    assert moves(made) == [2]
    assert made.failures() == []


class Malicious(RecordingGrid):
    """A grid whose client 1, once it is alone, sends the model's negative."""

    def __init__(self) -> None:
        super().__init__(real_clients, 3)

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Any:
        """Turn the arrays of the reply around."""
        asked = list(messages)
        replies: Sequence[Message] = super().send_and_receive(asked, timeout=timeout)
        if [m.metadata.message_type for m in asked] == ["train"]:
            for reply in replies:
                arrays = reply.content.array_records["arrays"]
                turned = [-5 * a for a in arrays.to_numpy_ndarrays()]
                reply.content["arrays"] = type(arrays)(turned)
        return replies


def test_a_leaving_client_that_retrains_maliciously_keeps_the_last_good_model(
    tmp_path: Path,
):
    config = small_config(
        "clients=3", "forget=1", "retrain=forgotten", "retrain_rounds=2"
    )
    run(Malicious(), config, tmp_path)
    unlearned = (tmp_path / "model_unlearned.safetensors").read_bytes()
    assert (tmp_path / "model_recovered.safetensors").read_bytes() == unlearned
    history = pd.read_csv(tmp_path / "history.csv")
    recover = history[history["phase"] == "recover"]
    assert recover["clients"].tolist() == [0, 0]
    assert recover["failures"].tolist() == [1, 1]
    run(RecordingGrid(real_clients, 3), config, tmp_path)
    assert (tmp_path / "model_recovered.safetensors").read_bytes() != unlearned
