"""What a served node answers about a model, from its own data, by its owner's task."""

from dataclasses import replace

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from torch import nn

from fedneg.clients.answering import Answering
from fedneg.core.errors import FedNegError
from fedneg.evaluation.client_answers import ClientAnswers
from fedneg.serving.models import load_model
from fedneg.serving.question import CONFIG, MEASURE, Question
from fedneg.tasks import calls
from fedneg.tasks.device import choose_device
from fedneg.tasks.task import ClientRef, Split, Task


def answer(
    task: Task, message: Message, context: Context, client_id: int | None
) -> Message:
    """Return a node's answer.

    Parameters
    ----------
    client_id : int or None
        What the node's config says; None: it is what the server calls it.

    Raises
    ------
    FedNegError
        If the message holds no question or no model of the task's, or one of the task's
        functions fails.
    """
    question = Question.of(message.content.config_records.get(CONFIG))
    own = question.client_id if client_id is None else client_id
    clients = context.node_config.get("num-partitions", question.clients)
    ref = ClientRef(own, int(str(clients)), dict(context.node_config))
    split = calls.split_of(task, ref)
    records = list(message.content.array_records.values())
    if len(records) != 1:
        raise FedNegError(f"one ArrayRecord is asked about, got {len(records)}")
    try:
        device = choose_device(question.order.device)
    except RuntimeError as error:
        raise FedNegError(str(error)) from None
    model = load_model(task, records[0]).to(device)
    if question.asks == MEASURE:
        found = measured(task, question, split, model)
        return Message(found, reply_to=message)
    said = Answering(
        task,
        own,
        replace(question.order, device=device.type),
        question.order.seed,
        model,
        trained=split.train,
        members=split.train,
        unseen=split.unseen,
    ).answer(
        relearn_target=question.relearn_target,
        relearn_cap=question.relearn_cap,
        check_every=question.check_every,
    )
    found = as_records(said, question.client_id, len(split.train))
    return Message(found, reply_to=message)


def measured(
    task: Task, question: Question, split: Split, model: nn.Module
) -> RecordDict:
    """Return quality and loss of a model on the parts that were asked for."""
    metrics = MetricRecord(
        {"client-id": question.client_id, "num-examples": len(split.train)}
    )
    for part in question.parts:
        if part not in split.measured:
            raise FedNegError(
                f"task {task.name} has no part {part} to measure models on, only "
                f"{', '.join(split.measured)}"
            )
        found = calls.measure(task, model, split.measured[part])
        metrics[f"{part}_accuracy"] = found.accuracy
        metrics[f"{part}_loss"] = found.loss
        metrics[f"num_{part}"] = found.num_examples
        if part == "train":  # the data are as their owner trains on them
            metrics["trained_accuracy"] = found.accuracy
    return RecordDict({"metrics": metrics})


def as_records(found: ClientAnswers, client_id: int, num_examples: int) -> RecordDict:
    """Return a client's answers as they travel; `strategies.questions` reads them.

    Parameters
    ----------
    num_examples : int
        How many the client trains on.
    """
    metrics = MetricRecord(
        {
            "client-id": client_id,
            "num-examples": num_examples,
            "accuracy": found.as_trained_accuracy,
            "loss": found.as_trained_loss,
            "check-loss": found.check_loss,
        }
    )
    if found.relearn is not None:
        metrics[f"relearn-{found.relearn.unit}"] = found.relearn.batches
        metrics["relearn-reached"] = int(found.relearn.reached)
    confidence = {"members": Array(found.members), "unseen": Array(found.unseen)}
    return RecordDict({"metrics": metrics, "confidence": ArrayRecord(confidence)})
