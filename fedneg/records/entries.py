"""One line of the audit log: what makes it whole by itself."""

import hashlib
from collections.abc import Mapping
from typing import Any

from fedneg.records.signing import PublicKey, canonical, parse

# What the first entry names as the one before it.
BEGINNING = "0" * 64
FIELDS = ("seq", "time", "event", "facts", "previous", "digest", "signature")
# No line is longer: reading one takes a bounded amount of memory.
MAX_LINE = 1 << 20


def digest_of(entry: Mapping[str, Any]) -> str:
    """Return the sha256 of an entry without its digest and signature, in hex."""
    rest = {k: v for k, v in entry.items() if k not in ("digest", "signature")}
    return hashlib.sha256(canonical(rest)).hexdigest()


def signed(digest: str) -> dict[str, str]:
    """Return what is signed: its key keeps it from passing for a receipt."""
    return {"audit": digest}


def read_entry(line: bytes, public_key: PublicKey) -> tuple[dict[str, Any] | None, str]:
    """Return an entry, or None and what is wrong with the line by itself."""
    if not line.endswith(b"\n"):
        return None, "line too long"
    try:
        entry = parse(line)
        same = canonical(entry) == line[:-1]
    except (ValueError, RecursionError):
        return None, "not JSON"
    if set(entry) != set(FIELDS) or type(entry["seq"]) is not int:
        return None, "not an entry"
    # The bytes, too: what another parser might read differently is no entry of ours.
    if not same or digest_of(entry) != entry["digest"]:
        return None, "changed content: its digest is another"
    if not public_key.verify(signed(entry["digest"]), entry["signature"]):
        return None, f"bad signature: not made by key {public_key.digest}"
    return entry, ""
