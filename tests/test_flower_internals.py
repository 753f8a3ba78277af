"""Flower's internals are as fedneg uses them; a release that changes one fails here."""

import ast
import importlib
import inspect
import logging
from collections.abc import Iterator

import click
import numpy as np
import pytest
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from builders.checkout import REPOSITORY
from fedneg import flower_internals as internals
from fedneg.engines.deployed.flwr_command import REGISTERED_ALREADY

# What Flower documents (its API reference), as far as fedneg uses it.
PUBLIC = {
    *("flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.serverapp.strategy"),
    *("flwr.simulation", "flwr.client", "flwr.common"),
}


@pytest.fixture
def message() -> Message:
    """Return what a server sends: arrays of two types, numbers and words."""
    internals.be_somebody(task_id=1, run_id=7, node_id=1)
    content = RecordDict(
        {
            "z": ArrayRecord(
                {
                    "w": Array(np.arange(6, dtype=np.float32).reshape(2, 3)),
                    "a": Array(np.array([5], np.int64)),
                }
            ),
            "b": ConfigRecord({"word": "ä", "flag": True, "rates": [0.5, 1.5]}),
            "a": MetricRecord({"loss": 0.25, "count": 3}),
        }
    )
    made = Message(content, 1003, "train.role", ttl=60.0, group_id="5")
    internals.stamp(made, message_id="abc", run_id=8, src_node_id=2)
    return made


