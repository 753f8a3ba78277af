"""What is sealed opens with its key alone, and with no key once that is destroyed."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedneg.core.errors import FedNegError
from fedneg.core.parameters import Vector
from fedneg.ledger.checkpoint import Checkpoints
from fedneg.ledger.ledger import Ledger
from fedneg.records import vault as vault_module
from fedneg.records.sealed import Sealed
from fedneg.records.vault import NONCE, TAG, Vault

CLIENTS, SIZE = 4, 50


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seal 64 bytes, sixteen numbers, at a time."""
    monkeypatch.setattr(vault_module, "CHUNK", 64)


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    """Return a vault without keys."""
    return Vault(tmp_path / "keys" / "clients")


def numbers(size: int, seed: int = 0) -> Vector:
    """Return random numbers."""
    return np.random.default_rng(seed).normal(size=size).astype(np.float32)


def sealed(vault: Vault, key: str, what: str, array: Vector) -> np.ndarray:
    """Return what `seal` makes of an array."""
    return np.frombuffer(b"".join(vault.seal(key, what, array)), np.uint8)


def opened(vault: Vault, key: str, what: str, data: np.ndarray, size: int) -> Vector:
    """Return what `open` makes of it."""
    out = np.full(size, np.nan, np.float32)
    vault.open(key, what, data, out)
    return out


# -- sealing ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one_vault(tmp_path_factory: pytest.TempPathFactory) -> Vault:
    """Return a vault for many examples."""
    return Vault(tmp_path_factory.mktemp("keys"))


