"""A client's own data: what is read, what is refused, and training on it."""

import contextlib
import io
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from builders.federations import data_of, small_config
from builders.networks import initial_parameters
from builders.own_data import Arrays, own_bench, some
from fedneg.clients.trainer import TrainingClient
from fedneg.core.assignment import Assignment
from fedneg.core.errors import FedNegError
from fedneg.core.seeding import rng
from fedneg.core.settings import Config
from fedneg.data import own_data as own_data_module
from fedneg.data.attacks import poison
from fedneg.data.client_data import ClientData, own_data
from fedneg.data.datasets import load_dataset
from fedneg.data.image_folder import SUFFIXES
from fedneg.data.kinds import DIGITS, MNIST
from fedneg.data.own_data import read_own_images
from fedneg.data.partition import partition_by_writer


def save(path: Path, **arrays: Any) -> str:
    """Write a .npz file and return its path as a node config has it."""
    np.savez(path, **arrays)
    return str(path)


def save_folder(folder: Path, arrays: Arrays) -> str:
    """Write the images as <folder>/<label>/<number>.png, grey."""
    for k, (image, label) in enumerate(
        zip(arrays["images"], arrays["labels"], strict=True)
    ):
        below = folder / str(label)
        below.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(below / f"{k:03}.png")
    return str(folder)


def by_class(arrays: Arrays) -> Arrays:
    """Return the arrays in the order in which a folder of them is read."""
    order = np.argsort(arrays["labels"], kind="stable")
    return {name: array[order] for name, array in arrays.items()}


def digits_of(client_id: int, config: Config) -> Arrays:
    """Return the embedded digits that the built-in partition gives to a client."""
    data = load_dataset("digits")
    splits = partition_by_writer(data.writers, clients=config.clients, seed=config.seed)
    part = splits[client_id]
    mine = np.sort(np.concatenate([part.train, part.val, part.test]))
    return {
        "images": data.images[mine],
        "labels": data.labels[mine],
        "writers": data.writers[mine],
    }


def reading(place: str, name: str = "digits") -> ClientData:
    return own_data(place, name=name, client_id=0, seed=0)


def test_npz_gives_its_arrays_read_only(tmp_path: Path):
    """Other integers and another order in memory change nothing; big-endian too."""
    arrays = some()
    place = save(
        tmp_path / "mine.npz",
        images=np.asfortranarray(arrays["images"]),
        labels=arrays["labels"].astype(">u2"),
        writers=np.array([7] * 6 + [2**40] * 5 + [-1]),
    )
    data = reading(place)
    np.testing.assert_array_equal(data.images, arrays["images"])
    np.testing.assert_array_equal(data.labels, arrays["labels"])
    assert (data.images.dtype, data.labels.dtype) == (np.uint8, np.int64)
    assert data.labels.dtype.isnative
    assert data.images.flags.c_contiguous
    assert not data.images.flags.writeable
    assert not data.labels.flags.writeable
    assert data.num_writers == 3
    assert data.kind == DIGITS
    assert (data.kind.shape, data.kind.num_classes, data.kind.pixel_max) == (
        *((8, 8), 10, 16),
    )


def test_without_writers_all_is_one_writers(tmp_path: Path):
    assert reading(save(tmp_path / "mine.npz", **some())).num_writers == 1


@pytest.mark.parametrize("kind", [MNIST, DIGITS], ids=lambda kind: kind.name)
def test_npz_file_and_folders_of_the_same_images_are_the_same(
    tmp_path: Path, kind: Any
):
    """Folders are read by class; litter of file managers is no image."""
    arrays = by_class(some(25, kind))
    npz = reading(save(tmp_path / "mine.npz", **arrays), kind.name)
    place = save_folder(tmp_path / "folder", arrays)
    (tmp_path / "folder" / "3" / ".DS_Store").write_text("litter")
    (tmp_path / "folder" / "3" / "Thumbs.db").write_text("litter")
    (tmp_path / "folder" / "README.txt").write_text("not an image")
    folder = reading(place, kind.name)
    (tmp_path / "around").mkdir()
    save(tmp_path / "around" / "one.npz", **arrays)
    around = reading(str(tmp_path / "around"), kind.name)
    for other in (folder, around):
        np.testing.assert_array_equal(other.images, npz.images)
        for name in ("labels", "train", "val", "test"):
            np.testing.assert_array_equal(getattr(other, name), getattr(npz, name))
            assert getattr(other, name).dtype == getattr(npz, name).dtype
        assert other.num_writers == npz.num_writers


