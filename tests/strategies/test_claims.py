"""What clients claim: absurd numbers and texts, in every kind of message.

One client of three is hostile. Whatever it sends, it alone is left out, by name, with a
reason that any log, file and terminal may hold.
"""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

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

from builders.federations import Behaviour, Bench, small_config
from builders.lives import Meddling, ask, copied, go_on, receipt_of
from fedneg.__main__ import main
from fedneg.core.checks import number
from fedneg.core.errors import FedNegError
from fedneg.core.texts import MAX_REASON, MAX_TEXT
from fedneg.engines.inline import FIRST_NODE_ID
from fedneg.evaluation.evidence import ServerTest
from fedneg.records.state import State
from fedneg.strategies.claims import MAX_LOSS, believed
from fedneg.tasks.training import Metrics

INITIAL = [np.zeros((2, 3), np.float32), np.ones(2, np.float32)]
MISSING = object()
ABSURD = (
    *(math.nan, math.inf, -math.inf, 1e308, -5.0, 2.5),
    *(10**18, 10**400, [0.5], MISSING),
)
# Beside these, a name that says no more than what it is.
TEXTS = {
    "escape codes": "\x1b[2J\x1b]0;gone\x07 all is well\r\n\tfedneg: forgotten",
    "two megabytes": "x" * (2 << 20),
    "lone surrogates": "d\udce9part \ud800",
    "other direction": "\u202etxt.exe \u2028 \x85",
    "markup": "[/red] <script>alert(1)</script> [link=file:///]",
    "nothing": "",
}


def fit_to_be_shown(reason: str) -> bool:
    """Return whether a text is short, in one line, printable, and UTF-8."""
    return len(reason) <= MAX_TEXT and reason.isprintable() and bool(reason.encode())


def changed(record: Any, name: str, value: Any) -> None:
    """Set or remove one entry of a record."""
    if value is MISSING:
        del record[name]
    else:
        record[name] = value


class Hostile:
    """A federation of three made-up clients; client 1 changes what it answers.

    `meddle` gets its reply's content and may change it; or returns an error's reason.
    """

    def __init__(self) -> None:
        self.meddle: Callable[[RecordDict], str | None] = lambda content: None
        behaviours: dict[int, Behaviour] = {
            k: lambda arrays, number: (arrays, 5.0) for k in range(3)
        }
        config = small_config("clients=3", "forget=null", "strategy.min_clients=1")
        self.bench = Bench(config, INITIAL, behaviours)
        self.strategy, self.grid = self.bench.strategy, self.bench.grid
        whole = self.grid.send_and_receive

        def send_and_receive(messages: Any, *, timeout: float | None = None) -> Any:
            return [self._meddled(m) for m in whole(messages, timeout=timeout)]

        self.grid.send_and_receive = send_and_receive  # type: ignore[method-assign]
        app = self.grid.client_app

        @app.evaluate()
        def evaluate(message: Message, context: Context) -> Message:
            client_id = int(str(context.node_config["partition-id"]))
            config = message.content.config_records["config"]
            made = good_answers if "role" in config else good_evaluation
            return Message(made(client_id), reply_to=message)

        self.strategy.roster.discover(self.grid)  # whoever lies later is known by now

    def _meddled(self, reply: Message) -> Message:
        if reply.metadata.src_node_id != FIRST_NODE_ID + 1:
            return reply
        reason = self.meddle(reply.content)
        if reason is not None:
            reply = Message(reply.content, reply_to=reply)
            reply.__dict__["_content"] = None
            reply.__dict__["_error"] = Error(0, reason)
            reply.metadata.__dict__["_src_node_id"] = FIRST_NODE_ID + 1
        return reply

    # Each returns who was believed, and why client 1 was not.

    def train(self) -> tuple[set[int], str]:
        """Train a round."""
        self.strategy.reports.clear()
        self.bench.model = self.strategy.ledger.initial
        self.bench.train(1)
        (report,) = self.strategy.reports
        return set(report.metrics), "".join(f.reason for f in report.failures)

    def evaluate(self) -> tuple[set[int], str]:
        """Ask for an evaluation."""
        found = self.strategy.evaluate_clients(self.grid, self.bench.model)
        return set(found), self.strategy.unanswered.get(1, "")

    def answer(self) -> tuple[set[int], str]:
        """Ask for answers."""
        found = self.strategy.question_clients(
            self.grid, self.bench.model, [0, 1, 2], relearn_target=0.5
        )
        return set(found), self.strategy.unanswered.get(1, "")

    def identify(self) -> tuple[set[int], str]:
        """Ask who is who, anew."""
        roster = self.strategy.roster
        roster._nodes, roster._last_error = {}, ""
        roster.trust = "unauthenticated"  # a simulation ends when one node is odd
        roster._look(self.grid)
        said = roster._last_error.removeprefix("; a node answered: ") or "; ".join(
            roster.refused.values()
        )
        return set(roster.node_of), said


