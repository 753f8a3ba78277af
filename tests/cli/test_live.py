"""What an operator types: request, requests, status, roster, rollback."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from builders.federations import SMALL
from builders.lives import copied, live_on
from builders.programs import command
from fedneg.cli.application import run as run_words
from fedneg.core.errors import FedNegError
from fedneg.core.locks import locked
from fedneg.ledger.checkpoint_files import head_bytes
from fedneg.records.audit import check
from fedneg.records.pins import OPERATOR, key_digest_of
from fedneg.records.requests import DONE, UNLEARNED, logged
from fedneg.records.state import State

Say = Callable[..., str]
# A name in which everything means something to a shell, or to Hydra.
ODD_NAME = "état a, b=(c) [d]'e"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a federation of three, trained for three rounds."""
    folder = tmp_path_factory.mktemp("made") / "state"
    live_on(folder, *SMALL, "clients=3", "rounds=3", "retrain_rounds=1")
    return folder


@pytest.fixture
def state(made: Path, tmp_path: Path) -> State:
    """Return a copy of it, keys included."""
    return State(copied(made, tmp_path / "state"))


@pytest.fixture
def say(state: State, capsys: pytest.CaptureFixture[str]) -> Say:
    """Return a function that says a command to the federation, and what it prints."""

    def said(*words: object, folder: Path = state.folder) -> str:
        capsys.readouterr()
        run_words([*map(str, words), "--state", str(folder)])
        return capsys.readouterr().out

    return said


def events(state: State) -> list[tuple[str, Any]]:
    """Return the events of an audit log that is whole."""
    path = state.folder / "audit.jsonl"
    assert check(path, state.operator.public).broken is None
    lines = path.read_text().splitlines()
    return [(e["event"], e["facts"]) for e in map(json.loads, lines)]


# -- bad words -------------------------------------------------------------------------

BAD: list[tuple[Sequence[str], str]] = [
    (["request"], "fedneg request: must be followed by forget"),
    (["request", "remember", "1"], "must be followed by forget, got 'remember'"),
    (["request", "forget"], "fedneg request forget: CLIENT is required"),
    (["request", "forget", "one"], "CLIENT must be a whole number, got 'one'"),
    (["request", "forget", "1.5"], "CLIENT must be a whole number"),
    (["request", "forget", "3"], "there is no client 3; client ids are 0 to 2"),
    (["request", "forget", "-1"], "there is no client -1; client ids are 0 to 2"),
    (["request", "forget", "1", "--due", "soon"], "must be a number of days"),
    (
        ["request", "forget", "1", "--due", "-1"],
        "--due must be a number of days, got '-1'",
    ),
    (["request", "forget", "1", "--due", "nan"], "must be a number of days"),
    (["request", "forget", "1", "--due", "1e9"], "no calendar has a day in 1e.09"),
    (["request", "forget", "1", "--due", "9999999d"], "no calendar has a day"),
    (["request", "forget", "1", "--now", "superlink"], "has no SUPERLINK"),
    (["requests", "all"], r"unexpected extra argument \(all\)"),
    (["status", "--jason"], "unknown option --jason; did you mean --json"),
    (["roster"], "fedneg roster: must be followed by list, add or remove"),
    (["roster", "add", "1"], "fedneg roster add: KEY is required"),
    (["roster", "add", "-1", "x.pub"], "client ids begin at 0, got -1"),
    (["roster", "add", "3", "x.pub"], "there is no client 3; client ids are 0 to 2"),
    (["roster", "add", "1", "no.pub"], "no.pub cannot be read: No such file"),
    (["roster", "add", "1", "/"], "/ cannot be read: Is a directory"),
    (["roster", "add", "1", __file__], r"test_live\.py is no public key: "),
    (["roster", "remove", "x"], "CLIENT must be a whole number, got 'x'"),
    (["rollback"], "fedneg rollback: ROUND is required"),
    (["rollback", "last"], "ROUND must be a whole number, got 'last'"),
    (["rollback", "1"], "there is no checkpoint of round 1; there is: 2, 3"),
    (["rollback", "-3"], "there is no checkpoint of round -3; there is: 2, 3"),
    (["rollback", "4"], "there is no checkpoint of round 4; there is: 2, 3"),
]


