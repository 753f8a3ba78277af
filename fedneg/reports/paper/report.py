"""The reproduction's table, figures and page, from the measurements alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from fedneg.core import outputs
from fedneg.core.files import write_bytes
from fedneg.core.formats import as_overrides, human_seconds, rate
from fedneg.core.progress import say
from fedneg.core.run_log import LOG
from fedneg.core.settings import Config
from fedneg.core.version import __version__
from fedneg.reports.html.figures import Picture
from fedneg.reports.html.page import Card, Page
from fedneg.reports.paper import published
from fedneg.reports.paper.answers import QUESTIONS, influence_answer, performance_answer
from fedneg.reports.paper.figures import all_pictures
from fedneg.reports.paper.state import PaperMeasurements

FORM_NAMES = {
    "update": "update form, scale 1",
    "parameters": "parameters form, scale = weight",
    "parameters_nearest": "parameters form, scale nearest to the paper",
    "paper": "the paper",
}


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
            write_bytes(out / "figures" / name, content, shared=True)
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


def _page(
    config: Config,
    found: PaperMeasurements,
    pictures: Mapping[str, Picture],
    notices: Sequence[str],
) -> Page:
    page = Page(
        "Can federated models be rectified through learning negative gradients?",
        f"The paper's tables and figures, measured again: {config.clients} clients, "
        f"{config.rounds} rounds, data {config.data.name}, seed {config.seed}.",
        footer=f"fedneg {__version__}. Every number comes from the CSV files beside "
        "this page.",
    )
    for notice in notices:
        page.notice(notice)
    if config.data.name != "mnist":
        page.notice(
            f"The paper's numbers are for MNIST; this run used {config.data.name}, so "
            "they stand beside ours for orientation only."
        )
    page.cards(_cards(found))
    _add_answers(page, found)
    _add_training(page, pictures)
    _add_table1(page, found, pictures)
    _add_removal(page, pictures)
    _add_retraining(page, found, pictures)
    _add_differences(page, config)
    page.details("Configuration", as_overrides(config.to_mapping()))
    return page


def _add_answers(page: Page, found: PaperMeasurements) -> None:
    page.section("The two research questions")
    answers = influence_answer(found), performance_answer(found)
    for question, answer in zip(QUESTIONS, answers, strict=True):
        page.text(question).bullets(answer)


def _add_training(page: Page, pictures: Mapping[str, Picture]) -> None:
    page.section("Central and federated training (Figs 2 to 4)")
    page.figure(pictures["fig2_central"], "Fig 2. Central training on all clients.")
    page.figure(pictures["fig3_central_federated"], "Fig 3. Central and federated.")
    page.figure(pictures["fig4_local_train"], "Fig 4. Local models, training data.")
    page.figure(pictures["fig4_local_test"], "Fig 4. Local models, own test data.")


def _add_table1(
    page: Page, found: PaperMeasurements, pictures: Mapping[str, Picture]
) -> None:
    """Add the table in each form, and the scale that comes nearest to the paper's."""
    page.section("Table 1: before and after removal")
    headers = {
        "partition": "test partition",
        "local_model": "local model",
        "federated_model": "federated model",
    }
    headers |= {
        name: f"client {name.removeprefix('removed_')} removed"
        for name in found.table1
        if name.startswith("removed_")
    }
    for form, rows in found.table1.groupby("form", sort=False):
        page.table(
            rows.drop(columns="form"),
            caption=f"{FORM_NAMES[str(form)]}: accuracy; 'all' pools the partitions, "
            "each local model on its own",
            formats={name: rate for name in headers if name != "partition"},
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


def _add_removal(page: Page, pictures: Mapping[str, Picture]) -> None:
    page.section("Removal at each epoch (Fig 5)")
    page.figure(pictures["fig5_removal"], "Fig 5. One line per removed client.")


def _add_retraining(
    page: Page, found: PaperMeasurements, pictures: Mapping[str, Picture]
) -> None:
    page.section("Retraining on the removed data (Figs 6 and 7)")
    page.figure(
        pictures["fig6_7_retraining"],
        "Figs 6 and 7. Local SGD on the removed client's own data, no FedAvg.",
    )
    table = _retraining_table(found)
    page.table(
        table,
        caption="Before and after retraining, beside the paper's",
        formats={name: rate for name in table if name != "client_id"},
        headers={"client_id": "client"},
    )


def _add_differences(page: Page, config: Config) -> None:
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


def _cards(found: PaperMeasurements) -> list[Card]:
    central, federated = _last(found.central), _last(found.federated)
    return [
        Card(
            "Central, training",
            rate(central["train_accuracy"]),
            f"paper {published.PAPER_CENTRAL_TRAIN}",
        ),
        Card(
            "Central, test",
            rate(central["accuracy"]),
            f"paper {published.PAPER_CENTRAL_TEST}",
        ),
        Card(
            "Federated, test",
            rate(federated["accuracy"]),
            f"paper {published.PAPER_FEDERATED_TEST}",
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
        row["paper_start"], row["paper_end"] = published.PAPER_RETRAINED[int(k)]
        rows.append(row)
    return pd.DataFrame(rows)


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
        LOG.info("%s", sentence)
        console.print(sentence, highlight=False, markup=False)
    say(f"report: {report}", console)
