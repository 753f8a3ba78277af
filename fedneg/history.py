"""The rounds of a run as rows: what history.csv holds; its columns are a contract."""

from fedneg.strategies.phases import RoundReport
from fedneg.tasks.calls import Metrics

HISTORY_COLUMNS = (
    *("server_round", "phase", "accuracy", "loss", "seconds"),
    *("bytes_up", "bytes_down", "clients", "failures", "failed"),
)


def history_row(
    report: RoundReport, found: Metrics, *, seconds: float
) -> dict[str, object]:
    """Return a round's row of history.csv; accuracy and loss on the server's test set.

    `seconds` is the round without this measuring; bytes count parameters only.
    """
    return {
        "server_round": report.server_round,
        "phase": report.phase,
        "accuracy": found.accuracy,
        "loss": found.loss,
        "seconds": seconds,
        "bytes_up": report.bytes_up,
        "bytes_down": report.bytes_down,
        "clients": report.clients,
        "failures": len(report.failures),
        "failed": " ".join(str(f.client_id) for f in report.failures),
    }