@pytest.mark.parametrize(
    ("words", "message"), BAD, ids=[" ".join(words)[-40:] for words, _ in BAD]
)
def test_bad_words_are_refused_in_one_line_and_change_nothing(
    say: Say, state: State, words: Sequence[str], message: str
):
    before = events(state)
    with pytest.raises(FedNegError, match=message) as caught:
        say(*words)
    assert "\n" not in str(caught.value)
    assert state.requests.all() == []
    assert not state.roster.exists()
    assert events(state) == before
    assert state.checkpoints(every=1, encrypt=False).rounds() == [2, 3]


@pytest.mark.parametrize("words", [["request", "forget", "1"], ["status"]])
def test_the_state_must_be_said(words: list[str]):
    with pytest.raises(FedNegError, match="--state is required"):
        run_words(words)


@pytest.mark.parametrize(
    "words",
    [["request", "forget", "1"], ["requests"], ["status"], ["rollback", "1"]],
    ids=" ".join,
)
def test_an_unknown_folder_is_named_and_not_made(
    say: Say, tmp_path: Path, words: list[str]
):
    folder = tmp_path / "nowhere"
    message = f"there is no federation in {folder}; a run with state=DIR makes one"
    with pytest.raises(FedNegError, match=message):
        say(*words, folder=folder)
    assert not folder.exists()
    assert not (tmp_path / "nowhere-keys").exists()


def test_a_process_ends_with_code_2_and_one_line(state: State, tmp_path: Path):
    for words in (["rollback", "9", "--state", str(state.folder)], ["status"]):
        found = command(*words, cwd=tmp_path)
        assert (found.returncode, found.stdout) == (2, "")
        assert found.stderr.startswith("fedneg: error: ")
        assert found.stderr.count("\n") == 1


# -- what is damaged -------------------------------------------------------------------

FEDERATION = {
    "schema": 1,
    "id": "x",
    "created": "y",
    "fixed": {"clients": 3},
    "overrides": [],
    "deployed": False,
    "encrypt": False,
}


def facts(**changes: Any) -> str:
    """Return a federation.json with changes."""
    return json.dumps({**FEDERATION, **changes})


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "7", "null", "{}", facts(schema=3), facts(more=1)]
    + [facts(fixed=fixed) for fixed in ({}, [], None, {"clients": "3"})],
)
@pytest.mark.parametrize(
    "words",
    [["request", "forget", "1"], ["requests"], ["status"], ["rollback", "2"]],
    ids=" ".join,
)
def test_a_damaged_federation_is_named(
    say: Say, state: State, words: list[str], text: str
):
    path = state.folder / "federation.json"
    path.write_text(text)
    with pytest.raises(FedNegError, match=f"{path} cannot be read: "):
        say(*words)
    assert state.requests.all() == []


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", '"x"'])
@pytest.mark.parametrize("more", [[], ["--json"]], ids=["text", "json"])
def test_a_damaged_status_is_named(say: Say, state: State, more: list[str], text: str):
    path = state.folder / "status.json"
    path.write_text(text)
    with pytest.raises(FedNegError, match=f"{path} cannot be read: "):
        say("status", *more)


@pytest.mark.parametrize(
    "text", ['{"accuracy": "good"}', '{"failed": []}', '{"online": 3}']
)
def test_a_status_of_odd_values_is_named(say: Say, state: State, text: str):
    (state.folder / "status.json").write_text(text)
    with pytest.raises(FedNegError, match=r"status\.json in .* is odd: "):
        say("status")


# -- request ---------------------------------------------------------------------------


