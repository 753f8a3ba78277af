"""A purge: what goes in it, and what a kill or a full disk in the middle leaves."""

import json
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from builders.full_disk import Full, watched
from builders.lives import ask, copied, files_with, go_on, receipt_of
from fedneg.core.errors import FedNegError
from fedneg.ledger.checkpoint import Checkpoints
from fedneg.ledger.checkpoint_files import head_bytes
from fedneg.ledger.checkpoint_forms import OtherCheckpointError
from fedneg.ledger.ledger import Ledger
from fedneg.records.account import RESUMED
from fedneg.records.sealed import Sealed
from fedneg.records.state import State
from fedneg.records.vault import Vault
from processes.killing import Executioner

FOUR = ("clients=4", "rounds=3", "strategy.gate=0")


def kept_in(state: Path) -> dict[str, np.ndarray]:
    """Return the arrays of the only checkpoint."""
    (path,) = (state / "checkpoints").glob("*.safetensors")
    return load_file(path)


def places_in(state: Path) -> set[str]:
    """Return whose last local models the only checkpoint holds."""
    (path,) = (state / "checkpoints").glob("*.json")
    return set(json.loads(path.read_text())["ledger"]["local"])


# -- what was trained from a model that contained the forgotten ------------------------


@pytest.mark.parametrize(
    "options",
    [
        ("strategy.form=parameters",),
        ("strategy.keep_local_models=true",),
        ("strategy=gradient_ascent",),
        ("strategy.form=parameters", "encrypt=true"),
    ],
    ids=["parameters", "kept", "ascent", "sealed"],
)
def test_the_others_local_models_go_with_whom_they_contained(
    tmp_path: Path, options: tuple[str, ...]
):
    """Without repair nobody makes them anew before the purge: it is completed."""
    state = tmp_path / "state"
    go_on(state, *FOUR, *options, "retrain=none")
    sealed = "encrypt=true" in options
    old = None if sealed else load_file(state / "checkpoints/round-000003.safetensors")
    ask(state, 2, clients=4)
    go_on(state, *FOUR, *options, "retrain=none")
    receipt = receipt_of(state, 2)
    assert receipt["purged"]["matches"] == 0
    assert receipt["purged"]["fingerprints"] > 0
    assert places_in(state) == set()
    if old is not None:
        assert not kept_in(state)["local"].any()
        assert all(files_with(state, row) == [] for row in old["local"])
    # The next round makes them anew.
    go_on(state, *FOUR, *options, "retrain=none", "rounds=4")
    facts = json.loads((state / "checkpoints" / "round-000005.json").read_text())
    assert facts["ledger"]["local"].keys() == {"0", "1", "3"}


def test_only_who_repaired_keeps_a_local_model(tmp_path: Path):
    """Half of the clients a round: who was not drawn has one from before."""
    options = (*FOUR, "strategy.keep_local_models=true", "strategy.client_fraction=0.5")
    state = tmp_path / "state"
    go_on(state, *options)
    ask(state, 1, clients=4)
    grid = go_on(state, *options, "retrain=remaining", "retrain_rounds=1")
    assert places_in(state) == {str(k) for k in grid.asked("train")}
    assert len(grid.asked("train")) < 3


