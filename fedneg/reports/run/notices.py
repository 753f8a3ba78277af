"""What a user must not miss of a run, in sentences."""

from collections.abc import Iterable, Sequence

from fedneg.core.formats import name_clients
from fedneg.evaluation.decision import TOOK_NO_PART
from fedneg.evaluation.judgement import Judgement
from fedneg.strategies.phases import RoundReport


def notices_of_absent(judgement: Judgement, *, changed: bool) -> list[str]:
    """Return a notice of the clients to forget that are in no model, if any are.

    Parameters
    ----------
    judgement : Judgement
        It has seen the original model.
    changed : bool
        Whether the method changed the model.
    """
    absent = judgement.absent
    if not absent:
        return []
    said = f"{name_clients(absent)} {TOOK_NO_PART}"
    if len(absent) < len(judgement.config.forget):
        return [
            f"{said}: nothing of {_them(absent)} is in the model; judged are the others"
        ]
    return [
        f"{said}: nothing of {_them(absent)} is in the model, and there was nothing to "
        "forget" + ("; the method changed the model all the same" if changed else "")
    ]


def _them(clients: Sequence[int]) -> str:
    return "it" if len(clients) == 1 else "them"


def notices_of_empty_rounds(reports: Iterable[RoundReport]) -> list[str]:
    """Return a notice for every round that nobody's reply survived."""
    return [
        f"round {report.server_round} ({report.phase}): no usable reply from any "
        "client; the model stayed as it was"
        for report in reports
        if report.phase != "unlearn" and report.clients == 0
    ]