def good_evaluation(client_id: int) -> RecordDict:
    """Return a good evaluation."""
    metrics = {"num_writers": 3.0, "trained_accuracy": 0.5, "client-id": client_id}
    for part in ("train", "val", "test"):
        metrics |= {f"{part}_accuracy": 1.0, f"{part}_loss": 0.1, f"num_{part}": 7.0}
    return RecordDict({"metrics": MetricRecord(metrics)})


def good_answers(client_id: int) -> RecordDict:
    """Return good answers."""
    metrics = {
        **{"client-id": client_id, "num-examples": 9, "accuracy": 0.5, "loss": 0.7},
        **{"check-loss": 0.6, "relearn-batches": 10, "relearn-reached": 1},
    }
    confidence = {"members": Array(np.ones(2)), "unseen": Array(np.ones(1))}
    return RecordDict(
        {"metrics": MetricRecord(metrics), "confidence": ArrayRecord(confidence)}
    )


ASKS: dict[str, tuple[str, tuple[str, ...]]] = {
    "train": ("metrics", ("client-id", "num-examples")),
    "evaluate": (
        "metrics",
        ("client-id", "num_writers", "num_val", "val_accuracy", "trained_accuracy"),
    ),
    "answer": (
        "metrics",
        ("client-id", "num-examples", "accuracy", "relearn-batches", "relearn-reached"),
    ),
    "identify": ("identity", ("client-id", "num-partitions")),
}


@pytest.mark.parametrize("kind", ASKS)
def test_an_absurd_number_leaves_its_client_out_by_name(kind: str):
    """Rates and counts: every value of the table is absurd for each of them."""
    made = Hostile()
    asks = getattr(made, kind)
    assert asks() == ({0, 1, 2}, "")
    record, names = ASKS[kind]
    for name in names:
        for value in ABSURD:
            made.meddle = lambda c, n=name, v=value: changed(c[record], n, v)
            believed_of, reason = asks()
            assert believed_of == {0, 2}, (name, value)
            # An id that is another's is said in other words.
            assert name in reason or "client" in reason, (name, value, reason)
            assert fit_to_be_shown(reason)


@pytest.mark.parametrize(
    ("kind", "name"), [("evaluate", "val_loss"), ("answer", "loss")]
)
def test_a_loss_is_finite_and_no_larger_than_any_models(kind: str, name: str):
    made = Hostile()
    asks = getattr(made, kind)
    for value in (v for v in ABSURD if v != 2.5):
        made.meddle = lambda c, v=value: changed(c["metrics"], name, v)
        believed_of, reason = asks()
        assert (believed_of, name in reason) == ({0, 2}, True), value
    for good in (0.0, 2.5, MAX_LOSS):
        made.meddle = lambda c, v=good: changed(c["metrics"], name, v)
        assert asks() == ({0, 1, 2}, "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("running_loss", v) for v in (math.nan, -1.0, 1e308, 10**400)),
        *(("val_accuracy", v) for v in (math.inf, 1.01, -0.1)),
        *(("num_val", v) for v in (2.5, -5.0, 10**18)),
        *(("steps", v) for v in (2.5, math.nan)),
    ],
)
def test_what_a_client_says_of_its_training_is_checked_too(name: str, value: float):
    """It is not asked for these everywhere; but where they come, they are used."""
    made = Hostile()
    made.meddle = lambda c: changed(c["metrics"], name, value)
    found, reason = made.train()
    assert found == {0, 2}
    assert reason.startswith(f"{name} must be a ")


def test_what_nobody_knows_by_name_is_dropped():
    made = Hostile()
    made.meddle = lambda c: c["metrics"].update({"x" * 10**6: math.nan, "more": 1e308})
    assert made.evaluate() == ({0, 1, 2}, "")
    found = made.strategy.evaluate_clients(made.grid, made.bench.model)
    assert set(found[1]) == set(found[0])
    assert made.train() == ({0, 1, 2}, "")
    assert made.strategy.reports[0].metrics[1] == {}
    assert believed({"val_loss": 1, "more": 2}, max_num_examples=9) == {"val_loss": 1.0}


