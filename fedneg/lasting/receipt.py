"""What the receipt of a request says: asked, done, measured, purged, and what remains.

It is signed and written in fedneg/records/receipts.py, once the purge is proved.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from fedneg.lasting.remnants import SUM
from fedneg.lasting.work import Work
from fedneg.records.receipts import NOTHING
from fedneg.records.requests import Request

SCHEMA = 1
# Of what a method says of itself: what stands elsewhere in a receipt.
UNTOLD = ("left", "remains_of")
NOT_ERASED = (
    "models that were handed out before: their holders must delete them",
    "copies outside the state folder: backups, and what a SuperLink's database keeps "
    "of deleted messages (fedneg vacuum DATABASE; fedneg scan --state DIR PATH)",
    "what the other clients learned while this client took part",
)


def content_of(
    request: Request,
    work: Work,
    *,
    federation: str,
    done: Mapping[str, Any],
    measured: Mapping[str, Any],
    after: str,
    purged: Mapping[str, Any],
    rechecked: Sequence[Mapping[str, Any]],
    remains: str,
    audit_entry: str,
) -> dict[str, Any]:
    """Return what the receipt of one request says, in the order of a reader.

    Parameters
    ----------
    federation : str
        Its id.
    done, measured : mapping
        As `done_of` and `measured_of` give them.
    after : str
        Digest of the model that is handed over.
    purged : mapping
        What the purge removed, searched and found.
    rechecked : sequence of mapping
        Whether earlier requests still hold.
    remains : str
        What of the contribution the method left in the model, in half a sentence; it
        begins with `NOTHING` where nothing.
    audit_entry : str
        Digest of the log's entry on the purge.
    """
    return {
        "schema": SCHEMA,
        "request": request.id,
        "client": request.client_id,
        "federation": federation,
        "asked": {
            "received": request.received,
            "due": request.due,
            "reason": request.reason,
        },
        "done": dict(done),
        "measured": dict(measured),
        "models": {
            "before": work.before["model"],
            "unlearned": work.unlearned["model"],
            "after": after,
        },
        "purged": {**purged, **_isolable(request.client_id, work, remains)},
        "rechecked": list(rechecked),
        "remains": remains,
        "not_erased": list(NOT_ERASED),
        "audit_entry": audit_entry,
    }


def done_of(
    work: Work, history: Sequence[Mapping[str, Any]], server_round: int
) -> dict[str, Any]:
    """Return what was done for all requests of one work, up to a round."""
    recovery = [
        {
            "server_round": row["server_round"],
            "clients": row["clients"],
            "failures": row["failures"],
        }
        for row in history
        if work.unlearn_round < int(str(row["server_round"])) <= server_round
    ]
    return {
        "completed": datetime.now(UTC).isoformat(timespec="seconds"),
        "method": {k: v for k, v in work.method.items() if k not in UNTOLD},
        "forgotten_together": work.clients,
        "unlearn_round": work.unlearn_round,
        "recovery": work.mode,
        "recovery_rounds": recovery,
    }


def _isolable(client_id: int, work: Work, remains: str) -> dict[str, Any]:
    """Return whether what is left gives the contribution back, and how nearly."""
    left = work.method.get("left")
    if work.mode == "scratch":
        return {"isolable": False}
    if left is None:  # forgotten by a version that did not measure it
        return {"isolable": not remains.startswith(NOTHING)}
    found = {name: left[name] for name in (str(client_id), SUM) if name in left}
    return {
        "isolable": any(entry["isolable"] for entry in found.values()),
        "left": {
            (SUM if name == SUM else "contribution"): {
                k: round(v, 4) for k, v in entry.items() if k != "isolable"
            }
            for name, entry in found.items()
        },
    }