def test_a_request_is_accepted_once_and_says_so(say: Say, state: State):
    said = say("request", "forget", 1, "--reason", "moved", "--due", "10d")
    [request] = state.requests.all()
    assert said == (
        f"forget-1 is accepted and due on {request.due}: client 1 is out from now on, "
        "and the next run forgets it\n"
    )
    assert request.reason == "moved"
    before = state.requests.folder / "forget-1.json"
    content = before.read_bytes()
    again = f"forget-1 was accepted on {request.received[:10]}: accepted\n"
    assert say("request", "forget", 1, "--reason", "again", "--due", 1) == again
    state.requests.mark([1], UNLEARNED)
    assert say("request", "forget", 1) == again.replace(": accepted", ": unlearned")
    state.requests.mark([1], DONE)
    assert say("request", "forget", 1) == ("forget-1 is done: receipts/forget-1.json\n")
    assert json.loads(content)["due"] == json.loads(before.read_bytes())["due"]
    accepted = [found for event, found in events(state) if event == "accepted"]
    assert accepted == [logged(request)]
    assert "moved" not in str(accepted)  # the log is no place for names


def test_a_request_counts_while_a_run_goes_on(say: Say, state: State):
    with state.running():
        say("request", "forget", 1)
    assert state.requests.excluded() == {1}


def test_of_who_took_part_in_no_round_it_is_said(say: Say, state: State):
    """Here by a checkpoint that client 1 is not in."""
    assert "no round" not in say("request", "forget", 0)
    for head in (state.folder / "checkpoints").glob("*.json"):
        content = json.loads(head.read_bytes())
        del content["digest"]
        content["facts"]["contains"] = [0, 2]
        head.write_bytes(head_bytes(content))
    said = "client 1 took part in no round so far: is that the right id?"
    assert said in say("request", "forget", 1)
    assert said in say("request", "forget", 1)
    found = json.loads(say("requests", "--json"))
    assert [r["took_part"] for r in found] == [True, False]


def test_the_last_client_is_refused(say: Say):
    say("request", "forget", 0)
    say("request", "forget", 2)
    with pytest.raises(FedNegError, match="client 1 is the last of 3"):
        say("request", "forget", 1)


def test_requests_are_shown_to_people_and_machines(
    say: Say, state: State, monkeypatch: pytest.MonkeyPatch
):
    """What an operator typed is text, also where it looks like markup."""
    monkeypatch.setenv("COLUMNS", "200")
    assert say("requests") == "nobody has asked to be forgotten\n"
    assert json.loads(say("requests", "--json")) == []
    say("request", "forget", 2, "--reason", "[bold]moved[/bold] to [/x]", "--due", 0)
    say("request", "forget", 0)
    path = state.requests.folder / "forget-2.json"
    content = json.loads(path.read_bytes()) | {"due": "2020-02-29"}
    path.write_text(json.dumps(content))
    first, second = json.loads(say("requests", "--json"))
    assert (first["id"], first["client"], first["status"]) == (
        "forget-2",
        2,
        "accepted",
    )
    assert first["days_left"] < 0 < second["days_left"] <= 30
    assert first["reason"] == "[bold]moved[/bold] to [/x]"
    text = say("requests")
    assert f"2020-02-29 (overdue by {-first['days_left']} days)" in text
    assert f"{second['due']} (in {second['days_left']} days)" in text
    assert text.index("forget-2") < text.index("forget-0")
    assert "[bold]moved[/bold] to [/x]" in text
    state.requests.mark([2], DONE)
    assert "overdue" not in say("requests")


# -- status ----------------------------------------------------------------------------


