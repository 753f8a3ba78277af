"""Write a run's report: what was asked, what came out, and at what price.

The one job: the results of a run in, one HTML page and its figures out. Every sentence
that interprets is computed from the numbers beside it; whether a client was forgotten
is not decided here but in `fedneg.evaluation`, whose verdict is shown as it came.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from fedneg.core.files import write_bytes
from fedneg.core.formats import (
    as_overrides,
    human_bytes,
    human_seconds,
    human_value,
    number,
    rate,
    signed,
)
from fedneg.core.quality import ACCURACY, columns_told
from fedneg.reports.conclusions import (
    METRICS,
    attack_name,
    count,
    describe_conclusions,
    describe_poison,
    describe_request,
    poison_name,
    tells_what_was_lost,
)
from fedneg.reports.html.figures import MODELS, Picture
from fedneg.reports.html.page import Card, Page
from fedneg.reports.run.costs import add_costs
from fedneg.reports.run.figures import (
    accuracy_over_rounds,
    attack_success,
    client_accuracy,
)
from fedneg.reports.run.measured import add_measured
from fedneg.reports.run.verdict import add_banner, add_evidence
from fedneg.reports.verdict_values import verdict_of
from fedneg.reports.whom import samples_of

EXPLAINED = {
    "original": "Trained with every client; nothing is forgotten yet.",
    "unlearned": "Right after forgetting, before any repair.",
    "recovered": "After the repair that followed forgetting.",
    "retrained": (
        "From the same initial parameters without the forgotten clients: the gold "
        "standard that the others should come close to."
    ),
}
_WITH_REST = {
    "retrained": (
        "From the same initial parameters without the chosen examples: the gold "
        "standard that the others should come close to."
    ),
}
_BACKDOOR = (
    "Share of triggered test inputs of other classes that the model puts in the "
    "attacker's target class. Lower is better."
)
_FLIP = (
    "Share of test inputs that the model puts in the class which the flipped labels "
    "taught. Lower is better."
)
# By `poison_name`.
_ATTACK_MEASURED = {
    "backdoor": _BACKDOOR,
    "model_replacement": _BACKDOOR,
    "label_flip": _FLIP,
}


def write_report(
    out: Path,
    results: Mapping[str, Any],
    history: pd.DataFrame,
    clients: pd.DataFrame,
) -> Path:
    """Write ``report.html`` and ``figures/`` into `out` and return the page's path.

    Parameters
    ----------
    out : Path
        The run's folder; made if absent. Each file appears whole or not at all.
    results : mapping
        ``results.json``; any metric may be null, any model but original absent.
    history : DataFrame
        One row per round: ``server_round phase accuracy loss seconds bytes_up
        bytes_down clients failures``.
    clients : DataFrame
        One row per client and model, as in ``clients.csv``.

    Returns
    -------
    Path
        The page. The same inputs give the same bytes.
    """
    forget: list[int] = list(results["forget"])
    page = Page(
        "Federated unlearning report" if forget else "Federated training report",
        describe_request(results),
        quality=quality_of(results),
        footer=f"fedneg {results.get('fedneg_version', '')}, seed {results['seed']}. "
        "Rates are fractions from 0 to 1. Every number comes from results.json, "
        "history.csv and clients.csv beside this page.",
    )
    for notice in results.get("notices", []):
        page.notice(notice)
    add_banner(page, results)
    page.cards(_cards(results))
    pictures = add_evidence(page, results)
    page.section("What the numbers say").bullets(describe_conclusions(results))
    _add_models(page, results)
    pictures += _add_pictures(page, results, history, clients)
    add_costs(page, results)
    _add_failures(page, results)
    _add_background(page, results, history, clients)
    for picture in pictures:
        for name, content in picture.files().items():
            write_bytes(out / "figures" / name, content, shared=True)
    return page.write(out / "report.html")


def _add_models(page: Page, results: Mapping[str, Any]) -> None:
    """Add the table of the models, and what each of them is."""
    models, headers = results["models"], {"model": "model", **METRICS}
    if results.get("task"):  # whose loss may be of any kind
        headers["test_loss"] = "test loss"
    page.section("The models side by side")
    page.table(
        _models_table(models, gaps=not tells_what_was_lost(results)),
        caption="Server test set, and the forgotten and the retained examples"
        if samples_of(results)
        else "Server test set, and the forgotten and retained clients' own data",
        formats=dict.fromkeys(METRICS, _cell),
        headers=headers,
    )
    explained = EXPLAINED | (_WITH_REST if samples_of(results) else {})
    page.facts({name: explained[name] for name in MODELS if name in models})


def _add_pictures(
    page: Page,
    results: Mapping[str, Any],
    history: pd.DataFrame,
    clients: pd.DataFrame,
) -> list[Picture]:
    """Add the figures for which there is anything to draw, and return them."""
    models: Mapping[str, Mapping[str, Any]] = results["models"]
    quality = quality_of(results)
    rounds = accuracy_over_rounds(history, quality=quality)
    own = clients
    if samples_of(results):  # its test examples are those of the rest
        own = clients[clients["role"] == "retain"]
    by_client = client_accuracy(own, list(results["forget"]), quality=quality)
    attack = attack_success(
        {name: model.get("attack_success_rate") for name, model in models.items()}
    )
    if rounds is not None:
        page.section("Accuracy over rounds").figure(
            rounds,
            "Each round's model on the server test set. Bands mark the phases; dashed "
            "is the reference, which counts its own rounds from the same initial model."
            if "retrained" in models
            else "Each round's model on the server test set. Bands mark the phases.",
        )
    if by_client is not None:
        page.section("Accuracy of each client").figure(
            by_client, "Each client's own test examples, under each of the models."
        )
    if attack is not None:
        page.section("The attack").text(*describe_poison(results))
        page.figure(
            attack, _ATTACK_MEASURED.get(poison_name(results), "Lower is better.")
        )
    return [p for p in (rounds, by_client, attack) if p is not None]


def _cards(results: Mapping[str, Any]) -> Iterator[Card]:
    """Yield the headline numbers, of the last model that forgetting led to."""
    models, cost = results["models"], results.get("cost", {})
    final = next(m for m in ("recovered", "unlearned", "original") if m in models)
    wanted = ("test_accuracy", "forget_accuracy", "attack_success_rate")
    for metric in wanted:
        found = {name: number(models[name].get(metric)) for name in models}
        if found[final] is None:
            continue
        others = [
            f"{name} {rate(found[name])}"
            for name in MODELS
            if name != final and found.get(name) is not None
        ]
        label = METRICS[metric].removesuffix(" rate").capitalize()
        yield Card(f"{label}, {final}", rate(found[final]), " · ".join(others))
    if final == "original":
        yield Card("Time to train", human_seconds(cost.get("train_seconds")))
        return
    note = ""
    if "retrained" in models and number(cost.get("retrain_seconds")):
        note = f"retraining took {human_seconds(cost['retrain_seconds'])}"
    spent = [number(cost.get("unlearn_seconds"))]
    if final == "recovered":
        spent.append(number(cost.get("recover_seconds")))
    total = sum(part for part in spent if part is not None)
    label = "Time to forget" + (" and repair" if final == "recovered" else "")
    yield Card(label, human_seconds(total), note)


def quality_of(results: Mapping[str, Any]) -> str:
    """Return what people read for the quality of a run's models."""
    return str(results.get("quality_name", ACCURACY))