def test_last_local_models_of_earlier_rounds_by_hand():
    """Clients 0 and 1 trained in round 1, client 1 again in round 3, 2 never."""
    start = np.zeros(2, np.float32)
    ledger = Ledger(start, clients=3)
    model = ledger.record(1, start, {0: start + 1, 1: start + 2}, {0: 1, 1: 1})
    ledger.record(3, model, {1: model + 1}, {1: 1})
    assert [ledger.last_round(k) for k in range(3)] == [1, 3, 0]
    assert ledger.forget_local_before(1) == []
    assert ledger.forget_local_before(3) == [0]
    assert sorted(ledger.local) == [1]
    assert ledger.rebuilt().tolist() == [2.5, 2.5]


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (
            ("strategy.form=parameters",),
            r"form=parameters needs the last local model of client 1, which trained in "
            r"round 3, .* forget it with strategy\.form=update or retrain=scratch",
        ),
        (
            ("strategy=gradient_ascent",),
            r"gradient_ascent needs last local models of the clients that stay, 0, 3, "
            r".* forget 1 with another strategy or retrain=scratch",
        ),
    ],
)
def test_without_a_local_model_nothing_is_silently_subtracted(
    tmp_path: Path, strategy: tuple[str, ...], message: str
):
    """They went with client 2; it is said before anything is changed."""
    state = tmp_path / "state"
    go_on(state, *FOUR, *strategy, "retrain=none")
    ask(state, 2, clients=4)
    go_on(state, *FOUR, *strategy, "retrain=none")
    ask(state, 1, clients=4)
    before = {p: p.read_bytes() for p in (state / "checkpoints").iterdir()}
    with pytest.raises(FedNegError, match=message):
        go_on(state, *FOUR, *strategy, "retrain=none")
    assert before == {p: p.read_bytes() for p in (state / "checkpoints").iterdir()}
    assert State(state).requests.open()[0].status == "accepted"
    go_on(
        state,
        *FOUR,
        "strategy=negative_gradient",
        "strategy.form=update",
        "retrain=none",
    )
    assert receipt_of(state, 1)["remains"] == "nothing of the client's summed updates"


def test_a_round_between_two_requests_is_enough(tmp_path: Path):
    state, form = tmp_path / "state", "strategy.form=parameters"
    go_on(state, *FOUR, form, "retrain=none")
    for client_id, rounds in ((2, 4), (1, 5)):
        ask(state, client_id, clients=4)
        go_on(state, *FOUR, form, "retrain=none", f"rounds={rounds}")
    assert receipt_of(state, 1)["done"]["method"]["scale"]["1"] > 0


