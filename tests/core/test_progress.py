"""What a person sees, with and without a terminal."""

import io
import logging
from pathlib import Path

import pytest
from rich.console import Console

from fedneg.core.errors import FedNegError
from fedneg.core.progress import Progress, show_notice
from fedneg.core.run_log import LOG, log_into


def test_without_a_terminal_there_is_a_line_per_round_and_failure():
    console = Console(file=io.StringIO(), width=60)
    with Progress("title", 2, console) as progress:
        progress.round(
            "train", 1, 2, accuracy=0.5, loss=1.25, failures=["client 3 [x]"]
        )
        progress.round("train", 2, 2, accuracy=0.75, loss=0.5)
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "title"
    assert lines[1].startswith("  train 1/2  accuracy 0.5000  loss 1.2500  about 0:0")
    assert lines[2:] == [
        "    client 3 [x]",
        "  train 2/2  accuracy 0.7500  loss 0.5000",
    ]


def test_on_a_terminal_there_is_a_table_with_the_last_round_of_each_phase():
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None)
    with Progress("title", 3, console) as progress:
        for number in (1, 2):
            progress.round("train", number, 2, accuracy=0.5, loss=1.0)
        progress.round("unlearn", 1, 1, accuracy=0.25, loss=2.0, failures=["client 3"])
        shown = [row[:2] for row in progress.rows]
    assert shown == [("train", "2/2"), ("unlearn", "1/1")]
    assert "client 3" in console.file.getvalue()


def test_a_notice_is_shown_as_it_is():
    console = Console(file=io.StringIO(), width=60)
    show_notice("[bold]digits[/bold] are used", console)
    assert "[bold]digits[/bold] are used" in console.file.getvalue()
    assert "NOTICE" in console.file.getvalue()


def test_a_hostile_text_is_one_line_of_the_log_without_escape_codes(tmp_path: Path):
    """A reason that a client gave must not look like a line of ours."""
    with log_into(tmp_path):
        LOG.warning("%s", "client 3: \x1b[31mred\n[now][fedneg][INFO] - forgotten")
    (line,) = (tmp_path / "fedneg.log").read_text().splitlines()
    assert line.endswith(
        "[fedneg][WARNING] - client 3: ?[31mred [now][fedneg][INFO] - forgotten"
    )


def test_a_log_has_flowers_warnings_and_what_ended_the_run(tmp_path: Path):

    def run() -> None:
        with log_into(tmp_path):
            logging.getLogger("flwr").warning("a node left")
            raise FedNegError("out of nodes")

    with pytest.raises(FedNegError):
        run()
    logging.getLogger("flwr").warning("afterwards")
    LOG.error("afterwards")
    first, second = (tmp_path / "fedneg.log").read_text().splitlines()
    assert first.endswith("[flwr][WARNING] - a node left")
    assert second.endswith("[fedneg][ERROR] - out of nodes")