@given(st.integers(0, 80), st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_what_is_sealed_opens_to_the_same_bits(one_vault: Vault, size: int, seed: int):
    """Also numbers that are not numbers; around 16, 32, ... chunks end."""
    bits = np.random.default_rng(seed).integers(0, 2**32, size, dtype=np.uint32)
    array = bits.view(np.float32)
    key = one_vault.client_key(1)
    data = sealed(one_vault, key, "row", array)
    found = opened(one_vault, key, "row", data, size)
    assert found.tobytes() == array.tobytes()
    assert one_vault.sealed_size(4 * size) == data.size
    assert one_vault.plain_size(data.size) == 4 * size


@pytest.mark.parametrize(
    ("size", "chunks"), [(0, 1), (1, 1), (15, 1), (16, 1), (17, 2), (32, 2), (33, 3)]
)
def test_every_chunk_costs_a_nonce_and_a_tag(vault: Vault, size: int, chunks: int):
    """A chunk is 64 bytes; each brings 12 + 16 = 28."""
    data = sealed(vault, vault.client_key(1), "row", numbers(size))
    assert data.size == 4 * size + 28 * chunks


def test_nothing_of_an_array_is_in_what_is_sealed(vault: Vault):
    array = numbers(40)
    data = sealed(vault, vault.client_key(1), "row", array).tobytes()
    plain = array.tobytes()
    assert not any(plain[k : k + 8] in data for k in range(0, 160, 4))


def test_no_nonce_is_used_twice(vault: Vault):
    key = vault.client_key(1)
    step = 64 + NONCE + TAG
    seen = set()
    for _ in range(50):
        data = sealed(vault, key, "row", np.zeros(48, np.float32))
        seen |= {data[k : k + NONCE].tobytes() for k in range(0, data.size, step)}
    assert len(seen) == 150


@given(st.data())
@settings(max_examples=40)
def test_no_altered_byte_opens(one_vault: Vault, data: st.DataObject):
    key = one_vault.client_key(1)
    array = numbers(data.draw(st.integers(1, 40)))
    found = sealed(one_vault, key, "row", array).copy()
    place = data.draw(st.integers(0, found.size - 1))
    found[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ValueError, match="row does not open with its key"):
        opened(one_vault, key, "row", found, array.size)


def test_nothing_opens_in_another_place(vault: Vault):
    key, array, step = vault.client_key(1), numbers(48), 64 + NONCE + TAG
    data = sealed(vault, key, "row", array)
    for wrong in (
        np.concatenate([data[step : 2 * step], data[:step], data[2 * step :]]),
        np.concatenate([data[:step], data[:step], data[2 * step :]]),
    ):
        with pytest.raises(ValueError, match="does not open"):
            opened(vault, key, "row", wrong, 48)
    with pytest.raises(ValueError, match="other does not open with its key"):
        opened(vault, key, "other", data, 48)
    with pytest.raises(ValueError, match="row does not open with its key"):
        opened(vault, vault.client_key(2), "row", data, 48)


@pytest.mark.parametrize("change", ["short", "chunk short", "long", "none"])
def test_another_length_is_refused(vault: Vault, change: str):
    key = vault.client_key(1)
    data = sealed(vault, key, "row", numbers(48))
    wrong = {
        "short": data[:-1],
        "chunk short": data[: -(64 + NONCE + TAG)],
        "long": np.append(data, data[:1]),
        "none": data[:0],
    }[change]
    with pytest.raises(ValueError, match=f"row has {wrong.size} sealed bytes"):
        opened(vault, key, "row", wrong, 48)


# -- keys ------------------------------------------------------------------------------


def modes(folder: Path) -> dict[str, int]:
    """Return who may do what with the files of a folder."""
    return {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}


def test_keys_are_their_owners_alone(vault: Vault):
    assert vault.destroyed() == set()
    assert not vault.folder.exists()
    vault.client_key(3)
    vault.model_key()
    assert vault.folder.stat().st_mode & 0o777 == 0o700
    assert modes(vault.folder) == {"client-3.key": 0o600, "model-000000.key": 0o600}
    keys = [path.read_bytes() for path in vault.folder.iterdir()]
    assert [len(key) for key in keys] == [32, 32]
    assert keys[0] != keys[1]


def test_a_key_is_made_once_and_found_by_the_next_process(vault: Vault):
    name = vault.client_key(3)
    before = (vault.folder / f"{name}.key").read_bytes()
    again = Vault(vault.folder)
    assert again.client_key(3) == name == "client-3"
    assert (vault.folder / f"{name}.key").read_bytes() == before
    data = sealed(vault, name, "row", numbers(9))
    assert opened(again, name, "row", data, 9).tobytes() == numbers(9).tobytes()


def test_a_key_that_is_not_wished_is_not_made(vault: Vault):
    assert vault.client_key(3, make=False) == "client-3"
    assert not vault.folder.exists()
    with pytest.raises(FedNegError, match=f"the key client-3 is not in {vault.folder}"):
        opened(vault, "client-3", "row", np.empty(32, np.uint8), 1)


def test_a_destroyed_key_is_named_and_never_made_again(vault: Vault):
    data = sealed(vault, vault.client_key(3), "row", numbers(9))
    vault.client_key(13)
    assert vault.destroy([3]) == ["client-3"]
    for found in (vault, Vault(vault.folder)):
        assert found.destroyed() == {3}
        for make in (True, False):
            with pytest.raises(FedNegError, match="the key of client 3 was destroyed"):
                found.client_key(3, make=make)
        with pytest.raises(FedNegError, match="the key client-3 is not in"):
            opened(found, "client-3", "row", data, 9)
    assert sorted(modes(vault.folder)) == ["client-13.key", "client-3.destroyed"]
    assert vault.destroy([3]) == []  # repeated after a kill
    assert vault.destroyed() == {3}


def test_a_key_that_was_never_made_can_be_destroyed(vault: Vault):
    """A client that never took part is forgotten too."""
    assert vault.destroy([5]) == []
    vault.client_key(1)
    assert vault.destroy([5]) == []
    with pytest.raises(FedNegError, match="the key of client 5 was destroyed"):
        vault.client_key(5)


def test_model_keys_rotate_and_only_the_current_stays(vault: Vault):
    assert [vault.model_key(), vault.model_key()] == ["model-000000"] * 2
    data = sealed(vault, "model-000000", "global", numbers(9))
    assert vault.next_model_key() == vault.model_key() == "model-000001"
    with pytest.raises(ValueError, match="does not open"):
        opened(vault, "model-000001", "global", data, 9)
    opened(vault, "model-000000", "global", data, 9)  # the old one stays for now
    vault.next_model_key()
    vault.client_key(1)
    assert vault.destroy([1]) == ["client-1", "model-000000", "model-000001"]
    assert vault.model_key() == "model-000002"
    with pytest.raises(FedNegError, match="the key model-000000 is not in"):
        opened(vault, "model-000000", "global", data, 9)


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_key_of_another_length_is_named(vault: Vault, size: int):
    """Sixteen bytes would be a key of AES-128, and work."""
    path = vault.folder / f"{vault.client_key(1)}.key"
    path.write_bytes(bytes(size))
    message = f"{path} is no key: it has {size} bytes, not 32"
    with pytest.raises(FedNegError, match=message):
        sealed(vault, "client-1", "row", numbers(9))


def test_a_tombstone_that_finds_no_room_is_named(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
):
    """And its key is still there: nothing is half destroyed."""
    vault.client_key(3)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "touch", full)
    with pytest.raises(OSError, match=r"No space left .*client-3\.destroyed"):
        vault.destroy([3])
    assert (vault.folder / "client-3.key").exists()