def test_nobody_is_told_to_remove_the_only_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Should anything be left in it, as if local models stayed."""
    state, kept = tmp_path / "state", "strategy.keep_local_models=true"
    go_on(state, *FOUR, kept)
    ask(state, 2, clients=4)
    monkeypatch.setattr(Ledger, "forget_local_before", lambda *_: [])
    with pytest.raises(FedNegError, match="still holds") as error:
        go_on(state, *FOUR, kept, "retrain=none")
    assert "round-000004.safetensors" in str(error.value)
    assert "keep it and run again with retrain=scratch" in str(error.value)
    assert "remove it" not in str(error.value)
    go_on(state, *FOUR, kept, "retrain=scratch")
    assert receipt_of(state, 2)["purged"]["matches"] == 0


def test_nor_one_that_contains_somebody_where_there_is_no_other(tmp_path: Path):
    state = tmp_path / "state"
    go_on(state, *FOUR)
    old = {p: p.read_bytes() for p in (state / "checkpoints").glob("round-000003*")}
    ask(state, 2, clients=4)
    go_on(state, *FOUR)
    for path, content in old.items():
        path.write_bytes(content)
    with pytest.raises(FedNegError, match=r"contains client 2, .* not used, remove it"):
        go_on(state, *FOUR)
    for path in (state / "checkpoints").glob("round-000005*"):
        path.unlink()
    with pytest.raises(FedNegError, match="not used, bring a later one from a backup"):
        go_on(state, *FOUR)


# -- another method has other rows -----------------------------------------------------


@pytest.mark.parametrize("sealed", [(), ("encrypt=true",)], ids=["plain", "sealed"])
def test_a_healthy_state_goes_on_with_a_method_that_keeps_more_or_less(
    tmp_path: Path, sealed: tuple[str, ...]
):
    """Without local models to begin with; then with; then without again."""
    state = tmp_path / "state"
    go_on(state, *FOUR, *sealed, "rounds=1")
    model = State(state).model.read_bytes()
    ascent = "strategy=gradient_ascent"
    assert go_on(state, *FOUR, ascent, *sealed, "rounds=1").asked("train") == []
    assert State(state).model.read_bytes() == model
    ask(state, 2, clients=4)
    with pytest.raises(FedNegError, match="and there is none: they went"):
        go_on(state, *FOUR, ascent, *sealed, "rounds=1")
    go_on(state, *FOUR, *sealed, "retrain=none", "rounds=1")
    go_on(state, *FOUR, ascent, *sealed, "rounds=2")
    ask(state, 0, clients=4)
    go_on(state, *FOUR, ascent, *sealed, "rounds=2", "retrain=none")
    assert receipt_of(state, 0)["done"]["method"]["strategy"] == "gradient_ascent"
    go_on(state, *FOUR, ascent, *sealed, "rounds=3")
    # One round more by the two that are left: nothing was taken for damaged.
    assert go_on(state, *FOUR, *sealed, "rounds=4").asked("train") == [1, 3]
    kept: Checkpoints = State(state).checkpoints(every=1, encrypt=bool(sealed))
    head = json.loads((kept.folder / f"round-{kept.rounds()[-1]:06d}.json").read_text())
    assert head["ledger"]["local"] == {}


def test_a_whole_checkpoint_of_something_else_is_no_damage(tmp_path: Path):
    """Where nothing else holds what it does, nobody is told to begin anew."""
    ledger = Ledger(np.zeros(3, np.float32), clients=2, keep_local=False)
    kept = Checkpoints(tmp_path)
    kept.write(1, ledger.initial, ledger, {})
    for other, message in (
        (Ledger(np.ones(3, np.float32), clients=2), "from other initial parameters"),
        (
            Ledger(np.zeros(3, np.float32), clients=2, momentum=0.5),
            r"is whole and holds arrays .*, where this run has buffers \(2, 3\)",
        ),
    ):
        with pytest.raises(OtherCheckpointError, match=message):
            kept.restore(other, pytest.fail, strict=True)
        said: list[str] = []
        assert kept.restore(other, said.append) is None
        assert len(said) == 1
        assert "damaged" not in said[0]


def test_a_newer_schema_is_named_with_ours(tmp_path: Path):
    ledger = Ledger(np.zeros(3, np.float32), clients=2)
    kept = Checkpoints(tmp_path)
    kept.write(1, ledger.initial, ledger, {})
    rewrite(tmp_path / "round-000001.json", schema=9)
    with pytest.raises(OtherCheckpointError, match=r"is of schema 9, .* 1 to 2"):
        kept.restore(ledger, pytest.fail, strict=True)


# -- a new name for each writing -------------------------------------------------------


def rewrite(head: Path, **changes: Any) -> None:
    """Change what a checkpoint's head says, None to leave out, and its digest."""
    content = json.loads(head.read_text()) | changes
    content = {k: v for k, v in content.items() if v is not None and k != "digest"}
    head.write_bytes(head_bytes(content))


def numbered(folder: Path) -> list[str]:
    """Return the names of all files of checkpoints."""
    return sorted(p.name for p in folder.iterdir() if "round-" in p.name)


def test_a_round_written_again_has_a_file_of_another_name(tmp_path: Path):
    ledger = Ledger(np.zeros(3, np.float32), clients=2)
    kept = Checkpoints(tmp_path)
    for note in (1, 2, 3):
        kept.write(7, ledger.initial, ledger, {"note": note})
        more = f"-{note}" if note > 1 else ""
        names = ["round-000007.json", f"round-000007{more}.safetensors"]
        assert numbered(tmp_path) == sorted(names)
        found = kept.restore(Ledger(ledger.initial, clients=2), pytest.fail)
        assert found is not None
        assert found.facts == {"note": note}
    assert [path.name for path in kept.remove(7)] == names
    assert numbered(tmp_path) == []


