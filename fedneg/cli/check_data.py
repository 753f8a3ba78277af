"""`fedneg check-data`: look at a client's own data as its ClientApp will."""

import json
import shlex
from pathlib import Path
from typing import Annotated

import click
import typer

from fedneg.cli.parsing import Command, application, one_of, whole_number
from fedneg.core.data_settings import DATA
from fedneg.core.errors import FedNegError
from fedneg.core.named import is_named

app = application()
EXAMPLES = """fedneg check-data mine.npz --data digits
fedneg check-data --task mine:task --client-id 0 --clients 3"""
OF_A_TASK = ("--client-id", "--clients", "--node-config")


@app.command("check-data", cls=Command, epilog=EXAMPLES)
def check_data(
    path: Annotated[
        str | None,
        typer.Argument(
            metavar="PATH", help="A .npz file, or a folder of image folders."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            parser=one_of(DATA),
            metavar="|".join(DATA),
            help=f"The run's data set, which the images must be like: {DATA[0]}.",
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="module:name",
            help="In place of PATH: a task, which finds the client's data itself.",
        ),
    ] = None,
    client_id: Annotated[
        int | None,
        typer.Option(
            parser=whole_number(least=0), metavar="N", help="Which client is meant."
        ),
    ] = None,
    clients: Annotated[
        int | None,
        typer.Option(
            parser=whole_number(least=1), metavar="K", help="Of how many clients."
        ),
    ] = None,
    node_config: Annotated[
        str,
        typer.Option(
            metavar="TEXT", help="What its SuperNode is started with: 'key=value ..'."
        ),
    ] = "",
) -> None:
    """Check the data that a client keeps on its own machine, and describe it.

    A task's functions are called as the client will call them; nothing is trained.

    Raises
    ------
    FedNegError
        In one line, what is wrong with the data, or with which function of the task.
    """
    if task is None:
        _refuse(OF_A_TASK, (client_id, clients, node_config), "is for --task")
        if path is None:
            raise _mistake("needs PATH or --task module:name")
        _of_images(path, data or DATA[0])
        return
    _refuse(("a path", "--data"), (path, data), "is not for --task")
    if not is_named(task):
        raise _mistake(f"--task must be of the form module:name, got {task!r}")
    _of_task(task, client_id, clients, node_config)


def _mistake(text: str) -> click.UsageError:
    """Return an error that begins with the name of this command."""
    return click.UsageError(text, click.get_current_context())


def _refuse(names: tuple[str, ...], values: tuple[object, ...], why: str) -> None:
    """Refuse the first of these words that was given."""
    for name, value in zip(names, values, strict=True):
        if value not in (None, ""):
            raise _mistake(f"{name} {why}, got {value!r}")


def _of_images(path: str, data: str) -> None:
    """Describe images of the built-in task."""
    from fedneg.data.description import describe_own_data  # imports torch

    # Here, unlike in a node config, a relative path has a meaning.
    place = str(Path(path).absolute())
    for line in describe_own_data(place, data):
        print(line)
    print(f"node config: client-id=N data={json.dumps(place, ensure_ascii=False)}")


def _of_task(name: str, client_id: int | None, clients: int | None, text: str) -> None:
    """Describe what a task gives a client."""
    config = _node_config(text, client_id)
    number = config["client-id"]
    if clients is None:
        raise _mistake("--clients is required with --task")
    if not isinstance(number, int) or not 0 <= number < clients:
        raise _mistake(
            f"--client-id must be 0 to {clients - 1}, with --clients {clients}, got "
            f"{number!r}"
        )
    from fedneg.tasks.description import describe_client  # imports torch
    from fedneg.tasks.lookup import own_task
    from fedneg.tasks.task import ClientRef

    found = own_task(name, folder=Path.cwd())
    for line in describe_client(found, ClientRef(number, clients, config)):
        print(line)
    said = (f"{key}={json.dumps(v, ensure_ascii=False)}" for key, v in config.items())
    print(f"node config: {' '.join(said)}")


def _node_config(
    text: str, client_id: int | None
) -> dict[str, bool | int | float | str]:
    """Return what the client's node will have, with its client id."""
    from fedneg.flower_internals import node_config_of  # imports Flower

    try:
        # Flower passes over what is no key=value.
        lost = [word for word in shlex.split(text) if "=" not in word]
        if lost and not text.endswith(".toml"):
            raise FedNegError(f"--node-config must be key=value, got {lost[0]!r}")
        config = node_config_of(text)
    except (click.ClickException, ValueError, OSError) as error:
        raise FedNegError(
            "--node-config must be as flower-supernode has it, texts in quotes, as in "
            f"'site=3 data=\"/srv/data\"', got {text!r}"
        ) from error
    own = config.pop("client-id", config.pop("partition-id", client_id))
    if own is None:
        raise _mistake("--client-id is required with --task")
    if client_id not in (None, own):
        raise FedNegError(
            f"--client-id must be that of --node-config, got {client_id} and {own}"
        )
    return {"client-id": own, **config}
