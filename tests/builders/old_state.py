"""A state as fedneg wrote it before entries came before their acts (schema 1)."""

import json
from pathlib import Path
from typing import Any

from fedneg.ledger.checkpoint_files import head_bytes
from fedneg.ledger.tensors import sha256_of
from fedneg.records.audit import AuditLog
from fedneg.records.head import HEAD_NAME
from fedneg.records.identity import ID_NAME
from fedneg.records.receipts import read_receipt, signed_receipt
from fedneg.records.state import State

# What the log of schema 1 had of the entries of today.
OLD_EVENTS = {
    "federation made": ("id", "settings"),
    "accepted": ("request", "due"),
    "unlearned": ("clients", "round", "model"),
    "purged": ("clients", "files", "keys", "scanned_files", "scanned_bytes"),
    "receipt": ("request", "sha256"),
    "resumed": ("round", "model"),
    "rollback": ("round",),
    "key listed": ("client", "key"),
    "key removed": ("client",),
}


def make_old(folder: Path, keys: Path | None = None) -> State:
    """Turn a state into one of schema 1, with a log that the same key signed."""
    state = State(folder, keys)
    key = state.operator
    path = folder / "audit.jsonl"
    entries = [json.loads(line) for line in path.read_bytes().splitlines()]
    path.unlink()
    log, digest = AuditLog(path, key), ""
    for entry in entries:
        event, facts = entry["event"], entry["facts"]
        if event == "receipt":  # it names the entry before it
            receipt = folder / "receipts" / f"{facts['request']}.json"
            content = read_receipt(receipt, key.public) | {"audit_entry": digest}
            receipt.write_bytes(signed_receipt(content, key))
            facts = facts | {"sha256": sha256_of(receipt)}
        if event in OLD_EVENTS:
            digest = log.append(event, **{n: facts[n] for n in OLD_EVENTS[event]})[
                "digest"
            ]
    for place in (folder, state.keys):
        (place / ID_NAME).unlink(missing_ok=True)
    (state.keys / HEAD_NAME).unlink()
    change(folder / "federation.json", schema=1)
    for head in (folder / "checkpoints").glob("*.json"):
        content = json.loads(head.read_bytes())
        content.pop("digest")
        content["facts"].pop("model")
        head.write_bytes(head_bytes(content))
    return State(folder, keys)


def change(path: Path, **changes: Any) -> None:
    """Write other values into a JSON file, if it is there."""
    if path.exists():
        path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))
