"""The sub-commands: one application, imported late, that says what may be meant."""

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import click
import pytest
import typer

from builders.waiting import PATIENCE_S
from fedneg.cli.application import app, run
from fedneg.cli.commands import COMMANDS, check_first_word, main_help
from fedneg.core.errors import FedNegError
from fedneg.core.exits import CLOSED_PIPE

# What every sub-command takes; their names are part of other people's scripts.
STATE = {"--state", "--keys"}
OPTIONS = {
    "compare": set(),
    "judge": {"--models", "--task", "--rounds-after", "--out"},
    "cache list": set(),
    "cache prune": {"--older-than"},
    "check-data": {"--data", "--task", "--client-id", "--clients", "--node-config"},
    "certificates": {"--clients", "--host", "--days", "--ca-days"},
    "up": {
        *("--clients", "--dir", "--data", "--task", "--node-config", "--insecure"),
        "--timeout",
    },
    "roster list": STATE,
    "roster add": STATE,
    "roster remove": STATE,
    "status": {*STATE, "--json"},
    "request forget": {*STATE, "--reason", "--due", "--now", "--app"},
    "requests": {*STATE, "--json"},
    "rollback": STATE,
    "verify": {"--key"},
    "audit": {"--state", "--key", "--keys", "--head", "--json"},
    "scan": {"--state"},
    "vacuum": set(),
}
SLOW = {"torch", "flwr", "ray", "pandas", "scipy", "sklearn", "matplotlib", "jinja2"}
HEAVY = SLOW | {"hydra", "omegaconf", "numpy"}


def in_new_process(code: str, *words: str) -> str:
    """Return what a program prints last."""
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    return done.stdout.splitlines()[-1]


def command_of(words: Sequence[str]) -> click.Command:
    """Return a sub-command by its words."""
    found = typer.main.get_command(app)
    for word in words:
        assert isinstance(found, click.Group)
        inner = found.get_command(click.Context(found), word)
        assert inner is not None, word
        found = inner
    return found