def test_folder_is_read_in_sorted_order_whatever_the_disk_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    arrays = by_class(some(30))
    place = save_folder(tmp_path, arrays)
    scan = os.scandir

    def backwards(folder: Any) -> Any:
        with scan(folder) as entries:
            found = sorted(entries, key=lambda e: e.name, reverse=True)
        return contextlib.nullcontext(found)

    monkeypatch.setattr(os, "scandir", backwards)
    np.testing.assert_array_equal(reading(place).images, arrays["images"])


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_every_suffix_is_read_in_grey(tmp_path: Path, suffix: str, mode: str):
    """Halves of one grey each are what even lossy formats keep, to a step or two."""
    (tmp_path / "4").mkdir()
    expected = np.full((3, 28, 28), 100)
    for k, name in enumerate("abc"):
        image = Image.new(mode, (28, 28), 100 if mode == "L" else (100, 100, 100))
        grey = 60 + 40 * k
        image.paste(grey if mode == "L" else (grey,) * 3, (0, 0, 16, 28))
        expected[k, :, :16] = grey
        image.save(tmp_path / "4" / (name + suffix))
    data = reading(str(tmp_path), "mnist")
    assert data.labels.tolist() == [4, 4, 4]
    assert np.abs(data.images - expected).max() <= 3


def test_colour_is_weighed_as_pillow_weighs_it(tmp_path: Path):
    """L = (299 R + 587 G + 114 B) / 1000: red 76, green 150, blue 29."""
    (tmp_path / "0").mkdir()
    for name in ("red", "green", "blue"):
        value = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}[name]
        image = Image.new("RGB", (28, 28), value)
        image.putpixel((5, 5), (0, 0, 0))
        image.save(tmp_path / "0" / f"{name}.png")
    found = reading(str(tmp_path), "mnist").images[:, 0, 0]
    assert found.tolist() == [29, 150, 76]  # by file name