def test_status_says_where_the_federation_stands(
    say: Say, state: State, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "200")
    say("request", "forget", 1)
    found = json.loads(say("status", "--json"))
    assert (found["server_round"], found["trained"], found["rounds"]) == (3, 3, 3)
    assert (found["running"], found["deployed"]) == (False, False)
    assert (found["excluded"], found["online"]) == ([1], [0, 1, 2])
    assert [r["id"] for r in found["open_requests"]] == ["forget-1"]
    assert found["disk_bytes"] > state.model.stat().st_size
    text = say("status")
    for part in (
        "no run at the moment",
        "3 (train)",
        "3 of 3 rounds",
        "3, simulated",
        f"{found['accuracy']:.4f}",
        f"forget-1: accepted, due in {found['open_requests'][0]['days_left']} days",
    ):
        assert part in text
    with state.running():
        assert json.loads(say("status", "--json"))["running"]
        assert "no run at the moment" not in say("status")
    status = state.read_status()
    more = {"failed": {"2": "no [/reply]"}, "refused": {"0": "another key"}}
    state.write_status({**status, **more, "error": "disk full"})
    text = say("status")
    for part in ("client 2: no [/reply]", "client 0: another key", "disk full"):
        assert part in text


def test_status_before_the_first_round_is_no_error(say: Say, state: State):
    (state.folder / "status.json").unlink()
    assert "0 (none)" in say("status")
    assert json.loads(say("status", "--json"))["running"] is False


# -- roster ----------------------------------------------------------------------------


def key_file(folder: Path, name: str, form: str = "ssh") -> Path:
    """Return a file with a new public key."""
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    how = (Encoding.OpenSSH, PublicFormat.OpenSSH)
    if form == "pem":
        how = (Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / name).write_bytes(key.public_bytes(*how))
    return folder / name


def test_the_roster_lists_adds_and_removes_keys(say: Say, state: State, tmp_path: Path):
    one, two = key_file(tmp_path, "1.pub"), key_file(tmp_path, "2.pem", "pem")
    prints = [key_digest_of(path.read_bytes()) for path in (one, two)]
    assert say("roster", "list").startswith("no keys: ")
    assert say("roster", "add", 2, two) == f"client 2 is key {prints[1]}\n"
    say("roster", "add", 1, one)
    lines = say("roster", "list").splitlines()
    assert [line.split(" (")[0] for line in lines] == [
        f"client 1: {prints[0]}",
        f"client 2: {prints[1]}",
    ]
    assert all(f"({OPERATOR}, " in line for line in lines)
    with pytest.raises(FedNegError, match="to client 1, and cannot be client 0's too"):
        say("roster", "add", 0, one)
    assert say("roster", "remove", 1) == "client 1 has no key\n"
    say("roster", "add", 0, one)
    assert {k: pin.key for k, pin in state.pins().all().items()} == {
        0: prints[0],
        2: prints[1],
    }
    said = [(event, found["client"]) for event, found in events(state)[-4:]]
    assert said == [
        ("key listed", 2),
        ("key listed", 1),
        ("key removed", 1),
        ("key listed", 0),
    ]


def test_keys_can_be_listed_before_the_first_run(say: Say, tmp_path: Path):
    """With trust=listed nobody could take part in it otherwise."""
    folder = tmp_path / "new"
    say("roster", "add", 7, key_file(tmp_path, "7.pub"), folder=folder)
    assert list(State(folder).pins().all()) == [7]
    assert State(folder).facts() is None


def test_a_damaged_roster_is_named(say: Say, state: State, tmp_path: Path):
    state.roster.write_text('{"0": 3}')
    for words in (["list"], ["remove", "0"], ["add", "1", key_file(tmp_path, "k")]):
        with pytest.raises(FedNegError, match=f"{state.roster} is no roster of keys"):
            say("roster", *words)
    assert state.roster.read_text() == '{"0": 3}'


# -- rollback --------------------------------------------------------------------------


def test_rollback_goes_back_one_checkpoint_and_the_run_goes_on_from_there(
    say: Say, state: State
):
    """Round 3 is trained again, to the same bytes."""
    model = state.model.read_bytes()
    assert say("rollback", 2) == "the next run goes on after round 2\n"
    assert state.checkpoints(every=1, encrypt=False).rounds() == [2]
    assert events(state)[-1] == ("rollback", {"round": 2})
    assert live_on(state.folder).asked("train") == [0, 1, 2]
    assert state.model.read_bytes() == model