# -- checkpoints -----------------------------------------------------------------------


def trained(*, momentum: float, folder: Path | None = None) -> tuple[Ledger, Vector]:
    """Return a ledger after three rounds, client 3 in the first only, and the model."""
    model = numbers(SIZE, 99)
    ledger = fresh(momentum=momentum, folder=folder)
    for number in (1, 2, 3):
        clients = range(CLIENTS if number == 1 else CLIENTS - 1)
        local = {k: model + numbers(SIZE, 10 * number + k) for k in clients}
        counts = {k: 5 + k for k in clients}
        model = ledger.record(number, model, local, counts)
    return ledger, model


def fresh(*, momentum: float, folder: Path | None = None) -> Ledger:
    """Return a ledger that knows nothing yet."""
    return Ledger(numbers(SIZE, 99), clients=CLIENTS, momentum=momentum, folder=folder)


def bits(ledger: Ledger) -> dict[str, bytes]:
    """Return every bit of a ledger's arrays."""
    return {name: array.tobytes() for name, array in ledger.arrays().items()}


def checkpoints(tmp_path: Path, vault: Vault, *forgotten: int) -> Checkpoints:
    """Return sealed checkpoints."""
    folder = tmp_path / "checkpoints"
    folder.mkdir(exist_ok=True)
    return Checkpoints(folder, form=Sealed(vault, set(forgotten)))


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("momentum", [0, 0.5])
def test_a_sealed_checkpoint_gives_back_every_bit(
    tmp_path: Path, vault: Vault, momentum: float, on_disk: bool
):
    folder = tmp_path / "scratch" if on_disk else None
    ledger, model = trained(momentum=momentum, folder=folder)
    ledger.correction[...] = numbers(SIZE, 7)
    ledger.fold_correction()  # the initial parameters are others now, too
    ledger.correction[...] = numbers(SIZE, 8)
    model = ledger.rebuilt()
    ledger.local.pop(1)
    ledger.local[1] = numbers(SIZE, 5)
    before = bits(ledger)
    checkpoints(tmp_path, vault).write(3, model, ledger, {"said": [1]})
    assert bits(ledger) == before  # writing gives memory back, and no number
    found = fresh(momentum=momentum, folder=folder)
    found.contributions[...] = found.local.rows[...] = 7
    restored = checkpoints(tmp_path, vault).restore(found)
    assert restored is not None
    assert restored.parameters.tobytes() == model.tobytes()
    assert restored.facts == {"said": [1]}
    assert bits(found) == before
    assert found.facts() == ledger.facts()
    assert ("buffers" in before) == bool(momentum)


def test_a_sealed_file_shows_nobodys_numbers(tmp_path: Path, vault: Vault):
    ledger, model = trained(momentum=0.5)
    made = checkpoints(tmp_path, vault)
    made.write(3, model, ledger, {})
    content = b"".join(p.read_bytes() for p in sorted(made.folder.iterdir()))
    vectors = [
        model,
        *(row for a in ledger.arrays().values() for row in a.reshape(-1, SIZE)),
    ]
    for vector in vectors:
        plain = vector.tobytes()
        if vector.any():  # the correction is zero
            windows = (plain[k : k + 8] for k in range(0, len(plain) - 8, 4))
            assert not any(window in content for window in windows if any(window))
    # The very same search finds them where they are not sealed.
    plain_ones = Checkpoints(tmp_path / "plain")
    plain_ones.folder.mkdir()
    plain_ones.write(3, model, ledger, {})
    content = b"".join(p.read_bytes() for p in plain_ones.folder.iterdir())
    assert all(v.tobytes()[8:16] in content for v in vectors)