def test_what_no_head_names_is_removed_at_the_start(tmp_path: Path):
    """Not what a head names that cannot be read: nobody knows which it is."""
    ledger = Ledger(np.zeros(3, np.float32), clients=2)
    kept = Checkpoints(tmp_path)
    for number in (7, 8):
        kept.write(number, ledger.initial, ledger, {})
    (tmp_path / "round-000008.json").write_text("{")
    for name in ("000007-2", "000008-2", "000009", "000010-3"):
        shutil.copy(
            tmp_path / "round-000007.safetensors",
            tmp_path / f"round-{name}.safetensors",
        )
    kept.tidy()
    assert numbered(tmp_path) == [
        *(
            "round-000007.json",
            "round-000007.safetensors",
            "round-000008-2.safetensors",
        ),
        *("round-000008.json", "round-000008.safetensors"),
    ]
    kept.remove(8)
    assert len(numbered(tmp_path)) == 2


def test_a_round_of_seven_digits_is_no_other_one(tmp_path: Path):
    ledger = Ledger(np.zeros(3, np.float32), clients=2)
    kept = Checkpoints(tmp_path)
    for number in (100000, 1000000):
        kept.write(number, ledger.initial, ledger, {"number": number})
    assert kept.rounds() == [100000, 1000000]
    kept.remove(100000)
    kept.verify(1000000)


def test_checkpoints_of_the_schema_before_are_read(tmp_path: Path):
    """Their heads name no file: it has the head's own name."""
    state = tmp_path / "state"
    go_on(state, *FOUR)
    model = State(state).model.read_bytes()
    for head in (state / "checkpoints").glob("*.json"):
        rewrite(head, schema=1, data=None)
    # Whoever wrote that schema did not say at a run's end what it left.
    number, digest = State(state).account.line[-1]
    State(state).audit.append(RESUMED, round=number, model=digest)
    assert go_on(state, *FOUR).asked("train") == []
    assert State(state).model.read_bytes() == model
    ask(state, 2, clients=4)
    go_on(state, *FOUR)
    assert receipt_of(state, 2)["purged"]["matches"] == 0


def test_a_head_that_names_a_file_elsewhere_is_not_believed(tmp_path: Path):
    ledger = Ledger(np.zeros(3, np.float32), clients=2)
    kept = Checkpoints(tmp_path)
    kept.write(1, ledger.initial, ledger, {})
    rewrite(tmp_path / "round-000001.json", data="../round-000001.safetensors")
    with pytest.raises(FedNegError, match=r"its head names '\.\./round-000001"):
        kept.verify(1)


# -- killed, or out of room, in the middle ---------------------------------------------


STRIDE = 10


class KilledError(BaseException):
    """Nothing that this process does reaches the disk any more."""


class Kill(Executioner):
    """From step `last` on nothing happens to the disk: no clearing up either."""

    def step(self) -> None:
        """Count a step."""
        self.steps += 1
        if self.steps >= self.last:
            raise KilledError


@pytest.fixture(scope="module", params=[(), ("encrypt=true",)], ids=["plain", "sealed"])
def unlearned(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, tuple[str, ...], dict[str, Any]]:
    """Return a federation that has forgotten client 2 but for the purge.

    With the others' local models, so that a plain checkpoint is written again, too; and
    the outcome of a purge that nobody disturbs.
    """
    state = tmp_path_factory.mktemp("unlearned") / "state"
    options = (*request.param, "rounds=1", "strategy.keep_local_models=true")
    options = (*options, "model.hidden=[4]", "retrain=none", "clients=3")
    go_on(state, *options)
    ask(state, 2)
    with pytest.raises(FedNegError, match=r"below strategy\.gate"):
        go_on(state, *options, "strategy.gate=1", "strategy.scale=10")
    alone = copied(state, state.parent / "alone")
    go_on(alone, *options, "strategy.gate=0")
    return state, options, outcome(alone)


