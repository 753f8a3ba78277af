"""Figures of residual influence: what they show, in words and in drawing."""

from pathlib import Path
from typing import Any

import pytest

from builders.findings import judged_run, verdict
from builders.run_results import said
from fedneg.reports.html.figures import LIGHT
from fedneg.reports.run.influence import MAX_PANELS, draw_influence, draw_later


def texts(svg: bytes) -> str:
    """Return a drawing as text."""
    return svg.decode()


def test_the_axis_shows_every_kind_of_model_with_its_numbers() -> None:
    found = verdict(0.6, chance=0.4)
    picture = draw_influence(found)
    assert picture is not None
    for width in ("wide", "narrow"):
        svg = texts(picture.svg[width])
        for name in ("without it", "with it", "original", "unlearned", "recovered"):
            assert f">{name}<" in svg
        assert LIGHT["band"] in svg
    own = found["influence"]["4"]
    rho, low, high = (f"{100 * own[key]:.0f}" for key in ("rho", "low", "high"))
    assert f"recovered {rho} % ({low} to {high})" in picture.alt
    assert "7 models without it from " in picture.alt
    assert "2 models with it from 99 to 101 %" in picture.alt
    assert picture.alt.startswith("Residual influence in percent. Client 4: ")


def test_each_client_has_a_panel_the_worst_first() -> None:
    picture = draw_influence(verdict({1: 0.0, 3: 0.9}, clients=(1, 3)))
    assert picture is not None
    assert picture.alt.index("Client 3") < picture.alt.index("Client 1")
    svg = texts(picture.svg["wide"])
    assert ">client 3<" in svg
    assert ">client 1<" in svg


def test_only_so_many_clients_are_drawn() -> None:
    clients = tuple(range(MAX_PANELS + 2))
    picture = draw_influence(verdict(clients=clients, outs=3, models=("recovered",)))
    assert picture is not None
    assert picture.alt.count("lient ") == MAX_PANELS  # or of its ordinary examples


def test_what_lies_far_beyond_stands_at_the_edge_with_its_number() -> None:
    """An axis of thousands would show nothing else."""
    found = verdict(-400.0, chance=0.4)
    own = found["influence"]["4"]
    assert own["rho"] < -10
    picture = draw_influence(found)
    assert picture is not None
    assert f"\N{MINUS SIGN}{-100 * own['rho']:.0f} " in texts(picture.svg["wide"])
    assert "1000<" not in texts(picture.svg["wide"])


@pytest.mark.parametrize(
    "changes",
    [
        {"influence": None, "models": None},
        {"influence": {"4": None}, "models": {}},
        {"influence": {"4": {"rho": float("nan"), "low": 0, "high": 1}}, "models": {}},
    ],
)
def test_nothing_is_drawn_of_what_is_not_known(changes: dict[str, Any]) -> None:
    assert draw_influence(verdict() | changes) is None


def test_models_without_the_dots_of_others_are_drawn_all_the_same() -> None:
    found = verdict()
    one = found["influence"]["4"] | {"out": None, "in": [None, float("nan")]}
    picture = draw_influence(found | {"influence": {"4": one}})
    assert picture is not None
    assert "without it" not in picture.alt
    assert "recovered" in picture.alt


def test_later_rounds_are_shown_in_their_order() -> None:
    found = verdict()
    one = {"rho": 0.5, "low": 0.25, "high": 0.75}
    found["later"] = [
        {"rounds_after": 10, "influence": {"4": one}},
        {"rounds_after": 2, "influence": {"4": one | {"rho": 0.3}}},
        {"rounds_after": 50, "influence": {"4": None}},
    ]
    picture = draw_later(found)
    assert picture is not None
    said = "client 4: after 2 30 % (25 to 75); after 10 50 % (25 to 75)."
    assert picture.alt.endswith(said)
    assert ">client 4<" in texts(picture.svg["wide"])


def test_later_rounds_stand_in_a_table_too(tmp_path: Path) -> None:
    found = verdict()
    one = {"rho": 0.5, "low": 0.25, "high": 0.75}
    found["later"] = [
        {"rounds_after": 10, "influence": {"4": one}, "finding": "traces left"},
        {"rounds_after": 2, "influence": {"4": None}, "finding": "cannot tell"},
    ]
    text = said(tmp_path, judged_run(found))
    # By itself within no margin; the finding is of the whole model.
    rows = (
        "2 client 4 \N{EN DASH} cannot tell cannot tell "
        "10 client 4 50 % (25 to 75) cannot tell traces left"
    )
    assert rows in text
    assert (tmp_path / "figures" / "influence_later.svg").is_file()


@pytest.mark.parametrize("later", [None, [], [{"rounds_after": None}], [{}], [3]])
def test_without_later_rounds_there_is_no_figure(later: Any) -> None:
    assert draw_later({"influence": {}, "later": later}) is None
