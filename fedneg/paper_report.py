"""The reproduction's figures, table, answers and page, from the measurements alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from fedneg import __version__, outputs, paper
from fedneg.figures import LIGHT, Picture, draw_picture
from fedneg.page import Card, Page, human_seconds, rate
from fedneg.paper import PaperMeasurements
from fedneg.settings import Config

COLOURS = [LIGHT[c] for c in ("recovered", "unlearned", "original", "ink", "muted")]
DASHES = ["-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1))]
FORM_NAMES = {
    "update": "update form, scale 1",
    "parameters": "parameters form, scale = weight",
    "parameters_nearest": "parameters form, scale nearest to the paper",
    "paper": "the paper",
}
Series = tuple[str, Sequence[float], Sequence[float]]


def write_paper_report(
    out: Path, config: Config, found: PaperMeasurements, notices: Sequence[str]
) -> Path:
    """Write table1.csv, the other tables, figures/ and report.html; return the page."""
    for name in ("table1", "scan", "removal", "retraining", "central", "local"):
        outputs.write_csv(out / f"{name}.csv", getattr(found, name))
    outputs.write_csv(out / "history.csv", found.history)
    outputs.write_json(out / "results.json", paper_results(config, found, notices))
    pictures = all_pictures(found)
    (out / "figures").mkdir(exist_ok=True)
    for picture in pictures.values():
        for name, content in picture.files().items():
            outputs.write_bytes(out / "figures" / name, content)
    return _page(config, found, pictures, notices).write(out / "report.html")


def paper_results(
    config: Config, found: PaperMeasurements, notices: Sequence[str]
) -> dict[str, Any]:
    """Return results.json of the experiment: headline numbers and the answers."""
    return {
        "schema": 1,
        "fedneg_version": __version__,
        "experiment": "paper",
        "seed": config.seed,
        "clients": config.clients,
        "rounds": config.rounds,
        "data": {"name": config.data.name, "requested": config.data.requested},
        "central": _last(found.central),
        "federated": _last(found.federated),
        "nearest_scale": [
            {k: None if pd.isna(v) else v for k, v in row.items()}
            for row in found.nearest.to_dict("records")
        ],
        "retrained_attack_success_rate": found.retrained_attack_success,
        "answers": {"1": influence_answer(found), "2": performance_answer(found)},
        "seconds": found.seconds,
        "notices": list(notices),
        "config": config.to_mapping(),
    }


def _last(table: pd.DataFrame) -> dict[str, float]:
    return {str(k): float(v) for k, v in table.iloc[-1].items()}


# -- the answers ---------------------------------------------------------------------


def influence_answer(found: PaperMeasurements) -> list[str]:
    """Answer research question 1 from the backdoor federation, in three sentences.

    To what extent does subtracting local model parameters reduce the influence of the
    associated training data?
    """
    scan = found.scan[found.scan["federation"] == "backdoor"]
    update = scan[scan["form"] == "update"].set_index("scale")
    parameters = scan[scan["form"] == "parameters"].set_index("scale")
    before = float(update.loc[0.0, "attack_success_rate"])
    after = float(update.loc[1.0, "attack_success_rate"])
    weight = _nearest_index(parameters, 1 / (found.scan["client_id"].max() + 1))
    by_weight = float(parameters.loc[weight, "attack_success_rate"])
    standard = (
        ""
        if found.retrained_attack_success is None
        else f" (retrained without it: {found.retrained_attack_success:.3f})"
    )
    first = (
        f"Subtracting the attacker's accumulated updates with scale 1 "
        f"{_change(before, after, 'attack success')}{standard}, "
        f"{_removes(before, after)} its influence."
    )
    second = (
        f"Subtracting its last parameters with a scale of {weight:g}, about its own "
        f"weight, {_change(before, by_weight, 'attack success')}, "
        f"{_removes(before, by_weight)} its influence."
    )
    gone = parameters[parameters["attack_success_rate"] <= max(0.05, 2 * after)]
    if gone.empty:
        third = (
            "No scale of the parameters form up to 1 brings attack success as low as "
            f"{max(0.05, 2 * after):.2f}."
        )
    else:
        scale = float(gone.index.min())
        accuracy = float(parameters.loc[scale, "accuracy"])
        third = (
            f"The parameters form needs a scale of {scale:g} to bring attack success "
            f"down to {float(parameters.loc[scale, 'attack_success_rate']):.3f}, and "
            f"the accuracy is then {accuracy:.3f} against "
            f"{float(update.loc[1.0, 'accuracy']):.3f} with the update form."
        )
    return [first, second, third]


def performance_answer(found: PaperMeasurements) -> list[str]:
    """Answer research question 2 from Table 1, in three sentences.

    What impact does federated unlearning have on the performance of models?
    """
    table = found.table1[found.table1["partition"] == "all"].set_index("form")
    removed = [c for c in table.columns if str(c).startswith("removed_")]
    before = float(table.loc["update", "federated_model"])

    def span(form: str) -> tuple[float, float]:
        values = [float(table.loc[form, c]) for c in removed]
        return min(values), max(values)

    low, high = span("update")
    low_p, high_p = span("parameters")
    low_n, high_n = span("parameters_nearest")
    first = (
        f"Removing one client by its accumulated updates takes the accuracy on all "
        f"test partitions from {before:.3f} to between {low:.3f} and {high:.3f}, "
        f"and by its last parameters with its own weight to between {low_p:.3f} and "
        f"{high_p:.3f}."
    )
    above = [f for f in ("update", "parameters") if span(f)[0] > 0.9]
    second = (
        "The paper's bound of 0.90 holds for "
        + {
            0: "neither form",
            1: f"the {above[0] if above else ''} form only",
            2: "both forms",
        }[len(above)]
    )
    if found.nearest["gap"].notna().all():
        second += (
            f"; with the scales that come nearest to its Table 1 "
            f"({found.nearest['scale'].min():g} to {found.nearest['scale'].max():g}) "
            f"the accuracy is {low_n:.3f} to {high_n:.3f}, where the paper's own "
            f"figures go down to {min(map(min, paper.PAPER_REMOVED)):.2f}"
        )
    end = found.retraining[found.retraining["epoch"] == found.retraining["epoch"].max()]
    start = found.retraining[found.retraining["epoch"] == 0]
    whole = _last(found.federated)["accuracy"]
    update_start = start[start["form"] == "update"]["accuracy"].mean()
    update_end = end[end["form"] == "update"]["accuracy"].mean()
    third = (
        f"After the update form, {int(end['epoch'].max())} epochs on the removed client's "
        "own data "
        f"{_change(update_start, update_end, 'mean test accuracy')}, "
        f"{'still below' if update_end < whole - 0.002 else 'not below'} the "
        f"federated model's {whole:.3f} before any removal."
    )
    return [first, second + ".", third]


def _nearest_index(table: pd.DataFrame, value: float) -> float:
    return float(min(table.index, key=lambda scale: abs(float(scale) - value)))


def _change(before: float, after: float, what: str) -> str:
    if abs(after - before) < 0.002:
        return f"leaves {what} at {after:.3f}"
    verb = "lowers" if after < before else "raises"
    return f"{verb} {what} from {before:.3f} to {after:.3f}"


def _removes(before: float, after: float) -> str:
    """Say how much of an attack is gone, in words that the numbers choose."""
    left = after / before if before else 1.0
    if left <= 0.05:
        return "which removes nearly all of"
    if left <= 0.5:
        return "which removes most of"
    if left <= 0.9:
        return "which removes a part of"
    return "which hardly removes"


# -- the figures ---------------------------------------------------------------------


def all_pictures(found: PaperMeasurements) -> dict[str, Picture]:
    """Return every figure by name."""
    central, federated = found.central, found.federated
    epochs = central["epoch"].tolist()
    trained = federated[federated["epoch"] > 0]
    pictures = [
        _two_panels(
            "fig2_central",
            "Central training: loss and accuracy per epoch, training and test.",
            [
                ("training", epochs, central["train_loss"].tolist()),
                ("test", epochs, central["loss"].tolist()),
            ],
            [
                ("training", epochs, central["train_accuracy"].tolist()),
                ("test", epochs, central["accuracy"].tolist()),
            ],
        ),
        _two_panels(
            "fig3_central_federated",
            "Test loss and accuracy per epoch of the central and the federated model.",
            [
                ("central", epochs, central["loss"].tolist()),
                ("federated", trained["epoch"].tolist(), trained["loss"].tolist()),
            ],
            [
                ("central", epochs, central["accuracy"].tolist()),
                ("federated", trained["epoch"].tolist(), trained["accuracy"].tolist()),
            ],
        ),
        _two_panels(
            "fig4_local_train",
            "Training loss and accuracy of each client's local model per epoch.",
            _by_client(found.local, "train_loss"),
            _by_client(found.local, "train_accuracy"),
        ),
        _two_panels(
            "fig4_local_test",
            "Test loss and accuracy of each client's local model per epoch.",
            _by_client(found.local, "test_loss"),
            _by_client(found.local, "test_accuracy"),
        ),
        _panels(
            "fig5_removal",
            "Test accuracy after removing each client, at each epoch, in three forms.",
            {
                FORM_NAMES[form]: _by_client(
                    found.removal[found.removal["form"] == form], "accuracy"
                )
                for form in paper.FORMS
            },
            "epoch",
            "accuracy after removal",
        ),
        _panels(
            "fig6_7_retraining",
            "Test accuracy while retraining on the removed client's own data.",
            {
                f"after the {FORM_NAMES[form]}": _by_client(
                    found.retraining[found.retraining["form"] == form], "accuracy"
                )
                for form in ("update", "parameters_nearest")
            },
            "epoch of retraining",
            "test accuracy",
        ),
        _scan_picture(found.scan),
    ]
    return {picture.name: picture for picture in pictures}


def _by_client(table: pd.DataFrame, column: str) -> list[Series]:
    return [
        (f"client {k}", rows["epoch"].tolist(), rows[column].tolist())
        for k, rows in table.groupby("client_id")
    ]


def _draw(axes: Axes, series: Sequence[Series], xlabel: str, ylabel: str) -> None:
    for place, (label, x, y) in enumerate(series):
        axes.plot(
            x,
            y,
            color=COLOURS[place % len(COLOURS)],
            linestyle=DASHES[place % len(DASHES)],
            label=label,
        )
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    # Beyond a dozen lines a legend hides what it explains.
    if 1 < len(series) <= 12:
        axes.legend(loc="best")


def _grid(figure: Figure, count: int, narrow: bool) -> list[Axes]:
    shape = (count, 1) if narrow else (1, count)
    return list(figure.subplots(*shape, squeeze=False).ravel())


def _two_panels(
    name: str, alt: str, loss: Sequence[Series], accuracy: Sequence[Series]
) -> Picture:
    def draw(figure: Figure, narrow: bool) -> None:
        left, right = _grid(figure, 2, narrow)
        _draw(left, loss, "epoch", "loss (nats)")
        _draw(right, accuracy, "epoch", "accuracy")

    return draw_picture(name, draw, alt=alt, height_wide=3.0, height_narrow=5.2)


def _panels(
    name: str,
    alt: str,
    panels: Mapping[str, Sequence[Series]],
    xlabel: str,
    ylabel: str,
) -> Picture:
    def draw(figure: Figure, narrow: bool) -> None:
        for axes, (title, series) in zip(
            _grid(figure, len(panels), narrow), panels.items(), strict=True
        ):
            _draw(axes, series, xlabel, ylabel)
            axes.set_title(title, loc="left")

    return draw_picture(
        name, draw, alt=alt, height_wide=3.2, height_narrow=2.7 * len(panels)
    )


def _scan_picture(scan: pd.DataFrame) -> Picture:
    honest = scan[scan["federation"] == "honest"].rename(columns={"scale": "epoch"})
    backdoor = scan[scan["federation"] == "backdoor"]

    def lines(column: str) -> list[Series]:
        return [
            (f"{form} form", rows["scale"].tolist(), rows[column].tolist())
            for form, rows in backdoor.groupby("form")
        ]

    plots: list[tuple[str, str, Callable[[], list[Series]]]] = [
        (
            "honest clients, parameters form",
            "test accuracy",
            lambda: _by_client(honest, "accuracy"),
        ),
        ("attacker removed", "test accuracy", lambda: lines("accuracy")),
        (
            "attacker removed",
            "attack success rate",
            lambda: lines("attack_success_rate"),
        ),
    ]

    def draw(figure: Figure, narrow: bool) -> None:
        for axes, (title, ylabel, series) in zip(
            _grid(figure, 3, narrow), plots, strict=True
        ):
            _draw(axes, series(), "scale of the subtraction", ylabel)
            axes.set_ylim(-0.02, 1.02)
            axes.set_title(title, loc="left")

    return draw_picture(
        "scan_scale",
        draw,
        alt="Accuracy and attack success against the scale of the subtraction.",
        height_wide=3.2,
        height_narrow=8.0,
    )


# -- the page ------------------------------------------------------------------------


def _page(
    config: Config,
    found: PaperMeasurements,
    pictures: Mapping[str, Picture],
    notices: Sequence[str],
) -> Page:
    mnist = config.data.name == "mnist"
    page = Page(
        "Can federated models be rectified through learning negative gradients?",
        f"The paper's tables and figures, measured again: {config.clients} clients, "
        f"{config.rounds} rounds, data {config.data.name}, seed {config.seed}.",
        footer=f"fedneg {__version__}. Every number comes from the CSV files beside "
        "this page.",
    )
    for notice in notices:
        page.notice(notice)
    if not mnist:
        page.notice(
            f"The paper's numbers are for MNIST; this run used {config.data.name}, so "
            "they stand beside ours for orientation only."
        )
    page.cards(_cards(found))
    page.section("The two research questions")
    page.text(
        "To what extent does subtracting local model parameters reduce the influence "
        "of the associated training data? " + " ".join(influence_answer(found))
    )
    page.text(
        "What impact does federated unlearning have on the performance of models? "
        + " ".join(performance_answer(found))
    )
    page.section("Central and federated training (Figs 2 to 4)")
    page.figure(pictures["fig2_central"], "Fig 2. Central training on all clients.")
    page.figure(pictures["fig3_central_federated"], "Fig 3. Central and federated.")
    page.figure(pictures["fig4_local_train"], "Fig 4. Local models, training data.")
    page.figure(pictures["fig4_local_test"], "Fig 4. Local models, own test data.")
    page.section("Table 1: before and after removal")
    headers = {"partition": "test partition", "local_model": "local model"}
    headers["federated_model"] = "federated model"
    formats = dict.fromkeys([c for c in found.table1 if c not in headers], rate)
    for form, rows in found.table1.groupby("form", sort=False):
        table = rows.drop(columns="form")
        headers |= {
            c: f"client {c.removeprefix('removed_')} removed"
            for c in table
            if c.startswith("removed_")
        }
        page.table(
            table,
            caption=f"{FORM_NAMES[str(form)]}: accuracy; 'all' pools the partitions, "
            "each local model on its own",
            formats={c: rate for c in formats if c != "form"}
            | {"local_model": rate, "federated_model": rate},
            headers=headers,
        )
    page.table(
        found.nearest,
        caption="The scale of the parameters form whose column comes nearest to the "
        "paper's, and the mean distance left",
        formats={"scale": lambda v: f"{v:.2f}", "gap": rate},
        headers={"client_id": "client", "gap": "mean gap"},
    )
    page.figure(
        pictures["scan_scale"],
        "The whole scan. Left: honest clients. Then: a federation in which the last "
        "client plants a backdoor, when that client is removed.",
    )
    page.section("Removal at each epoch (Fig 5)")
    page.figure(pictures["fig5_removal"], "Fig 5. One line per removed client.")
    page.section("Retraining on the removed data (Figs 6 and 7)")
    page.figure(
        pictures["fig6_7_retraining"],
        "Figs 6 and 7. Local SGD on the removed client's own data, no FedAvg.",
    )
    page.table(
        _retraining_table(found),
        caption="Before and after retraining, beside the paper's",
        formats=dict.fromkeys(
            ("update_start", "update_end", "nearest_start", "nearest_end"), rate
        )
        | dict.fromkeys(("paper_start", "paper_end"), rate),
        headers={"client_id": "client"},
    )
    page.section("Where ours differs from the paper, and what it leaves unsaid")
    page.bullets(
        [
            "Hidden sizes: not stated; ours are "
            + ", ".join(map(str, config.model.hidden))
            + ".",
            "Scale of the subtraction: not stated; hence the scan and three tables.",
            "Test sets: the text says 1,000 images per client; the figures of its "
            "Table 1 for partitions 1 to 4 are multiples of 1/1800.",
            "Input scaling: not stated; ours standardises the pixels.",
            "Fig 5 and Figs 6, 7: the paper shows one form; we show each.",
            "The backdoor federation is ours: the paper asks about influence and "
            "measures accuracy only.",
        ]
    )
    page.details("Configuration", _flat(asdict(config)))
    return page


def _cards(found: PaperMeasurements) -> list[Card]:
    central, federated = _last(found.central), _last(found.federated)
    return [
        Card(
            "Central, training",
            rate(central["train_accuracy"]),
            f"paper {paper.PAPER_CENTRAL_TRAIN}",
        ),
        Card(
            "Central, test",
            rate(central["accuracy"]),
            f"paper {paper.PAPER_CENTRAL_TEST}",
        ),
        Card(
            "Federated, test",
            rate(federated["accuracy"]),
            f"paper {paper.PAPER_FEDERATED_TEST}",
        ),
        Card(
            "Training time",
            human_seconds(found.seconds["federated"]),
            f"federated; central {human_seconds(found.seconds['central'])}",
        ),
    ]


def _retraining_table(found: PaperMeasurements) -> pd.DataFrame:
    table = found.retraining
    last = table["epoch"].max()
    rows = []
    for k in sorted(table["client_id"].unique()):
        row: dict[str, object] = {"client_id": int(k)}
        for form, name in (("update", "update"), ("parameters_nearest", "nearest")):
            mine = table[(table["client_id"] == k) & (table["form"] == form)]
            mine = mine.set_index("epoch")["accuracy"]
            row[f"{name}_start"], row[f"{name}_end"] = mine[0], mine[last]
        row["paper_start"], row["paper_end"] = paper.PAPER_RETRAINED[int(k)]
        rows.append(row)
    return pd.DataFrame(rows)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def show_paper_summary(
    found: PaperMeasurements, report: str, console: Console | None = None
) -> None:
    """Print Table 1's 'all' rows, the answers, and where the report lies."""
    console = console or Console()
    rows = found.table1[found.table1["partition"] == "all"].drop(columns="partition")
    table = Table(title="Table 1, all partitions (accuracy)", title_justify="left")
    for name in rows:
        table.add_column(str(name).replace("_", " "))
    for row in rows.itertuples(index=False):
        table.add_row(*(v if isinstance(v, str) else f"{v:.4f}" for v in row))
    console.print(table)
    for sentence in influence_answer(found) + performance_answer(found):
        console.print(sentence, highlight=False, markup=False)
    console.print(f"report: {report}", highlight=False, markup=False, soft_wrap=True)
