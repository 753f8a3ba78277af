"""Receipts: what became of a request to be forgotten, signed by the operator.

A receipt is a JSON file, ``{"receipt": content, "signature": ..., "key": ...}``, where
``key`` is the digest of the public key that checks it. The signature is over the
content, however the file is laid out.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedneg.core.errors import FedNegError
from fedneg.core.files import write_bytes
from fedneg.core.reading import read_regular
from fedneg.ledger.tensors import sync_folder
from fedneg.records.signing import OperatorKey, PublicKey, parse

# How what a receipt says `remains` begins, where nothing does.
NOTHING = "nothing"


def signed_receipt(content: Mapping[str, Any], key: OperatorKey) -> bytes:
    """Return the file of a receipt: content and its signature.

    Raises
    ------
    ValueError, TypeError
        If the content is not JSON.
    """
    # Through JSON first: what is signed is what a reader finds, in the order given.
    receipt = json.loads(json.dumps(content, allow_nan=False))
    made = {
        "receipt": receipt,
        "signature": key.sign(_signed(receipt)),
        "key": key.public.digest,
    }
    text = json.dumps(made, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode()


def write_receipt(path: Path, receipt: bytes) -> None:
    """Write what `signed_receipt` returned, whole or not at all.

    Raises
    ------
    FedNegError
        If it cannot be written; a file that was there is as it was.
    """
    try:
        write_bytes(path, receipt)
        sync_folder(path.parent)
    except OSError as error:
        raise FedNegError(
            f"the receipt {path} cannot be written: {error.strerror}"
        ) from None


def read_receipt(path: Path, public: PublicKey) -> dict[str, Any]:
    """Return what a receipt says, after checking who says so.

    Raises
    ------
    FedNegError
        If the file cannot be read, is no receipt, is signed with another key, or is not
        as it was signed.
    """
    try:
        found = parse(read_regular(path))
    except OSError as error:
        raise FedNegError(
            f"the receipt {path} cannot be read: {error.strerror}"
        ) from None
    except ValueError as error:
        raise FedNegError(f"{path} is not a receipt: {_one_line(error)}") from None
    receipt = found.get("receipt")
    if set(found) != {"receipt", "signature", "key"} or not isinstance(receipt, dict):
        raise FedNegError(
            f"{path} is not a receipt: it must have a receipt, a signature and a key, "
            "and nothing else"
        )
    # Only a hint about what went wrong: the key's digest itself is not signed.
    if found["key"] != public.digest:
        raise FedNegError(
            f"{path} is signed with key {found['key']!r:.80}, and the key given is "
            f"{public.digest}"
        )
    if not public.verify(_signed(receipt), found["signature"]):
        raise FedNegError(
            f"{path} was altered: its signature is not that of key "
            f"{public.digest} over what it says"
        )
    return receipt


def _signed(receipt: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is signed: its key keeps it from passing for an entry of the log."""
    return {"receipt": receipt}


def _one_line(error: ValueError) -> str:
    return " ".join(str(error).split())


def isolation_in_words(receipt: Mapping[str, Any]) -> str:
    """Return what a receipt says of arithmetic on what was left; "" if nothing."""
    purged = receipt.get("purged")
    isolable = purged.get("isolable") if isinstance(purged, Mapping) else None
    if isolable is True:
        return (
            "what is left still gives the contribution back, or a part of it: the "
            "model, minus the initial parameters that the seed gives and the others' "
            "rows, is what the method left of it"
        )
    if isolable is False:
        return (
            "what is left does not give the contribution back: the model is what the "
            "others' rows and the initial parameters make it, or holds nothing of it"
        )
    return ""