def _cell(value: object) -> str:
    """Return a metric; the rows of gaps bring theirs already written."""
    return value if isinstance(value, str) else rate(value)


def _models_table(
    models: Mapping[str, Mapping[str, Any]], *, gaps: bool
) -> pd.DataFrame:
    """Return a row per model, and with `gaps` per distance from the retrained one."""
    rows: list[dict[str, object]] = [
        {"model": name} | {metric: models[name].get(metric) for metric in METRICS}
        for name in MODELS
        if name in models
    ]
    for name in ("unlearned", "recovered") if gaps else ():
        if name in models and "retrained" in models:
            row: dict[str, object] = {"model": f"gap_to_retrain, {name}"}
            for metric in METRICS:
                a = number(models[name].get(metric))
                b = number(models["retrained"].get(metric))
                row[metric] = signed(None if a is None or b is None else a - b)
            rows.append(row)
    kept = [
        metric
        for metric in METRICS
        if any(number(model.get(metric)) is not None for model in models.values())
    ]
    return pd.DataFrame(rows, dtype=object)[["model", *kept]]


def _add_failures(page: Page, results: Mapping[str, Any]) -> None:
    """Add the replies that failed, if any did."""
    failures = list(results.get("failures") or [])
    if failures:
        page.section("Failures").text(
            f"{count(len(failures), 'reply', 'replies')} failed or "
            f"{'was' if len(failures) == 1 else 'were'} refused."
        )
        page.table(
            pd.DataFrame(failures)[["server_round", "phase", "client_id", "reason"]],
            caption="Each failed reply and its reason",
            headers={"server_round": "round", "client_id": "client"},
        )


def _add_background(
    page: Page,
    results: Mapping[str, Any],
    history: pd.DataFrame,
    clients: pd.DataFrame,
) -> None:
    """Add data, method, configuration and the full tables, closed at first."""
    data: Mapping[str, Any] = results.get("data", {})
    facts: dict[str, object] = {
        "Data": data.get("name"),
        "Data asked for": data.get("requested"),
        "Writers": data.get("writers"),
        "Test examples": data.get("test_examples"),
        "Strategy": results["strategy"],
    }
    for key, value in (results.get("method") or {}).items():
        facts[f"Method, {key}"] = human_value(value)
    attack = results.get("attack") or {}
    if attack_name(results) != "none":
        facts["Attack"] = ", ".join(f"{key} {attack[key]}" for key in attack)
    page.section("Background").facts(facts)
    if verdict_of(results) is None:
        add_measured(page, results)
    times = {"seconds": human_seconds}
    sizes = {"bytes_up": human_bytes, "bytes_down": human_bytes}
    scores = {name: rate for name in ("accuracy", "loss") if name in history}
    page.details(
        "Every round",
        history,
        formats={**scores, **times, **sizes},
        headers=columns_told(history.columns, quality_of(results)),
    )
    scores = {str(c): rate for c in clients if str(c).endswith(("accuracy", "loss"))}
    # Whoever did not answer has a row of dashes.
    clients = clients.astype(object).where(clients.notna(), None)
    # Parts that no client of the task has are no columns.
    clients = clients.dropna(axis="columns", how="all")
    page.details(
        "Every client under every model",
        clients,
        formats=scores,
        headers=columns_told(clients.columns, quality_of(results)),
    )
    page.details("Configuration", as_overrides(results.get("config", {})))