def outcome(state: Path) -> dict[str, Any]:
    """Return what must not depend on what went wrong on the way."""
    found = State(state)
    receipt = receipt_of(state, 2)
    return {
        "model": found.model.read_bytes(),
        "status": [r.status for r in found.requests.all()],
        "models": receipt["models"],
        "isolable": receipt["purged"]["isolable"],
        "matches": receipt["purged"]["matches"],
        "checkpoints": [re.sub("-[0-9](?=[.])", "", n) for n in all_files(state)],
        "keys": [re.sub("l-[0-9]+", "l", n) for n in all_files(found.vault.folder)],
    }


def all_files(folder: Path) -> list[str]:
    """Return the names of a state's checkpoints, or of all files of a folder."""
    below = folder / "checkpoints"
    folder = below if below.is_dir() else folder
    return sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []


def whole(state: Path, options: tuple[str, ...]) -> list[int]:
    """Return of which rounds there is a whole checkpoint."""
    kept = State(state).checkpoints(every=1, encrypt="encrypt=true" in options)
    found = []
    for number in kept.rounds():
        with suppress(FedNegError):
            kept.verify(number)
            found.append(number)
    return found


@pytest.mark.parametrize(("kind", "first"), [(Kill, 5), (Full, 2)])
def test_wherever_a_purge_ends_a_whole_checkpoint_is_left_and_the_next_one_ends_it(
    unlearned: tuple[Path, tuple[str, ...], dict[str, Any]],
    tmp_path: Path,
    kind: type[Executioner],
    first: int,
):
    """At every STRIDE-th step that touches the disk, half a write being one."""
    state, options, expected = unlearned
    options = (*options, "strategy.gate=0")
    last, said = first, set()
    while True:
        broken = copied(state, tmp_path / f"{last}")
        disk = kind(last)
        try:
            with watched(disk):
                go_on(broken, *options)
        except KilledError:
            pass
        except (FedNegError, OSError) as error:
            text = str(error)
            # Every failure names what could not be written, and nothing that is not so.
            assert str(tmp_path) in text, text
            for number in re.findall(r"the one of round (\d+) is intact", text):
                assert int(number) in whole(broken, options)
                said.add(number)
        else:
            break
        assert 2 in whole(broken, options), last
        go_on(broken, *options)
        assert outcome(broken) == expected, last
        shutil.rmtree(broken)
        last += STRIDE
    assert last > 5 * STRIDE
    assert said == ({"2"} if kind is Full else set())


@pytest.mark.parametrize("kind", [Kill, Full])
@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "sealed"])
def test_whenever_writing_a_round_again_ends_there_is_a_whole_checkpoint(
    tmp_path: Path, sealed: bool, kind: type[Executioner]
):
    """The only one is made anew, and its keys: at every single step."""
    ledger = Ledger(np.arange(40, dtype=np.float32), clients=3)
    ledger.contributions[...] = 1
    last = 0
    while True:
        last += 1
        vault = Vault(tmp_path / f"{last}-keys")
        folder = tmp_path / f"{last}"
        folder.mkdir()
        kept = Checkpoints(folder, form=Sealed(vault, set()) if sealed else None)
        kept.write(7, ledger.rebuilt(), ledger, {"note": "before"})
        ended = said = None
        try:
            with watched(kind(last)):
                vault.next_model_key()
                kept.write(7, ledger.rebuilt(), ledger, {"note": "after"})
                vault.destroy([])
                ended = True
        except (KilledError, OSError):
            pass
        except FedNegError as error:
            said = str(error)
        found = Checkpoints(folder, form=kept.form).restore(
            Ledger(ledger.initial, clients=3), pytest.fail
        )
        assert found is not None, last
        assert said is None or "the one of round 7 is intact" in said
        again = Checkpoints(folder, form=kept.form)
        again.tidy()
        again.verify(7)
        assert len(numbered(folder)) == 2
        if ended:
            break
    assert found.facts == {"note": "after"}
    assert last > 10
