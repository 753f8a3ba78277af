"""What the federation is, its model in service and its keys, held to the log."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from fedneg.ledger.checkpoint import Checkpoints
from fedneg.ledger.tensors import sha256_of
from fedneg.records.account import MADE, MIGRATED, Account
from fedneg.records.agreement.difference import Difference
from fedneg.records.facts import SCHEMA, read_facts, write_facts
from fedneg.records.identity import disagreement, read_id
from fedneg.records.keyring import missing_keys, older_than


def of_ids(folder: Path, keys: Path | None, account: Account) -> Iterator[Difference]:
    """Yield how the ids of state, keys and log contradict each other."""
    keys = folder if keys is None else keys
    if not account.entries:
        yield Difference(f"{account.path} is empty", is_of_log=True)
    elif account.is_old and (read_id(folder) or read_id(keys)):
        yield Difference(
            f"{account.path} is an older log than that of federation "
            f"{read_id(folder) or read_id(keys)}; restore the newer one",
            is_of_log=True,
        )
    elif not account.is_old:
        contradiction = disagreement(folder, keys, account.federation)
        if contradiction:
            yield Difference(contradiction, is_of_log=True)


def of_keys(keys: Path | None, account: Account) -> Iterator[Difference]:
    """Yield how the log is older than what the keys know."""
    if keys is not None and account.entries:
        said = older_than(keys, account)
        if said:
            yield Difference(said, is_of_log=True)


def of_sealing(
    keys: Path | None, checkpoints: Checkpoints, account: Account
) -> Iterator[Difference]:
    """Yield the keys that are missing, and without which no run can go on."""
    if keys is not None:
        for text in missing_keys(keys, checkpoints, account):
            yield Difference(text)


def of_facts(path: Path, account: Account) -> Iterator[Difference]:
    """Yield how ``federation.json`` differs from what the log says was made.

    Raises
    ------
    FedNegError
        If the file cannot be understood.
    """
    found = read_facts(path)
    if found is None:
        # Nothing came after: the next run makes it, and no request hangs on it.
        made_last = account.is_newest(MADE) and not account.requests
        if account.settings is not None and not made_last:
            yield Difference(
                f"{path} is missing, and the audit log says that the federation was "
                "made; restore it"
            )
        return
    schema, facts = found
    if facts.id != account.federation:
        yield Difference(
            f"{path} is of federation {facts.id!r:.60}, and the audit log of "
            f"{account.federation}"
        )
    elif account.settings is None:
        yield Difference(f"{path} has no entry in the audit log")
    elif facts.fixed != account.settings:
        yield Difference(f"{path} has other settings than the audit log")
    told = asdict(facts)
    for name, value in account.made.items():
        if told[name] != value:
            yield Difference(
                f"{path} says {name}={told[name]!r:.80}, and the audit log "
                f"{value!r:.80}; restore it"
            )
    if schema != SCHEMA:
        if account.is_newest(MIGRATED):
            yield Difference(
                f"{path} is made to say that it is of schema {SCHEMA}",
                lambda: write_facts(path, facts),
            )
        else:
            yield Difference(
                f"{path} is of schema {schema}, and its log has entries of schema "
                f"{SCHEMA}; restore the file"
            )


def of_model(path: Path, account: Account) -> Iterator[Difference]:
    """Yield how the model in service is not the one that the log names.

    A run makes it again from its checkpoint.
    """
    served = account.served
    if served is None:
        return
    says = f"the audit log says that the model of round {served.round} is in service"
    try:
        if sha256_of(path) == served.sha256:
            return
        text = f"{path} is another model, and {says}"
    except FileNotFoundError:
        text = f"{path} is missing, and {says}"
    except OSError as error:
        text = f"{path} cannot be read ({error.strerror}), and {says}"
    yield Difference(text, _by_a_run if account.is_serving else None)


def _by_a_run() -> None:
    """Do nothing: only a run can make a model."""