@given(st.integers(3, 400), st.integers(0, 2**32), st.integers(0, 600))
def test_split_is_complete_disjoint_and_ten_to_one_to_one(
    tmp_path_factory: pytest.TempPathFactory, count: int, seed: int, client_id: int
):
    folder = tmp_path_factory.getbasetemp()
    place = save(folder / f"split{count}.npz", **some(count))
    data = own_data(place, name="digits", client_id=client_id, seed=seed)
    parts = (data.train, data.val, data.test)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(count))
    assert min(map(len, parts)) >= 1
    assert len(data.val) == len(data.test) == max((count + 6) // 12, 1)


def test_split_depends_on_seed_and_client(tmp_path: Path):
    place = save(tmp_path / "mine.npz", **some(60))
    same, other_seed, other_client = (
        own_data(place, name="digits", client_id=k, seed=s).test.tolist()
        for k, s in ((0, 0), (0, 1), (1, 0))
    )
    assert own_data(place, name="digits", client_id=0, seed=0).test.tolist() == same
    assert same not in (other_seed, other_client)


def test_files_are_read_again_only_when_they_changed(tmp_path: Path):
    """A file of equal size and another time of change counts as changed."""
    place = save(tmp_path / "mine.npz", **some(12))
    first = reading(place)
    assert reading(place).images is first.images
    changed = some(12)
    changed["images"] = changed["images"][::-1]
    save(tmp_path / "mine.npz", **changed)
    os.utime(place, ns=(1, 1))
    np.testing.assert_array_equal(reading(place).images, changed["images"])
    folder = save_folder(tmp_path / "folder", by_class(some(12)))
    assert len(reading(folder).labels) == 12
    Image.new("L", (8, 8)).save(tmp_path / "folder" / "9" / "more.png")
    assert len(reading(folder).labels) == 13


# -- what is refused: a function that makes it in a folder, and words of the line ------


def changed(**changes: Any) -> Callable[[Path], str]:
    """Return a maker of good arrays with these changes; None takes one away."""

    def make(folder: Path) -> str:
        arrays = {k: v for k, v in (some() | changes).items() if v is not None}
        return save(folder / "mine.npz", **arrays)

    return make


def wrote(name: str, content: bytes) -> Callable[[Path], str]:
    """Return a maker of a file with such content."""

    def make(folder: Path) -> str:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        return str(folder / name.split("/")[0])

    return make


def drew(name: str, picture: Image.Image, **options: Any) -> Callable[[Path], str]:
    """Return a maker of a good folder with one image more."""

    def make(folder: Path) -> str:
        place = save_folder(folder / "folder", some())
        (folder / "folder" / name).parent.mkdir(exist_ok=True)
        picture.save(folder / "folder" / name, **options)
        return place

    return make


def two_archives(folder: Path) -> str:
    save(folder / "a.npz", **some())
    save(folder / "b.npz", **some())
    return str(folder)


def archive_beside_classes(folder: Path) -> str:
    place = save_folder(folder / "folder", some())
    save(folder / "folder" / "a.npz", **some())
    return place


def bit_flipped(folder: Path) -> str:
    """A byte of the images differs from what the zip's checksum says."""
    place = changed()(folder)
    content = bytearray(Path(place).read_bytes())
    content[content.index(some()["images"].tobytes()) + 300] ^= 1
    Path(place).write_bytes(content)
    return place


def cut(folder: Path) -> str:
    place = changed()(folder)
    Path(place).write_bytes(Path(place).read_bytes()[:500])
    return place


def no_array(folder: Path) -> str:
    place = folder / "mine.npz"
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr("images", b"not what numpy writes")
        archive.writestr("labels", b"neither")
    return str(place)


def named_pipe(folder: Path) -> str:
    os.mkfifo(folder / "pipe.npz")
    return str(folder / "pipe.npz")


def cut_image(folder: Path) -> str:
    place = save_folder(folder / "folder", some(3, MNIST))
    file = folder / "folder" / "1" / "001.png"
    file.write_bytes(file.read_bytes()[:200])
    return place


def huge_image(folder: Path) -> str:
    """Only the head of a PNG file of 10,000 x 10,000 pixels, of which Pillow warns."""
    place = save_folder(folder / "folder", some())
    head = b"IHDR" + struct.pack(">2I5B", 10_000, 10_000, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    file = folder / "folder" / "3" / "huge.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 9) + b"IDAT")
    return place


def labels_with(value: Any, dtype: Any = np.int64) -> Any:
    labels = some()["labels"].astype(dtype)
    labels[5] = value
    return labels


GREY = Image.new("L", (8, 8))
CLEAR = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
BAD: dict[str, tuple[Callable[[Path], str], str]] = {
    "relative": (lambda _: "data/mine.npz", "absolute path.*got 'data/mine.npz'"),
    "home": (lambda _: "~/mine.npz", "absolute path.*got '~/mine.npz'"),
    "empty": (lambda _: "", "absolute path.*got ''"),
    "missing": (lambda p: str(p / "none.npz"), "none.npz cannot be read: No such file"),
    "zero byte": (lambda _: "/a\0b", r"'/a\\x00b' cannot be read: .*null"),
    "pipe": (named_pipe, "pipe.npz must be a .npz file or a folder"),
    "suffix": (wrote("mine.csv", b"1,2"), "mine.csv must be a .npz file or a folder"),
    "no zip": (wrote("mine.npz", b"junk"), "mine.npz is damaged.*zip archive"),
    "empty file": (wrote("mine.npz", b""), "mine.npz is damaged.*zip archive"),
    "cut": (cut, "mine.npz is damaged"),
    "bit flipped": (bit_flipped, "mine.npz: images cannot be read: Bad CRC"),
    "no npy": (no_array, "mine.npz: images must be an array as numpy.savez writes"),
    "no images": (changed(images=None), "must hold images and labels, got no images"),
    "no labels": (changed(labels=None), "must hold images and labels, got no labels"),
    "objects": (
        changed(images=np.array([None] * 12)),
        "images cannot be read: its type must be a number, got object",
    ),
    "float images": (
        changed(images=some()["images"] / 16),
        "images must be uint8, got float64",
    ),
    "flat": (
        changed(images=some()["images"].reshape(12, 64)),
        r"shape \(N, 8, 8\) of digits, got \(12, 64\)",
    ),
    "other size": (
        changed(images=some(12, MNIST)["images"]),
        r"shape \(N, 8, 8\) of digits, got \(12, 28, 28\)",
    ),
    "too bright": (
        changed(images=some()["images"] + np.uint8(1)),
        r"pixels of at most 16 \(digits\), got 17",
    ),
    "two images": (lambda p: save(p / "mine.npz", **some(2)), "at least 3.*got 2"),
    "none": (
        changed(images=some()["images"][:0], labels=np.arange(0)),
        "at least 3.*got 0",
    ),
    "float labels": (
        changed(labels=labels_with(1.5, float)),
        "labels must be whole numbers.*got float64",
    ),
    "flags": (changed(labels=np.ones(12, bool)), "labels must be whole.*got bool"),
    "texts": (changed(labels=np.array(["1"] * 12)), "labels must be whole.*got <U1"),
    "label 10": (changed(labels=labels_with(10)), "0 to 9, got 10 at index 5"),
    "label -1": (changed(labels=labels_with(-1)), "0 to 9, got -1 at index 5"),
    # As int64 it would be -1, or 255 of 2**64 - 1: the file's own type counts.
    "huge label": (
        changed(labels=labels_with(2**64 - 1, np.uint64)),
        "0 to 9, got 18446744073709551615 at index 5",
    ),
    "fewer labels": (
        changed(labels=np.arange(10)),
        r"labels must be one for each of the 12 images, got shape \(10,\)",
    ),
    "column": (changed(labels=np.ones((12, 1), int)), r"labels.*got shape \(12, 1\)"),
    "one number": (changed(labels=np.array(1)), r"labels.*got shape \(\)"),
    "fewer writers": (
        changed(writers=np.arange(3)),
        r"writers must be one for each of the 12 images, got shape \(3,\)",
    ),
    "float writers": (changed(writers=np.zeros(12)), "writers must be whole.*float64"),
    "two archives": (two_archives, "must hold one .npz file.*got a.npz, b.npz"),
    "archive and classes": (archive_beside_classes, "one .npz file or class folders"),
    "empty folder": (lambda p: str(p), "one .npz file, or images.*got neither"),
    "empty class": (
        lambda p: [(p / "3").mkdir(), str(p)][1],
        "one .npz file, or images.*got neither",
    ),
    "class 10": (drew("10/a.png", GREY), "10: a class folder.*0 to 9, got '10'"),
    "class 03": (drew("03/a.png", GREY), "03: a class folder.*0 to 9, got '03'"),
    "class cat": (drew("cat/a.png", GREY), "cat: a class folder.*0 to 9, got 'cat'"),
    "beside": (drew("a.png", GREY), "a.png lies beside the class folders"),
    "no image file": (
        wrote("folder/3/a.txt", b"three"),
        "a.txt: a class folder must hold only image files",
    ),
    "folder in class": (
        wrote("folder/3/more.png/a.png", b""),
        "more.png: a class folder must hold only image files",
    ),
    "junk image": (
        wrote("folder/3/a.png", b"junk"),
        "3/a.png cannot be read as an image: cannot identify",
    ),
    "wide image": (
        drew("3/wide.png", Image.new("L", (9, 8))),
        "3/wide.png: an image of digits must be 8x8 pixels, got 9x8",
    ),
    "huge image": (huge_image, "3/huge.png.*must be 8x8 pixels, got 10000x10000"),
    "bright image": (
        drew("3/white.png", Image.new("L", (8, 8), 17)),
        r"3/white.png must have pixels of at most 16 \(digits\), got 17",
    ),
    "16 bits": (
        drew("3/deep.png", Image.new("I;16", (8, 8), 5)),
        "3/deep.png.*8 bits.*I;16",
    ),
    "transparent": (drew("3/clear.png", CLEAR), "3/clear.png.*opaque"),
    "frames": (
        drew(
            "3/film.gif",
            GREY,
            save_all=True,
            append_images=[Image.new("L", (8, 8), 9)],
        ),
        "3/film.gif: a file must be one image, got 2 frames",
    ),
}


@pytest.mark.parametrize(("make", "words"), BAD.values(), ids=BAD.keys())
def test_bad_data_is_refused_in_one_line(
    tmp_path: Path, make: Callable[[Path], str], words: str
):
    with pytest.raises(FedNegError, match=words) as caught:
        reading(make(tmp_path))
    assert len(str(caught.value).splitlines()) == 1


def test_damaged_image_is_named(tmp_path: Path):
    """Its size is readable, its pixels are not."""
    place = cut_image(tmp_path)
    with pytest.raises(FedNegError, match=r"1/001\.png cannot be read as an image"):
        reading(place, "mnist")


@pytest.mark.parametrize(
    ("owner", "name", "place"),
    [(os, "scandir", ""), (os, "open", "mine.npz")],
    ids=["folder", "file"],
)
def test_what_may_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, place: str
):
    """A stand-in for another user's folder or file: root may read them all."""

    def refuse(path: Path, *_: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    changed()(tmp_path)
    monkeypatch.setattr(owner, name, refuse)
    named = re.escape(str(tmp_path / place))
    with pytest.raises(FedNegError, match=f"^{named} cannot be read: Permission"):
        reading(str(tmp_path / place))


def test_data_of_an_unknown_name_is_refused(tmp_path: Path):
    with pytest.raises(FedNegError, match="one of mnist and digits, got letters"):
        reading(str(tmp_path), "letters")


def test_pickles_are_not_executed(tmp_path: Path):
    """Loading this pickle would make a folder."""
    target = tmp_path / "made"

    class Harmful:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(target),)

    objects = np.array([Harmful()] * 12, dtype=object)
    content = io.BytesIO()
    np.savez(content, allow_pickle=True, images=objects, labels=objects)
    (tmp_path / "mine.npz").write_bytes(content.getvalue())
    with pytest.raises(FedNegError, match="got object"):
        reading(str(tmp_path / "mine.npz"))
    assert not target.exists()


@given(st.binary(max_size=60), st.integers(0, 10_000))
def test_no_damage_of_an_archive_escapes_the_one_line(
    tmp_path_factory: pytest.TempPathFactory, junk: bytes, at: int
):
    """Whatever bytes are written over it: good data, or one FedNegError."""
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    content = io.BytesIO()
    np.savez_compressed(content, **some())
    whole = content.getvalue()
    at %= len(whole)
    path.write_bytes(whole[:at] + junk + whole[at + len(junk) :])
    own_data_module._read.cache_clear()
    try:
        said = f"{path}: {len(read_own_images(str(path), DIGITS).labels)} labels"
    except FedNegError as error:
        said = str(error)
    assert said.startswith(str(path))


# -- training on it --------------------------------------------------------------------


@pytest.mark.parametrize("attack", ["none", "backdoor", "label_flip"])
def test_same_images_as_own_data_train_to_the_same_bytes(tmp_path: Path, attack: str):
    """All of a round trip: split, poison, training and measurements."""
    more = () if attack == "none" else (f"attack={attack}", "attack.clients=[1]")
    config = small_config("clients=3", "forget=null", *more)
    built_in = own_bench(config, {})
    places = {k: save(tmp_path / f"{k}.npz", **digits_of(k, config)) for k in (0, 1, 2)}
    own = own_bench(config, places)
    np.testing.assert_array_equal(own.train(2), built_in.train(2))
    found, expected = (
        bench.strategy.evaluate_clients(bench.grid, bench.model)
        for bench in (own, built_in)
    )
    assert found == expected
    assert set(found) == {0, 1, 2}


def test_own_data_is_what_is_trained_on(tmp_path: Path):
    """Fewer images of client 1 give another model: the path is not ignored."""
    config = small_config("clients=2", "forget=null")
    place = save(
        tmp_path / "mine.npz",
        **{k: v[:30] for k, v in digits_of(1, config).items()},
    )
    own, built_in = own_bench(config, {1: place}), own_bench(config, {})
    assert not np.array_equal(own.train(1), built_in.train(1))
    found = own.strategy.evaluate_clients(own.grid, own.model)[1]
    assert [found[f"num_{part}"] for part in ("train", "val", "test")] == [24, 3, 3]


def test_mnist_files_are_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With the built-in data set the same client cannot even be made."""
    monkeypatch.setenv("FEDNEG_DATA", str(tmp_path / "empty"))
    config = small_config("data=mnist", "data.download=false", "forget=null")
    assignment = Assignment.of(config, root=None)
    with pytest.raises(FedNegError, match="MNIST"):
        TrainingClient(0, assignment)
    place = save(tmp_path / "mine.npz", **some(40, MNIST))
    client = TrainingClient(0, assignment, 1, {"data": place})
    start = initial_parameters(784, config.model.hidden, 10, seed=0)
    local, count, _ = client.fit(start, {})
    assert count == 34
    assert not np.array_equal(local[0], start[0])


def test_attackers_poison_a_copy(tmp_path: Path):
    config = small_config("attack=backdoor", "attack.clients=[0]")
    place = save(tmp_path / "mine.npz", **some(36))
    client = TrainingClient(0, Assignment.of(config, root=None), 1, {"data": place})
    own = client.split.train
    before = own.images.copy()
    images, labels = client.training_data().arrays()
    expected = poison(
        before[own.index],
        some(36)["labels"][own.index],
        attack=config.attack,
        draws=rng(config.seed, "poison", 0, 0),
        kind=DIGITS,
    )
    np.testing.assert_array_equal(images, expected[0])
    np.testing.assert_array_equal(labels, expected[1])
    assert (images[:, -3:, -3:] == 16).all((1, 2)).sum() == 15
    np.testing.assert_array_equal(own.images, before)


def test_built_in_data_is_not_copied():
    data = data_of(1, small_config())
    assert data.images is load_dataset("digits").images
    assert data.train is data_of(1, small_config()).train


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (5, "data in the node config must be a path in quotes, .*got 5"),
        (True, "data in the node config must be a path in quotes, .*got True"),
        ("mine.npz", "data must be an absolute path.*got 'mine.npz'"),
        ("/no/such\nfile.npz", "/no/such file.npz cannot be read: No such file"),
    ],
)
def test_a_mistake_reaches_the_server_as_one_readable_line(place: Any, reason: str):
    """Client 1 is left out with the line itself; the others train."""
    bench = own_bench(small_config("clients=2", "forget=null"), {1: place})
    bench.train(1)
    ((_, client_id, said),) = bench.failures()
    assert client_id == 1
    assert re.fullmatch(f"error: {reason}.*", said)  # a dot matches no line break


def test_other_failures_stay_errors_of_their_own(monkeypatch: pytest.MonkeyPatch):
    """Only mistakes are answered in a line; a defect keeps its name and traceback."""

    def broken(*_: Any) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(TrainingClient, "fit", broken)
    bench = own_bench(small_config("clients=2", "forget=null"), {})
    bench.train(1)
    assert {f[2] for f in bench.failures()} == {"error: RuntimeError: a defect"}


def test_a_mistake_is_in_the_nodes_own_log(monkeypatch: pytest.MonkeyPatch):
    """Whoever looks after the node cannot see the server's."""
    said: list[str] = []
    monkeypatch.setattr(
        "fedneg.serving.mistakes.log", lambda level, text, *of: said.append(text % of)
    )
    bench = own_bench(small_config("clients=2", "forget=null"), {1: "mine.npz"})
    bench.train(1)
    (line,) = said
    assert line.startswith("data must be an absolute path")
