"""What forgetting costs: rounds, work, bytes, and who must be there for it.

Rows are those of history.csv. A speed-up is only fair at *equal* test accuracy, and
beside fine-tuning: to be faster than retraining is easy, and a method that is slower
than doing nothing but training on is no gain.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fedneg.core.checks import whole

Row = Mapping[str, Any]
# What a curve can be drawn over.
COSTS = ("rounds", "client_epochs", "bytes_up", "bytes_down", "seconds")


@dataclass(frozen=True)
class Cost:
    """What some rounds took.

    `rounds` with clients in them (forgetting on the server alone takes none),
    `client_epochs` passes of one client over its own data (as many for whoever is asked
    in a round: an ascent's own steps are not counted), bytes of parameters only,
    `seconds` of wall time, `online` the client ids that had to be reachable.
    """

    rounds: int
    client_epochs: int
    bytes_up: int
    bytes_down: int
    seconds: float
    online: tuple[int, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return plain values."""
        return asdict(self) | {"online": list(self.online)}


def _of_row(row: Row, local_epochs: int) -> Cost:
    """Return the cost of one round; clients that failed gave no work that counts."""
    clients = int(row["clients"])
    return Cost(
        rounds=int(clients > 0),
        client_epochs=clients * local_epochs,
        bytes_up=int(row["bytes_up"]),
        bytes_down=int(row["bytes_down"]),
        seconds=float(row["seconds"]),
    )


def cost_of(
    rows: Sequence[Row],
    *,
    local_epochs: int,
    participants: Mapping[str, Sequence[int]] | None = None,
) -> Cost:
    """Return what rounds took together.

    Parameters
    ----------
    rows : sequence
        Rows of history.csv, of one phase or several.
    local_epochs : int
        Epochs of a client in a round, at least 1.
    participants : mapping, optional
        From a phase to the client ids that it asks. Those of phases with work in
        `rows` are `online`; the history itself counts clients and names none.

    Raises
    ------
    FedNegError
        If `local_epochs` is no whole number of at least 1.
    """
    whole("local_epochs", local_epochs, minimum=1)
    costs = [_of_row(row, local_epochs) for row in rows]
    working = {str(row["phase"]) for row in rows if int(row["clients"]) > 0}
    asked = participants or {}
    online = {k for phase in working for k in asked.get(phase, ())}
    return Cost(
        rounds=sum(c.rounds for c in costs),
        client_epochs=sum(c.client_epochs for c in costs),
        bytes_up=sum(c.bytes_up for c in costs),
        bytes_down=sum(c.bytes_down for c in costs),
        seconds=sum(c.seconds for c in costs),
        online=tuple(sorted(online)),
    )


@dataclass(frozen=True)
class Curve:
    """Test accuracy by what was spent: `points` of (cost, accuracy), in order."""

    points: tuple[tuple[float, float], ...]

    @property
    def best(self) -> float:
        """The highest accuracy that was reached."""
        return max(accuracy for _, accuracy in self.points)

    def cost_to(self, accuracy: float) -> float | None:
        """Return the cost at which `accuracy` was first reached; None if never."""
        return next((cost for cost, a in self.points if a >= accuracy), None)


def curve_of(
    rows: Sequence[Row],
    *,
    local_epochs: int,
    cost: str = "client_epochs",
    start_accuracy: float | None = None,
) -> Curve:
    """Return the curve of rounds in their order.

    Parameters
    ----------
    rows : sequence
        Rows of history.csv. Rows without an accuracy cost, and give no point.
    local_epochs : int
        As `cost_of`.
    cost : str
        One of `COSTS`.
    start_accuracy : float, optional
        Of the model before the first row, at cost 0: the original's for fine-tuning.
        Retraining starts from an untrained model and may leave it out.

    Raises
    ------
    ValueError
        If `cost` is unknown, or there is no point.
    FedNegError
        As `cost_of`.
    """
    if cost not in COSTS:
        raise ValueError(f"cost must be one of {', '.join(COSTS)}, got {cost!r}")
    whole("local_epochs", local_epochs, minimum=1)
    points = [] if start_accuracy is None else [(0.0, start_accuracy)]
    spent = 0.0
    for row in rows:
        spent += float(getattr(_of_row(row, local_epochs), cost))
        if row["accuracy"] is not None:
            points.append((spent, float(row["accuracy"])))
    if not points:
        raise ValueError("a curve needs at least 1 row with an accuracy, got none")
    return Curve(tuple(points))


@dataclass(frozen=True)
class SpeedUp:
    """Two costs of one accuracy; `ratio` is reference / method, above 1 a gain.

    None where an accuracy was not reached, or the method reached it at no cost, which
    is faster than any number says.
    """

    accuracy: float
    method: float | None
    reference: float | None
    ratio: float | None


def speed_up(
    method: Curve, reference: Curve, *, accuracy: float | None = None
) -> SpeedUp:
    """Return how much cheaper a method is than a reference at equal test accuracy.

    Parameters
    ----------
    method, reference : Curve
        Over the same kind of cost; the reference is `retrain` or `fine_tune`.
    accuracy : float, optional
        A fraction. If not given: the highest that both reach.
    """
    if accuracy is None:
        accuracy = min(method.best, reference.best)
    ours, theirs = method.cost_to(accuracy), reference.cost_to(accuracy)
    ratio = None if ours is None or theirs is None or ours == 0 else theirs / ours
    return SpeedUp(accuracy, ours, theirs, ratio)