def test_rows_are_one_clients_and_the_global_parameters(tmp_path: Path, vault: Vault):
    """Client 1 is not client 11, nor whoever's local model lies in row 1."""
    ledger, model = trained(momentum=0.5)
    ledger.local.pop(0)
    ledger.local.pop(1)
    ledger.local[0], ledger.local[1] = numbers(SIZE, 5), numbers(SIZE, 6)
    assert ledger.local.places[1] != 1
    made = checkpoints(tmp_path, vault)
    made.write(3, model, ledger, {})
    assert ledger.buffers is not None
    expected = {
        "global": model,
        "contributions.1": ledger.contributions[1],
        "buffers.1": ledger.buffers[1],
        f"local.{ledger.local.places[1]}.1": ledger.local[1],
    }
    found = made.rows(3, 1)
    assert {k: v.tobytes() for k, v in found.items()} == {
        k: v.tobytes() for k, v in expected.items()
    }


@pytest.mark.parametrize("backup", [True, False])
def test_without_the_key_an_old_file_is_of_no_use_to_anybody(
    tmp_path: Path, vault: Vault, backup: bool
):
    """An error that names the client: silently starting anew would be no better."""
    ledger, model = trained(momentum=0.5)
    made = checkpoints(tmp_path, vault)
    made.write(3, model, ledger, {})
    vault.destroy([2])
    form = checkpoints(tmp_path, vault, *(() if backup else (2,)))
    with pytest.raises(FedNegError, match="the key of client 2 was destroyed"):
        form.restore(fresh(momentum=0.5))
    with pytest.raises(FedNegError, match="the key of client 2 was destroyed"):
        form.rows(3, 2)
    assert form.rows(3, 1).keys() >= {"global", "contributions.1"}


def test_without_the_model_key_the_old_global_parameters_are_gone(
    tmp_path: Path, vault: Vault
):
    """They, minus all other rows, would give the forgotten one back."""
    ledger, model = trained(momentum=0)
    made = checkpoints(tmp_path, vault)
    made.write(3, model, ledger, {})
    vault.next_model_key()
    made.restore(fresh(momentum=0))  # not yet
    vault.destroy([])
    for look in (lambda: made.restore(fresh(momentum=0)), lambda: made.rows(3, 1)):
        with pytest.raises(FedNegError, match="the key model-000000 is not in"):
            look()


def test_the_forgotten_have_no_rows_in_what_is_written(tmp_path: Path, vault: Vault):
    """Nor a key afterwards: writing must not make one."""
    ledger, model = trained(momentum=0.5)
    checkpoints(tmp_path, vault).write(3, model, ledger, {})
    after = model - ledger.contributions[2]
    ledger.forget([2], before=model, after=after)
    vault.next_model_key()
    made = checkpoints(tmp_path, vault, 2)
    made.write(4, after, ledger, {})
    made.remove(3)
    assert vault.destroy([2]) == ["client-2", "model-000000"]
    assert made.rows(4, 2).keys() == {"global"}
    found = fresh(momentum=0.5)
    found.contributions[...] = 7
    assert found.buffers is not None
    found.buffers[...] = 7
    restored = made.restore(found)
    assert restored is not None
    assert bits(found) == bits(ledger)
    assert not found.contributions[2].any()
    made.write(5, after, ledger, {})
    assert not (vault.folder / "client-2.key").exists()


def test_a_forgotten_clients_local_model_is_left_out_too(tmp_path: Path, vault: Vault):
    ledger, model = trained(momentum=0)
    made = checkpoints(tmp_path, vault, 2)
    made.write(3, model, ledger, {})
    assert made.rows(3, 2).keys() == {"global"}
    assert not (vault.folder / "client-2.key").exists()


def test_a_damaged_sealed_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, vault: Vault
):
    ledger, model = trained(momentum=0)
    made = checkpoints(tmp_path, vault)
    made.write(3, model, ledger, {"number": 3})
    made.write(4, model, ledger, {"number": 4})
    path = made.folder / "round-000004.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    warned: list[str] = []
    restored = made.restore(fresh(momentum=0), warned.append)
    assert restored is not None
    assert restored.facts == {"number": 3}
    assert "round-000004 is damaged" in warned[0]
