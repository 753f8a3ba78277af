"""The reproduction's figures, numbered as in the paper."""

from collections.abc import Callable, Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedneg.reports.html.figures import LIGHT, Picture, draw_picture
from fedneg.reports.paper.published import FORMS
from fedneg.reports.paper.state import PaperMeasurements

COLOURS = [LIGHT[c] for c in ("recovered", "unlearned", "original", "ink", "muted")]
DASHES = ["-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1))]
FORM_TITLES = {
    "update": "update form",
    "parameters": "parameters form, weight",
    "parameters_nearest": "parameters, nearest scale",
}
Series = tuple[str, Sequence[float], Sequence[float]]


def all_pictures(found: PaperMeasurements) -> dict[str, Picture]:
    """Return every figure by name."""
    pictures = [
        *_training_pictures(found),
        *_local_pictures(found.local),
        _removal_picture(found.removal),
        _retraining_picture(found.retraining),
        _scan_picture(found.scan),
    ]
    return {picture.name: picture for picture in pictures}


def _training_pictures(found: PaperMeasurements) -> list[Picture]:
    """Return Figs 2 and 3: the central model, and beside it the federated one."""
    central = found.central
    epochs = central["epoch"].tolist()
    # Before epoch 1 there is no central model to compare with.
    trained = found.federated[found.federated["epoch"] > 0]

    def of_central(name: str, column: str) -> Series:
        return name, epochs, central[column].tolist()

    def of_federated(column: str) -> Series:
        return "federated", trained["epoch"].tolist(), trained[column].tolist()

    return [
        _two_panels(
            "fig2_central",
            "Central training: loss and accuracy per epoch, training and test.",
            [of_central("training", "train_loss"), of_central("test", "loss")],
            [of_central("training", "train_accuracy"), of_central("test", "accuracy")],
        ),
        _two_panels(
            "fig3_central_federated",
            "Test loss and accuracy per epoch of the central and the federated model.",
            [of_central("central", "loss"), of_federated("loss")],
            [of_central("central", "accuracy"), of_federated("accuracy")],
        ),
    ]


def _local_pictures(local: pd.DataFrame) -> list[Picture]:
    """Return both halves of Fig 4."""
    return [
        _two_panels(
            f"fig4_local_{part}",
            f"{said} loss and accuracy of each client's local model per epoch.",
            _by_client(local, f"{part}_loss"),
            _by_client(local, f"{part}_accuracy"),
        )
        for part, said in (("train", "Training"), ("test", "Test"))
    ]


def _removal_picture(removal: pd.DataFrame) -> Picture:
    return _panels(
        "fig5_removal",
        "Test accuracy after removing each client, at each epoch, in three forms.",
        {
            FORM_TITLES[form]: _by_client(removal[removal["form"] == form], "accuracy")
            for form in FORMS
        },
        "epoch",
        "accuracy after removal",
    )


def _retraining_picture(retraining: pd.DataFrame) -> Picture:
    return _panels(
        "fig6_7_retraining",
        "Test accuracy while retraining on the removed client's own data.",
        {
            f"after the {FORM_TITLES[form]}": _by_client(
                retraining[retraining["form"] == form], "accuracy"
            )
            for form in ("update", "parameters_nearest")
        },
        "epoch of retraining",
        "test accuracy",
    )


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