def test_only_one_file_imports_what_flower_does_not_document():
    for folder in ("fedneg", "strategies", "clients"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            if path.name == "flower_internals.py":
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                names = [getattr(node, "module", None) or ""]
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                for name in names:
                    assert name.split(".")[0] != "flwr" or name in PUBLIC, (path, name)


def test_what_is_taken_for_public_is_exported():
    """By `__all__`, where the module has one that says so."""
    for folder in ("fedneg", "strategies", "clients"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and node.module in PUBLIC:
                    exported = importlib.import_module(node.module).__all__
                    assert {a.name for a in node.names} <= {*exported, "log"}, path


def test_a_message_can_be_made_and_stamped(message: Message):
    meta = message.metadata
    assert (meta.message_id, meta.run_id, meta.src_node_id) == ("abc", 8, 2)
    assert (meta.dst_node_id, meta.message_type) == (1003, "train.role")
    assert (meta.group_id, meta.ttl) == ("5", 60.0)
    reply = Message(RecordDict(), reply_to=message)
    assert reply.metadata.reply_to_message_id == "abc"
    assert (reply.metadata.src_node_id, reply.metadata.dst_node_id) == (1003, 2)
    assert reply.metadata.run_id == 8


def test_the_stamped_fields_have_no_setter(message: Message):
    """Once they have, `stamp` should use it."""
    for name in ("message_id", "run_id", "src_node_id"):
        with pytest.raises(AttributeError):
            setattr(message.metadata, name, "x")


def test_nobody_makes_a_message_without_an_identity():
    """Else `be_somebody` is of no use any more."""
    identity = internals.TaskIdentity
    before = identity.task_id, identity.run_id, identity.node_id
    try:
        internals.be_somebody(task_id=3, run_id=4, node_id=5)
        assert (identity.task_id, identity.run_id, identity.node_id) == (3, 4, 5)
        made = Message(RecordDict(), 9, "query")
        assert (made.metadata.run_id, made.metadata.src_node_id) == (4, 5)
    finally:
        identity.task_id, identity.run_id, identity.node_id = before


def test_a_message_comes_back_from_its_bytes(message: Message):
    found = internals.message_from_bytes(internals.message_to_bytes(message))
    assert vars(found.metadata) == vars(message.metadata)
    assert found.content == message.content
    error = Message(Error(code=3, reason="why"), reply_to=message)
    found = internals.message_from_bytes(internals.message_to_bytes(error))
    assert not found.has_content()
    assert (found.error.code, found.error.reason) == (3, "why")


def test_a_message_comes_back_from_its_metadata_and_another_content(message: Message):
    other = RecordDict({"m": MetricRecord({"loss": 1.0})})
    for found in (
        internals.message_of(internals.metadata_to_bytes(message), other),
        internals.message_with(message, other),
    ):
        assert vars(found.metadata) == vars(message.metadata)
        assert found.content == other
    assert "z" in message.content


def test_records_come_back_in_their_order(message: Message):
    """The data of arrays travels beside them, and is put back one after the other."""
    content = message.content
    found = internals.record_from_bytes(internals.record_to_bytes(content))
    assert list(found) == list(content) == ["z", "b", "a"]
    assert list(found["z"]) == ["w", "a"]
    for name, array in content["z"].items():
        again = found["z"][name]
        assert (again.dtype, again.shape) == (array.dtype, array.shape)
        assert (again.stype, again.data) == (array.stype, array.data)


def test_an_array_may_travel_without_its_data():
    record = RecordDict({"x": ArrayRecord({"w": Array("float32", (2, 3), "npy", b"")})})
    found = internals.record_from_bytes(internals.record_to_bytes(record))["x"]["w"]
    assert (found.dtype, tuple(found.shape), found.data) == ("float32", (2, 3), b"")
    found.data = b"put back"
    assert found.data == b"put back"


def test_a_context_comes_back_with_what_it_keeps():
    state = RecordDict({"kept": ConfigRecord({"round": 3})})
    made = Context(7, 1003, {"partition-id": 3}, state, {"forget": "1"})
    found = internals.context_from_bytes(internals.context_to_bytes(made))
    assert (found.run_id, found.node_id, found.state) == (7, 1003, state)
    assert found.node_config == {"partition-id": 3}
    assert found.run_config == {"forget": "1"}


def test_a_deployed_grid_is_known_by_its_name():
    from flwr.superlink import grid as grids

    known = {
        name
        for name, value in inspect.getmembers(grids, inspect.isclass)
        if issubclass(value, Grid) and value is not Grid
    }
    assert known & set(internals.DEPLOYED_GRIDS)
    assert known <= {*internals.DEPLOYED_GRIDS, "InMemoryGrid"}, "a new kind of Grid"
    for name in known:
        made = object.__new__(getattr(grids, name))
        assert internals.is_deployed(made) == (name != "InMemoryGrid")


def test_nodes_have_a_number_and_a_public_key():
    from flwr.proto.node_pb2 import NodeInfo

    class Two:
        def get_nodes(self) -> list[NodeInfo]:
            return [NodeInfo(node_id=2**63, public_key=b"key"), NodeInfo(node_id=1)]

    assert inspect.isfunction(Grid.get_nodes)
    assert internals.nodes_with_keys(Two()) == {2**63: b"key", 1: b""}


def test_the_code_of_an_apps_own_error_is_flowers():
    """It is in checkpoints and logs of no-one, but clients of both kinds meet it."""
    from flwr.common.constant import ErrorCode

    assert internals.CLIENT_APP_RAISED == ErrorCode.CLIENT_APP_RAISED_EXCEPTION == 2
    assert Error(internals.CLIENT_APP_RAISED, "why").reason == "why"


def test_a_key_that_is_registered_already_is_refused_in_these_words():
    from flwr.common.constant import PUBLIC_KEY_ALREADY_IN_USE_MESSAGE

    assert REGISTERED_ALREADY in PUBLIC_KEY_ALREADY_IN_USE_MESSAGE


def test_what_an_owner_does_before_and_after_can_be_had():
    app, said = ClientApp(), list[str]()
    context = Context(7, 1003, {}, RecordDict(), {})
    with internals.lifespan_of(app, context):
        pass

    @app.lifespan()
    def around(context: Context) -> Iterator[None]:
        said.append("before")
        yield
        said.append("after")

    with internals.lifespan_of(app, context):
        assert said == ["before"]
    assert said == ["before", "after"]


def test_flowers_lines_come_from_one_logger():
    """Whose level is set, and which the run's log file hears."""
    from flwr.common import log

    assert inspect.ismethod(log)
    assert log.__self__ is logging.getLogger("flwr")


def test_a_node_config_is_read_as_the_supernode_reads_it():
    """Numbers, texts in quotes, true and false; what is no key=value is passed over."""
    text = """client-id=3 data="/srv/a b.npz" rate=0.5 own=true and"""
    assert internals.node_config_of(text) == {
        "client-id": 3,
        "data": "/srv/a b.npz",
        "rate": 0.5,
        "own": True,
    }
    assert internals.node_config_of("") == {}
    with pytest.raises(click.ClickException, match="invalid format"):
        internals.node_config_of("data=/srv/mine")
    supernode = importlib.import_module("flwr.supernode.cli.flower_supernode")
    assert supernode.parse_config_args is internals.parse_config_args