@pytest.mark.parametrize("value", [1e308, -1e10, math.inf])
def test_confidences_stay_where_their_squares_can_be_summed(value: float):
    """LiRA takes variances: what overflows there is no confidence of any model."""
    made = Hostile()
    made.meddle = lambda c: c["confidence"].update({"unseen": Array(np.array([value]))})
    found, reason = made.answer()
    assert found == {0, 2}
    assert reason.startswith("unseen must hold numbers from -1e+09 to 1e+09, got ")


@pytest.mark.parametrize("kind", ASKS)
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_words_of_a_client_fit_into_a_line(kind: str, text: str):
    """An error's reason, and a text in the place of a number."""
    made = Hostile()
    made.meddle = lambda c: text
    found, reason = getattr(made, kind)()
    assert found == {0, 2}
    assert fit_to_be_shown(reason)
    if len(text) > MAX_TEXT:
        assert "x..." in reason
    if kind != "identify":
        return
    made.meddle = lambda c: changed(c["identity"], "client-id", text)
    found, reason = made.identify()
    assert found == {0, 2}
    assert "must be a number" in reason
    assert fit_to_be_shown(reason)


@pytest.mark.parametrize("kind", ASKS)
def test_records_of_another_kind_are_named(kind: str):
    """No records at all, and one whose name stands for another type."""
    made = Hostile()
    name = ASKS[kind][0]
    for content in (None, ConfigRecord({"a": "b"}), ArrayRecord([np.zeros(1)])):

        def swap(found: RecordDict, content: Any = content) -> None:
            found.clear()
            if content is not None:
                found[name] = content

        made.meddle = swap
        believed_of, reason = getattr(made, kind)()
        assert believed_of == {0, 2}
        assert reason.strip("; ") not in ("", "None")


def test_who_is_not_online_is_named_and_not_waited_for_twice():
    made = Hostile()
    made.evaluate()
    del made.grid.contexts[FIRST_NODE_ID + 1]
    made.strategy.settings.__dict__["wait_for_clients_s"] = 0.1
    assert made.evaluate() == ({0, 2}, "not online")
    made.grid.looks = 0
    assert made.evaluate() == ({0, 2}, "not online")
    assert made.grid.looks == 1


# -- a whole life ----------------------------------------------------------------------


class Lying(Meddling):
    """A grid on which some clients lie when they are asked to evaluate."""

    def __init__(
        self, liars: set[int], metrics: dict[str, float], text: str = ""
    ) -> None:
        super().__init__(3)
        self.liars, self.metrics, self.text = liars, metrics, text

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Any:
        """Answer, then lie."""
        found = []
        for reply in super().send_and_receive(messages, timeout=timeout):
            lies = reply.metadata.src_node_id - FIRST_NODE_ID in self.liars
            if lies and reply.metadata.message_type == "evaluate":
                reply.content["metrics"].update(self.metrics)
                if self.text:
                    source = reply.metadata.src_node_id
                    reply.__dict__["_content"] = None
                    reply.__dict__["_error"] = Error(0, self.text)
                    assert reply.metadata.src_node_id == source
            found.append(reply)
        return found


LIES = {
    "nan": ({"val_accuracy": math.nan}, "val_accuracy must be a fraction"),
    "inf": ({"num_val": math.inf}, "num_val must be a whole number"),
    "1e308": ({"num_val": 1e308}, "num_val must be a whole number"),
    "-5": (
        {"val_accuracy": -5.0},
        "val_accuracy must be a fraction from 0 to 1",
    ),
}


@pytest.mark.parametrize(("lie", "reason"), LIES.values(), ids=LIES)
def test_no_lie_of_who_stays_blocks_an_erasure(
    trained: Path, lie: dict[str, float], reason: str
):
    ask(trained, 2)
    go_on(trained, grid=Lying({0}, lie))
    after = receipt_of(trained, 2)["measured"]["after"]
    said = after["validation_of_remaining_clients"]
    assert said["clients"] == 1
    assert 0 <= said["accuracy"] <= 1
    assert list(said["left_out"]) == ["0"]
    assert said["left_out"]["0"].startswith(reason)
    assert State(trained).requests.open() == []
    assert go_on(trained).sent == []  # nothing is left to do