def test_rollback_to_the_last_round_removes_nothing(say: Say, state: State):
    say("rollback", 3)
    assert state.checkpoints(every=1, encrypt=False).rounds() == [2, 3]
    assert live_on(state.folder).asked("train") == []


@pytest.mark.parametrize("status", [UNLEARNED, DONE])
def test_rollback_refuses_a_model_that_contains_who_was_forgotten(
    say: Say, state: State, status: str
):
    state.requests.accept(1, clients=3, due_days=1)
    state.requests.mark([1], status)
    message = r"of round 2 .*contains client 1, which was forgotten \(forget-1\)"
    with pytest.raises(FedNegError, match=message):
        say("rollback", 2)
    assert state.checkpoints(every=1, encrypt=False).rounds() == [2, 3]
    assert "rollback" not in [event for event, _ in events(state)]


def test_rollback_may_go_back_while_a_request_waits(say: Say, state: State):
    """It is not out of the model yet: the next run forgets it, and before training."""
    say("request", "forget", 1)
    say("rollback", 2)
    assert live_on(state.folder).asked("train") == [0, 2, 0, 2]  # recovery, and round 3
    assert state.requests.open() == []


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_rollback_to_a_damaged_checkpoint_is_refused(
    say: Say, state: State, suffix: str
):
    path = state.folder / "checkpoints" / f"round-000002{suffix}"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(FedNegError, match="round-000002 is damaged"):
        say("rollback", 2)
    assert state.checkpoints(every=1, encrypt=False).rounds() == [2, 3]


def test_nobody_rolls_back_under_a_run(say: Say, state: State):
    with (
        locked(state.folder / "lock", "it"),
        pytest.raises(FedNegError, match="somebody else is using the federation"),
    ):
        say("rollback", 2)
    assert state.checkpoints(every=1, encrypt=False).rounds() == [2, 3]


# -- at once ---------------------------------------------------------------------------


@pytest.mark.slow
def test_now_carries_it_out_in_a_folder_of_any_name(state: State, tmp_path: Path):
    folder = tmp_path / ODD_NAME
    state.folder.rename(folder)
    state.keys.rename(tmp_path / "my, keys")
    where = ["--state", str(folder), "--keys", str(tmp_path / "my, keys")]
    found = command("request", "forget", "1", "--now", *where, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    moved = State(folder, tmp_path / "my, keys")
    assert [(r.client_id, r.status) for r in moved.requests.all()] == [(1, DONE)]
    assert (moved.receipts / "forget-1.json").exists()
    assert not Path(f"{folder}-keys").exists()
    rounds = [event for event, _ in events(moved)]
    assert rounds.index("accepted") < rounds.index("unlearned")
    assert rounds.index("unlearned") < rounds.index("receipt")


@pytest.mark.slow
def test_now_that_fails_says_so_and_the_request_stays(state: State, tmp_path: Path):
    """Another run has the federation; what that run does with it is its own affair."""
    where = ["--state", str(state.folder)]
    with state.running():
        found = command("request", "forget", "1", "--now", *where, cwd=tmp_path)
    assert found.returncode == 2
    assert "somebody else is using the federation" in found.stderr
    assert "forget-1 is still open: see what the run said above" in found.stderr
    assert state.requests.excluded() == {1}


@pytest.mark.parametrize("deployed", [True, False])
def test_now_needs_a_superlink_for_real_clients_and_only_for_them(
    say: Say, state: State, deployed: bool
):
    path = state.folder / "federation.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"deployed": deployed}))
    message, words = "has no SUPERLINK", ["--now", "local"]
    if deployed:
        message, words = "has real clients: --now SUPERLINK", ["--now"]
    with pytest.raises(FedNegError, match=message):
        say("request", "forget", 1, *words)
    assert state.requests.all() == []
