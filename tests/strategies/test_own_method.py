"""A method of a user's own runs by its name, in every way that it can be named."""

import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from builders.checkout import REPOSITORY
from builders.federations import QUICK, SMALL, Bench, honest, small_config
from builders.lives import ask, go_on, live_on, receipt_of
from builders.programs import Put, Said
from fedneg.config import load_config
from fedneg.core.errors import FedNegError
from fedneg.core.settings import METHODS
from fedneg.reports.conclusions import describe_request
from fedneg.strategies import method_named
from fedneg.strategies.method import ForgettingMethod

EXAMPLES = REPOSITORY / "examples"
NAME = "own_method:Largest"
RUN = (*QUICK, "report=false", "hydra.run.dir=out")
HEAD = """
from dataclasses import dataclass
from typing import Any
from fedneg.strategies.base import LedgerFedAvg
"""
MINE = """
class Mine(LedgerFedAvg):
    def rectify(self, before, client_ids):
        return before
"""
Fedneg = Callable[..., Said]


@pytest.fixture
def example(put: Put, tmp_path: Path) -> Path:
    """Return a folder with the example in it, beside which the command is typed."""
    shutil.copytree(EXAMPLES, tmp_path, dirs_exist_ok=True)
    return tmp_path


def results_in(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def succeeded(said: Said) -> None:
    assert said.code == 0, said.err


def mistake(said: Said) -> str:
    """Return the line of a mistake."""
    assert said.code == 2, said.err
    assert said.err.startswith("fedneg: error: ")
    assert said.err.count("\n") == 1
    return said.err.removeprefix("fedneg: error: ").rstrip()


# -- the example -----------------------------------------------------------------------


def test_the_example_takes_out_what_is_largest(example: Path):
    """Against sorting; a client that never took part leaves the very bytes."""
    sys.path.append(str(example))
    config = small_config(
        "clients=3", "forget=1", f"strategy={NAME}", "strategy.share=0.25"
    )
    initial = [np.zeros((2, 3), np.float32), np.zeros(2, np.float32)]
    bench = Bench(config, initial, {k: honest(k) for k in range(3)})
    before = bench.train(2, [0, 1])
    row = bench.strategy.ledger.contributions[1].copy()
    wanted = before.copy()
    for place in sorted(range(8), key=lambda i: abs(row[i]))[-2:]:
        wanted[place] = before[place] - row[place]
    assert bench.unlearn(2).tobytes() == before.tobytes()
    np.testing.assert_allclose(bench.unlearn(1), wanted, rtol=1e-6)
    assert bench.strategy.method_report["remains"].startswith("the smallest 75%")


def commands() -> list[str]:
    """Return the commands that the example tells people to type."""
    text = (EXAMPLES / "own_method.py").read_text()
    return re.findall(r"^    fedneg (.*)$", text, re.M)


@pytest.mark.parametrize("words", commands())
def test_what_the_example_says_can_be_typed(fedneg: Fedneg, example: Path, words: str):
    assert len(commands()) == 3
    compares = words.startswith("compare")
    one = ["seed=0", "attack=none", "data.partition=writer", "retrain=none"]
    small = [*one, "verdict.relearn_cap=0", "hydra.sweep.dir=out"] if compares else []
    succeeded(fedneg(*shlex.split(words), *RUN, *small))
    if compares:
        table = pd.read_csv(example / "out" / "comparison.csv")
        assert {"negative_gradient", NAME} <= set(table["strategy"])
        return
    results = results_in(example / "out")
    assert results["strategy"] == NAME
    share = 0.25 if "0.25" in words else 0.5
    assert results["config"]["strategy"]["share"] == share
    said = "by subtracting the largest part of what the server stored of it"
    assert said in describe_request(results)


def test_the_readme_and_who_works_on_fedneg_are_told_of_the_example():
    for page in ("README.md", "CONTRIBUTING.md"):
        assert "examples/own_method.py" in (REPOSITORY / page).read_text()
    assert f"strategy={NAME}" in (REPOSITORY / "README.md").read_text()


# -- every way to name it --------------------------------------------------------------


def offer(put: Put, entries: str, package: str = "zzpackage") -> None:
    """Install a package, as far as its metadata go, that offers methods."""
    folder = f"site/{package}-1.dist-info"
    put(f"{folder}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
    put(f"{folder}/entry_points.txt", f"[{METHODS}]\n{entries}\n")
    site = str(Path(put(f"{folder}/RECORD", "")).parents[1])
    if site not in sys.path:
        sys.path.append(site)


def model_of(folder: Path) -> bytes:
    return (folder / "model_unlearned.safetensors").read_bytes()


def test_all_ways_give_the_same_bytes(fedneg: Fedneg, example: Path, put: Put):
    offer(put, f"my-largest = {NAME}")
    yaml = (EXAMPLES / "strategy" / "largest.yaml").read_text()
    put("confs/strategy/fitting.yaml", yaml.replace("0.5", "0.25"))
    ways = {
        "direct": [f"strategy={NAME}", "strategy.share=0.25"],
        "quoted": [f"strategy='{NAME}'", "strategy.share=0.25"],
        "yaml": ["strategy=fitting", "--config-dir", "confs"],
        "path": ["strategy=fitting", "hydra.searchpath=[confs]"],
        "base": ["strategy=base", f"+strategy.name={NAME}", "+strategy.share=0.25"],
        "there": [f"strategy={NAME}", "strategy.share=0.25", "hydra.job.chdir=true"],
        "workers": [f"strategy={NAME}", "strategy.share=0.25", "engine=local"],
        "entry": ["strategy=my-largest", "strategy.share=0.25"],
    }
    for name, words in ways.items():
        more = ["engine.workers=1"] if name == "workers" else []
        out = f"hydra.run.dir={example / name}"
        if name == "entry":  # not where the class lies
            shutil.move(example / "own_method.py", example / "site")
            del sys.modules["own_method"]
        succeeded(fedneg(*RUN, out, *words, *more))
    found = {name: model_of(example / name) for name in ways}
    assert set(found.values()) == {found["direct"]}
    named = {name: results_in(example / name)["strategy"] for name in ways}
    assert named.pop("entry") == "my-largest"
    assert set(named.values()) == {NAME}


@pytest.mark.parametrize(
    "words",
    [
        [f"strategy=negative_gradient,{NAME}"],
        ["strategy=negative_gradient,largest", "--config-dir=."],
        ["strategy=negative_gradient,largest", "hydra.searchpath=[file://{}]"],
    ],
    ids=["direct", "config-dir", "searchpath"],
)
def test_a_sweep_has_it_beside_others(fedneg: Fedneg, example: Path, words: list[str]):
    sweep = ("hydra.sweep.dir=out", "hydra.job.chdir=true")
    given = [word.format(example) for word in words]
    succeeded(fedneg("-m", *QUICK, "report=false", *sweep, *given))
    table = pd.read_csv(example / "out" / "sweep.csv")
    assert table["strategy"].tolist() == ["negative_gradient", NAME]
    assert "largest" in (example / "out" / "comparison.html").read_text().lower()


def test_the_configuration_is_shown_with_its_options(fedneg: Fedneg, example: Path):
    said = fedneg("--cfg", "job", f"strategy={NAME}", "strategy.share=0.1")
    assert said.code == 0
    assert f"name: {NAME}\n" in said.out
    assert "share: 0.1\n" in said.out
    assert "gate: 0.5\n" in said.out


def test_help_names_what_packages_offer(fedneg: Fedneg, put: Put):
    assert "strategy=module:Class" in fedneg("--help").out
    offer(put, "zzmine = zzno:Mine\nretrain = zzno:Mine")
    help_ = fedneg("--help").out
    words = " ".join(help_.split())  # wherever a line ends
    assert "zzmine, module:Class" in words
    assert words.count("retrain, ") == 1
    assert "zzno" not in sys.modules


def test_a_method_of_fednegs_own_is_nobody_elses(put: Put):
    offer(put, "retrain = zzno:Mine")
    config = load_config(["data=digits", "strategy=retrain"])[0]
    assert type(config.strategy.options) is dict
    assert method_named("retrain").__module__ == "fedneg.strategies.retrain"


def test_a_federation_that_lives_on_need_not_be_told_again(
    fedneg: Fedneg, example: Path, monkeypatch: pytest.MonkeyPatch
):
    """Receipts name it and say what it left; from elsewhere the module is missed."""
    words = [o for o in SMALL if not o.startswith("rounds")]
    first = (*words, "clients=3", "rounds=1", "retrain_rounds=1", "strategy.share=1")
    succeeded(fedneg("state=S", f"strategy={NAME}", *first))
    ask(example / "S", 1)
    succeeded(fedneg("state=S"))
    receipt = receipt_of(example / "S", 1)
    assert receipt["done"]["method"]["strategy"] == NAME
    assert receipt["remains"].startswith("nothing of the client's summed updates")
    (example / "elsewhere").mkdir()
    (example / "own_method.py").unlink()
    monkeypatch.chdir("elsewhere")
    del sys.modules["own_method"]
    said = mistake(fedneg("state=../S", "rounds=2"))
    assert said.startswith(f"strategy={NAME}: there is no module own_method among what")
    assert said.endswith(f", nor in {example}, nor in {example / 'elsewhere'}")


def test_under_flwr_run_it_must_be_installed(
    example: Path, monkeypatch: pytest.MonkeyPatch
):
    """There the working folder is that of a SuperLink, and whose it is unknown."""
    monkeypatch.chdir(example)
    words = ["data=digits", f"strategy={NAME}", "strategy.share=0.25"]
    with pytest.raises(FedNegError, match=r"no module own_method among .* installed$"):
        load_config(words)
    monkeypatch.syspath_prepend(example)
    assert load_config(words)[0].strategy.options == {"share": 0.25}
    more = ["strategy=largest", f"hydra.searchpath=[file://{example}]"]
    assert load_config(["data=digits", *more])[0].strategy.options == {"share": 0.5}


def test_receipts_are_in_its_words_while_it_is_there(example: Path):
    sys.path.append(str(example))
    state = example / "state"
    go_on(state, f"strategy={NAME}")
    ask(state, 0)
    live_on(state)
    assert receipt_of(state, 0)["remains"].startswith("the smallest 50% of the client")


# -- what is not imported --------------------------------------------------------------


def test_the_folder_is_on_the_path_only_if_something_is_named_so(
    fedneg: Fedneg, put: Put, tmp_path: Path
):
    put("platformdirs.py", "raise RuntimeError\n")
    put("mine.py", HEAD + MINE)
    succeeded(fedneg(*RUN))
    assert str(tmp_path) not in sys.path
    succeeded(fedneg("--cfg", "job", "strategy=mine:Mine"))
    assert sys.path[-1] == str(tmp_path)


def test_who_only_reads_results_imports_nothing_that_they_name(put: Put):
    """Whoever sends somebody a folder of results does not run code there."""
    path = put("zzmine.py", HEAD + MINE)
    sys.path.append(str(path.parent))
    assert method_named("zzmine:Mine") is ForgettingMethod
    assert "zzmine" not in sys.modules
    load_config(["data=digits", "strategy=zzmine:Mine"])
    assert method_named("zzmine:Mine").__name__ == "Mine"


# -- mistakes --------------------------------------------------------------------------

OPTIONS = f"""{MINE}
    @dataclass(frozen=True)
    class Options:
        {{}}
"""
CHECKED = """width: Any = 1

        def __post_init__(self) -> None:
            if int(self.width) < 0:
                raise {}
"""
MISTAKES = [
    ("mine:", "", "strategy must be of the form module:name, got 'mine:'"),
    ("mine:No", "", "strategy=mine:No: mine ({}/mine.py) has no No"),
    ("mine:x", "x = 3", "strategy=mine:x must be a subclass of "
     "fedneg.strategies.base.LedgerFedAvg, got 3"),
    ("mine:X", "class X: pass", "strategy=mine:X must be a subclass of "
     "fedneg.strategies.base.LedgerFedAvg, got <class 'mine.X'>"),
    ("mine:Mine", "x = 1\nclass Mine(LedgerFedAv): pass", "strategy=mine:Mine: "
     "{}/mine.py, line 6: NameError: name 'LedgerFedAv' is not defined"),
    ("mine:Mine", "class Mine(LedgerFedAvg): pass", "strategy=mine:Mine has no "
     "rectify, which is what forgets"),
    ("mine:Mine", MINE + "    class Options: x = 1",
     "strategy=mine:Mine: its Options must be a dataclass"),
    ("mine:Mine", OPTIONS.format("gate: float = 1"), "strategy=mine:Mine: an option "
     "must not be called gate, which every strategy has"),
    ("mine:Mine", OPTIONS.format("kind: Any = print"), "strategy=mine:Mine: the option "
     "kind must be what a YAML can hold, got <built-in function print>"),
    ("mine:Mine", OPTIONS.format("width: int"), "strategy.width is missing"),
    ("mine:Mine strategy.with=1", OPTIONS.format("width: int"),
     "unknown key strategy.with; did you mean strategy.width?"),
    ("mine:Mine strategy.form=x", OPTIONS.format("width: int"), "strategy.form is no "
     "key here; it belongs to strategy=negative_gradient"),
    ("mine:Mine strategy.width=-1", OPTIONS.format(CHECKED.format("ValueError('no')")),
     "strategy=mine:Mine: no"),
    ("mine:Mine strategy.width=-1", OPTIONS.format(CHECKED.format("ValueError")),
     "strategy=mine:Mine: ValueError"),
    ("mine:Mine strategy.width=x", OPTIONS.format(CHECKED.format("ValueError")),
     "strategy=mine:Mine: invalid literal for int() with base 10: 'x'"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "text", "line"), MISTAKES, ids=[line[:60] for *_, line in MISTAKES]
)
def test_a_mistake_is_one_line_and_exit_code_2(
    fedneg: Fedneg, put: Put, tmp_path: Path,
    words: str, text: str, line: str,
):  # fmt: skip
    """Before anything is trained, in a sweep too; but options are for all its jobs."""
    put("mine.py", HEAD + text + "\n")
    given = [f"strategy={words}"]
    if " " not in words:
        given.append(f"-m strategy=fine_tune,{words}")
    for one in given:
        said = mistake(fedneg(*RUN, *one.split()))
        assert said.startswith(line.format(tmp_path))
    assert not list(tmp_path.rglob("results.json"))


def test_an_option_may_be_a_list_and_may_have_to_be_given(put: Put):
    put("site/mine.py", HEAD + OPTIONS.format("a: Any\n        b: Any = (1, 2)"))
    sys.path.append(str(put("site/x", "").parent))
    words = ["data=digits", "strategy=mine:Mine"]
    config = load_config([*words, "strategy.a=[x]"])[0]
    assert config.strategy.options == {"a": ["x"], "b": [1, 2]}


def test_what_is_no_name_says_how_ones_own_is_named(fedneg: Fedneg, put: Put):
    offer(put, "zzmine = zzno:Mine")
    said = mistake(fedneg(*RUN, "strategy=zzmin"))
    assert "weight_negation, zzmine, or module:Class of your own, got 'zzmin'" in said
    assert said.endswith("did you mean zzmine?")
    said = mistake(fedneg(*RUN, "strategy=zzmine"))
    assert said.startswith("strategy=zzmine (zzno:Mine): there is no module zzno among")


def test_a_comparison_says_which_option_of_hydras_it_takes_instead(fedneg: Fedneg):
    said = mistake(fedneg("compare", "--config-dir=confs"))
    assert said.endswith("got --config-dir; hydra.searchpath=[DIR] is the same")


def test_a_folder_of_configurations_that_is_not_there_is_named(fedneg: Fedneg):
    said = mistake(fedneg(*RUN, "--config-dir", "confs"))
    assert "confs' not found" in said


# -- a training of its own -------------------------------------------------------------


def test_one_that_trains_otherwise_brings_its_code_into_the_trainings_identity(
    put: Put, tmp_path: Path
):
    """It lies in no package, and its trainings must not be taken for FedAvg's."""
    hook = "    def _sample(self, clients, stream):\n        return list(clients)[:1]\n"
    put("zzother.py", HEAD + MINE + hook)
    put("zzplain.py", HEAD + MINE)
    sys.path.append(str(tmp_path))
    for name, has_code in (("zzother", True), ("zzplain", False)):
        config = small_config("clients=2", "forget=1", f"strategy={name}:Mine")
        bench = Bench(config, [np.zeros(2, np.float32)], {})
        assert ("code" in bench.strategy.training_identity()) is has_code