def test_if_all_lie_the_receipt_says_so(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """With words that would steer a terminal: nowhere does one arrive."""
    ask(trained, 1)
    go_on(trained, grid=Lying({0, 2}, {}, "\x1b[2J[/red] gone\ud800\n" * 9000))
    said = receipt_of(trained, 1)["measured"]["after"][
        "validation_of_remaining_clients"
    ]
    assert (said["clients"], said["examples"], said["accuracy"]) == (0, 0, None)
    assert set(said["left_out"]) == {"0", "2"}
    assert all(map(fit_to_be_shown, said["left_out"].values()))
    assert State(trained).requests.open() == []
    shown = capsys.readouterr()
    state = f"--state={trained}"
    receipt = str(trained / "receipts" / "forget-1.json")
    key = f"--key={trained}-keys/operator.pub"
    for words in (["status", state], ["requests", state], ["verify", receipt, key]):
        monkeypatch.setattr(sys, "argv", ["fedneg", *words])
        main()
        shown += capsys.readouterr()
    assert "no answer when asked to evaluate the model after forgetting 1" in shown[1]
    for text in (*shown, *(p.read_text() for p in trained.rglob("*.json*"))):
        assert "\x1b" not in text
        assert "\ud800" not in text
    status = json.loads((trained / "status.json").read_text())
    assert set(status["unanswered"]) == {"0", "2"}


def test_a_model_without_a_loss_can_be_signed(
    trained: Path, monkeypatch: pytest.MonkeyPatch
):
    """Parameters may be finite and the loss not: null in status and receipt."""
    monkeypatch.setattr(
        ServerTest,
        "measure",
        lambda *_: Metrics(accuracy=0.5, loss=math.nan, num_examples=9),
    )
    ask(trained, 1)
    go_on(trained)
    assert receipt_of(trained, 1)["measured"]["after"]["test_loss"] is None
    text = (trained / "status.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["loss"] is None


# -- what an operator types ------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "part"),
    [
        ("d\udce9part", "must be UTF-8, got d\\udce9part"),
        ("\x1b[31mred", "without control characters, got one: \\x1b at place 0"),
        ("two\nlines", "got one: \\n at place 3"),
        ("a\u202eb", "got one: \\u202e"),
        ("x" * (MAX_REASON + 1), "must have at most 500 characters, got 501"),
    ],
    ids=["no UTF-8", "escape code", "two lines", "direction", "too long"],
)
def test_a_reason_is_checked_before_anything_is_accepted(
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    reason: str,
    part: str,
):
    words = ["request", "forget", "2", f"--state={trained}", "--reason", reason]
    monkeypatch.setattr(sys, "argv", ["fedneg", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    (line,) = capsys.readouterr().err.splitlines()
    assert (stop.value.code, part in line) == (2, True), line
    assert State(trained).requests.all() == []


def test_a_reason_in_any_writing_is_on_the_receipt(
    trained: Path, monkeypatch: pytest.MonkeyPatch
):
    reason = "« parti », ушёл, 出た, \u0646\u0645\u06cc\u200c\u062e, [/red] 👩\u200d🔬"
    words = ["request", "forget", "2", f"--state={trained}", "--reason", reason]
    monkeypatch.setattr(sys, "argv", ["fedneg", *words])
    main()
    go_on(trained)
    assert receipt_of(trained, 2)["asked"]["reason"] == reason
    monkeypatch.setattr(sys, "argv", ["fedneg", "requests", f"--state={trained}"])
    main()


def test_a_number_longer_than_any_float_is_refused_by_name():
    with pytest.raises(
        FedNegError, match="rate must be a number, got one of 1329 bits"
    ):
        number("rate", 10**400)


@pytest.mark.parametrize(
    ("words", "variables", "part"),
    [
        (["status", "--state", "/tmp/st\udce9"], {}, "the command line must be UTF-8"),
        (["data=digits", "state=st\udce9"], {}, "a word of the command line must be"),
        (["check-data", "d\udce9"], {}, "must be UTF-8, got d\\udce9"),
        (["cache", "list"], {"FEDNEG_CACHE": "/c\udce9"}, "FEDNEG_CACHE must be UTF-8"),
        (
            ["data=mnist", "cache=false"],
            {"FEDNEG_DATA": "/d\udce9"},
            "FEDNEG_DATA must be UTF-8, got /d\\udce9",
        ),
    ],
    ids=["state", "override", "data", "cache", "data root"],
)
def test_names_that_are_no_utf8_are_refused_where_they_enter(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    words: list[str],
    variables: dict[str, str],
    part: str,
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fedneg", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    (line,) = capsys.readouterr().err.splitlines()
    assert (stop.value.code, part in line) == (2, True), line


def test_a_state_folder_may_have_markup_in_its_name(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    odd = tmp_path / "[red]x[" / "s]"
    odd.parent.mkdir()
    copied(trained, odd)
    ask(odd, 1)
    for command in ("status", "requests"):
        monkeypatch.setattr(sys, "argv", ["fedneg", command, f"--state={odd}"])
        main()
        # Long titles are wrapped.
        assert "[red]x[/s]" in "".join(capsys.readouterr().out.split())