def lines_of(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return what a sub-command prints."""
    capsys.readouterr()
    run(words)
    return capsys.readouterr().out.splitlines()


# -- help ------------------------------------------------------------------------------


def test_help_fits_a_screen_and_names_every_command():
    lines = main_help().splitlines()
    assert len(lines) <= 45
    assert max(map(len, lines)) <= 88
    text = main_help().replace("|", " ").split()
    assert set(COMMANDS) <= set(text)


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["seed=1", "--help"]])
def test_help_imports_nothing_that_takes_time(words: list[str]):
    """Nor any sub-command."""
    code = (
        "import sys; from fedneg.__main__ import main\n"
        "try: main()\n"
        "finally: print(*sys.modules)"
    )
    loaded = set(in_new_process(code, *words).split())
    assert "fedneg.cli.application" in loaded
    assert not loaded & HEAVY
    assert not loaded & set(COMMANDS.values())


def test_a_command_imports_no_other():
    code = (
        "import sys; from fedneg.cli.application import run; run(sys.argv[1:]); "
        "print(*sys.modules)"
    )
    loaded = set(in_new_process(code, "vacuum", "--help").split())
    assert loaded & set(COMMANDS.values()) == {"fedneg.cli.vacuum"}
    assert not loaded & HEAVY


@pytest.mark.parametrize("words", OPTIONS)
def test_the_help_of_a_command_imports_nothing_that_takes_seconds(words: str):
    """Hydra's part of `compare`, which shows what a YAML file says, takes a tenth."""
    code = (
        "import sys; from fedneg.cli.application import run; run(sys.argv[1:]); "
        "print(*sys.modules)"
    )
    loaded = set(in_new_process(code, *words.split(), "--help").split())
    assert COMMANDS[words.split()[0]] in loaded
    assert not loaded & SLOW
    assert words == "compare" or not loaded & {"hydra", "omegaconf"}


def test_every_command_is_in_its_module_and_none_is_forgotten():
    found = {
        (name, module)
        for module in set(COMMANDS.values())
        for name in typer.main.get_group(import_module(module).app).commands
    }
    assert found == set(COMMANDS.items())
    names = {words.split()[0] for words in OPTIONS}
    assert names == set(COMMANDS)


@pytest.mark.parametrize("words", OPTIONS)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_a_commands_help_has_usage_options_and_an_example(
    words: str, option: str, capsys: pytest.CaptureFixture[str]
):
    lines = lines_of([*words.split(), option], capsys)
    text = "\n".join(lines)
    assert lines[0].startswith(f"Usage: fedneg {words} ")
    assert "Raises" not in text
    assert "\\" not in text
    example = lines[lines.index("Examples:") + 1]
    assert f"{example} ".startswith(f"  fedneg {words} ")
    command = command_of(words.split())
    found = {o for p in command.params for o in p.opts if o.startswith("--")}
    assert found - {"--help"} == OPTIONS[words]
    listed = {line.split()[0] for line in lines if line.startswith("  -")}
    assert listed >= OPTIONS[words]
    for param in command.params:
        if isinstance(param, click.Argument):
            assert getattr(param, "help", "")
            assert param.help in " ".join(text.split())


def test_the_help_of_compare_shows_what_is_swept(capsys: pytest.CaptureFixture[str]):
    """Also what is longer than a line."""
    lines = lines_of(["compare", "--help"], capsys)
    assert "  seed=0,1,2" in lines
    (methods,) = (line for line in lines if line.startswith("  strategy="))
    assert methods.count(",") >= 9


# -- words that mean nothing -----------------------------------------------------------

MISTAKES = [
    ("cache", "fedneg cache: must be followed by list or prune"),
    ("cache lst", "fedneg cache: must be followed by list or prune, got 'lst'; did you "
     "mean list?"),
    ("roster --state x", "fedneg roster: must be followed by list, add or remove, got "
     "'--state'"),
    ("cache prune --older 3", "fedneg cache prune: unknown option --older; did you "
     "mean --older-than?"),
    ("up --insecur", "fedneg up: unknown option --insecur; did you mean --insecure?"),
    ("audit -q", "fedneg audit: unknown option -q"),
    ("check-data x --data mnits", "fedneg check-data: --data must be one of mnist, "
     "digits, got 'mnits'; did you mean mnist?"),
    ("audit --state x --head 7", "fedneg audit: --head must be 64 hexadecimal digits, "
     "got '7'"),
    ("status", "fedneg status: --state is required"),
    ("certificates x --clients 0", "fedneg certificates: --clients must be a whole "
     "number, at least 1, got '0'"),
    ("verify --key x", "fedneg verify: RECEIPT.json is required"),
    ("status --state", "fedneg status: option '--state' requires an argument"),
    ("status --json=1", "fedneg status: option '--json' does not take a value"),
    ("status --state x y", "fedneg status: got unexpected extra argument (y)"),
    ("compare foo", "fedneg compare takes overrides, key=value or key=value,value, or "
     "one folder of runs, got 'foo'"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "line"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_words_that_mean_nothing_are_one_line(words: str, line: str):
    with pytest.raises(FedNegError) as caught:
        run(words.split())
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("stats", "'stats' is neither a command nor key=value; did you mean status?"),
        ("comprae", "'comprae' is neither a command nor key=value; did you mean "
         "compare?"),
        ("xyz", "'xyz' is neither a command nor key=value; fedneg --help shows both"),
    ],
)  # fmt: skip
def test_a_word_that_is_no_command_is_named(word: str, line: str):
    with pytest.raises(FedNegError) as caught:
        check_first_word([word, "seed=0"])
    assert str(caught.value) == line


@pytest.mark.parametrize("word", ["seed=0", "~attack", "+x=1", "-m", "--cfg", "++a=b"])
def test_what_may_be_an_override_is_hydras(word: str):
    check_first_word([word])
    check_first_word([])


# -- who reads has gone ----------------------------------------------------------------


@pytest.mark.parametrize("buffered", ["", "1"])
@pytest.mark.parametrize(
    "words",
    [
        *(["--help"], ["--version"], ["roster", "add", "--help"], ["compare", "-h"]),
        *(["cache", "list"], ["--cfg", "job"], ["--hydra-help"]),
    ],
    ids=" ".join,
)
def test_a_reader_who_has_gone_sees_no_traceback(
    words: list[str], buffered: str, tmp_path: Path
):
    """As after `| head -1`: here the pipe is closed before anything is written."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as gone:
        done = subprocess.run(
            [sys.executable, "-m", "fedneg", *words],
            stdout=gone,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            env=os.environ | {"PYTHONUNBUFFERED": buffered},
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    assert done.stderr == ""
    assert done.returncode == CLOSED_PIPE
