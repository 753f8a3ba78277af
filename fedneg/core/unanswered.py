"""Questions about a model that a client did not answer, or not as can be believed.

What is missing in a table must be said somewhere: in `failures` and in `notices`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

# As results.json names them.
EVALUATE, ANSWER = "evaluate", "testify"
_ASKED = {EVALUATE: "evaluate", ANSWER: "say what it knows of"}
# So many clients are named in a notice; `failures` has them all.
SHOWN = 5


@dataclass(frozen=True)
class Unanswered:
    """A client without an answer to a question.

    Attributes
    ----------
    question : str
        `EVALUATE` or `ANSWER`.
    model : str
        Which model it was about, as people call it.
    server_round : int
        The last round before the question.
    client_id : int
    reason : str
    """

    question: str
    model: str
    server_round: int
    client_id: int
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Return its entry among the failures of results.json."""
        return {
            "server_round": self.server_round,
            "phase": self.question,
            "client_id": self.client_id,
            "reason": f"{self.model}: {self.reason}",
        }


def notices_of(unanswered: Sequence[Unanswered]) -> list[str]:
    """Return a line for each question that clients did not answer: who, and why."""
    return [
        describe(question, model, {u.client_id: u.reason for u in found})
        for (question, model), found in groupby(
            unanswered, key=lambda u: (u.question, u.model)
        )
    ]


def describe(question: str, model: str, reasons: Mapping[int, str]) -> str:
    """Return who did not answer a question, and why, in one line."""
    named = [f"client {k} ({why})" for k, why in list(reasons.items())[:SHOWN]]
    if len(reasons) > SHOWN:
        named.append(f"and {len(reasons) - SHOWN} more")
    return f"no answer when asked to {_ASKED[question]} {model}: {', '.join(named)}"
