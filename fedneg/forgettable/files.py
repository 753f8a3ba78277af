"""A ledger of a strategy in somebody's own app, as files in a folder.

``ledger-<digest>.safetensors`` has the arrays; ``ledger.json``, which is written last,
names that file with its sha256, and says whose rows they are.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from safetensors.numpy import save

from fedneg.core.errors import FedNegError
from fedneg.core.files import make_folder, remove, write_bytes
from fedneg.core.machine import cache_root
from fedneg.core.parameters import Vector
from fedneg.core.reading import read_json
from fedneg.forgettable.names import FROZEN, Names, is_numbered
from fedneg.ledger.ledger import Ledger
from fedneg.ledger.strategy import empty_ledger
from fedneg.ledger.tensors import read_tensors, sha256_of, write_tensors

SCHEMA = 1
PARAMETERS = "parameters"


def write_ledger(
    folder: Path,
    ledger: Ledger,
    names: Names,
    parameters: Vector,
    facts: Mapping[str, Any],
) -> Path:
    """Write a ledger and what belongs to it; return the path of ``ledger.json``.

    Raises
    ------
    FedNegError
        If the folder cannot be written; an older ledger in it stays whole.
    """
    arrays = ledger.arrays() | {
        "statistics initial": ledger.statistics.initial,
        # Which the rows add up to but for rounding.
        PARAMETERS: parameters,
    }
    try:
        make_folder(folder)
        new = folder / "ledger.new"
        digest = write_tensors(new, arrays)
        # Under its digest: the file that the JSON there still names stays.
        path = new.replace(folder / f"ledger-{digest[:16]}.safetensors")
        content = {
            "schema": SCHEMA,
            "sha256": digest,
            "file": path.name,
            **shape_of(ledger, names),
            "ledger": ledger.facts(),
            **facts,
        }
        text = json.dumps(content, indent=1) + "\n"
        found = write_bytes(folder / "ledger.json", text.encode())
        for old in folder.glob("ledger-*.safetensors"):
            if old != path:
                remove(old)
    except OSError as error:
        raise FedNegError(f"{folder} cannot be written: {error}") from None
    return found


def shape_of(ledger: Ledger, names: Names) -> dict[str, Any]:
    """Return what `ledger_for` needs to make room for what a ledger holds."""
    return {
        "names": names.to_json(),
        "frozen": names.digest_of_frozen(),
        "shape": list(ledger.contributions.shape),
        "learning_rate": ledger.learning_rate,
        "momentum": ledger.momentum,
        "means": ledger.statistics.means,
        "keep_local": ledger.keep_local,
        "made": ledger.statistics.made is not None,
        "shared": {name: vector.size for name, vector in ledger.shared.items()},
    }


def names_in(facts: Mapping[str, Any], model: Any) -> Names:
    """Return whose arrays `shape_of` told of; `model` has what of them is frozen.

    Raises
    ------
    KeyError, TypeError, ValueError
        If it gave no such facts, or the model has not what was frozen then.
    """
    names = Names.from_json(facts["names"], _frozen_in(model, facts["names"]))
    if names.digest_of_frozen() != facts.get("frozen", names.digest_of_frozen()):
        raise ValueError("what is frozen in the model is not what it was then")
    return names


def ledger_for(facts: Mapping[str, Any], memory_mib: int) -> Ledger:
    """Return a ledger of zeros of a shape that `shape_of` gave.

    Parameters
    ----------
    facts : mapping
    memory_mib : int
        With more of rows they lie on the cache's disk.

    Raises
    ------
    KeyError, TypeError, ValueError
        If it gave no such facts.
    """
    clients, size = facts["shape"]
    layout = Names.from_json(facts["names"], {}).layout
    if (size, facts["means"]) != (layout.size, layout.means):
        raise ValueError(f"its rows have {size} numbers, and its arrays {layout.size}")
    ledger = empty_ledger(
        np.zeros(layout.width, np.float32),
        layout,
        clients=clients,
        server=(facts["learning_rate"], facts["momentum"]),
        keep_local=facts.get("keep_local", False),
        keep_initial=True,
        **beyond(memory_mib),
    )
    if facts.get("made", False):  # older files have the mean of the rows
        ledger.statistics.made = np.zeros_like(ledger.statistics.initial)
    for name, length in facts.get("shared", {}).items():
        ledger.shared[name] = np.zeros(length, np.float32)
    return ledger


def beyond(memory_mib: int) -> dict[str, Any]:
    """Return where a ledger's rows lie once they are more than so much."""
    return {"folder": cache_root() / "scratch", "limit": memory_mib * 2**20}


def model_bytes(record: ArrayRecord) -> bytes:
    """Return the safetensors file of a model: the same arrays give the same bytes."""
    # safetensors ignores strides, so views are copied first.
    return save({name: array.numpy().copy(order="C") for name, array in record.items()})


def read_ledger(
    folder: Path, model: Any, memory_mib: int
) -> tuple[Ledger, Names, Vector, dict[str, Any]]:
    """Return what `write_ledger` wrote, and the facts that it was given.

    Parameters
    ----------
    folder : Path
    model : torch module or None
        Has what is frozen, which is in no file.
    memory_mib : int
        As of `ledger_for`.

    Raises
    ------
    FedNegError
        If a file is missing or damaged, or of another schema; or what is frozen is
        not what it was, or there is no model to take it from.
    """
    try:
        facts = read_json(folder / "ledger.json")
        if facts["schema"] != SCHEMA:
            raise ValueError(
                f"it is of schema {facts['schema']!r}, and this fedneg knows {SCHEMA}"
            )
        path = folder / facts["file"]
        if path.parent != folder:
            raise ValueError(f"it names {facts['file']!r}, which is no file beside it")
        if sha256_of(path) != facts["sha256"]:
            raise ValueError(f"{path.name} is damaged: its sha256 is another one")
        names = names_in(facts, model)
        ledger = ledger_for(facts, memory_mib)
        initial, parameters = ledger.statistics.initial, np.empty_like(ledger.initial)
        arrays = {"statistics initial": initial, PARAMETERS: parameters}
        read_tensors(path, ledger.arrays() | arrays)
        ledger.restore_facts(facts["ledger"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FedNegError(f"the ledger in {folder} cannot be read: {error}") from None
    return ledger, names, parameters, facts


def _frozen_in(model: Any, names: Sequence[Mapping[str, Any]]) -> dict[str, Array]:
    """Return the arrays of a model that nobody trains, by their names in a record."""
    wanted = [str(one["name"]) for one in names if one["kind"] == FROZEN]
    if not wanted:
        return {}
    if model is None:
        raise ValueError(
            f"{wanted[0]} is frozen, and in no file: give model= as before"
        )
    state = model.state_dict()
    order = [str(one["name"]) for one in names]
    known = (
        dict(zip(order, state.values(), strict=False)) if is_numbered(order) else state
    )
    if missing := sorted(set(wanted) - set(known)):
        raise ValueError(f"the model has no {missing[0]}")
    return {name: Array(known[name].detach().cpu().numpy()) for name in wanted}
