"""What a run asked and what its numbers say, in sentences chosen by the numbers.

Whether a client was forgotten is not decided here, since accuracy alone cannot show it,
but in `fedneg.evaluation`; where there is a verdict, sentences of another model say so.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from fedneg.core.formats import name_clients, number, rate, signed
from fedneg.evaluation.decision import TOOK_NO_PART
from fedneg.reports.verdict_values import verdict_of
from fedneg.reports.whom import name_forgotten, samples_of
from fedneg.strategies import method_named

METRICS = {
    "test_accuracy": "test accuracy",
    "test_loss": "test loss (nats)",
    "forget_accuracy": "forget accuracy",
    "forget_accuracy_as_trained": "forget accuracy as trained",
    "retain_accuracy": "retain accuracy",
    "attack_success_rate": "attack success rate",
}
SMALL = 0.005  # a change of a rate below this is called none
LARGE = 0.05  # from here on a change is called a fall or a rise without 'slightly'
_THEN = {
    "remaining": "then {n} with the other clients",
    "forgotten": "then {n} of training on the forgotten data again",
    "scratch": "then training from scratch without the forgotten",
}
_THEN_WITH_REST = {
    **_THEN,
    "remaining": "then {n} with the other examples",
    "forgotten": "then {n} of training on these examples again",
    "scratch": "then training from scratch without them",
}


def describe_request(results: Mapping[str, Any]) -> str:
    """Return in one sentence what was asked of the run."""
    forget: list[int] = list(results["forget"])
    total, rounds = results.get("clients"), results.get("rounds")
    trained = f"{count(rounds, 'round')} of training with {count(total, 'client')}"
    if not forget:
        return f"Train only: {trained}, nothing is forgotten."
    samples = samples_of(results)
    whom = "them" if len(forget) > 1 or samples else "it"
    phrase = method_named(results["strategy"]).about.phrase
    how = f"the strategy {results['strategy']}"
    if phrase is not None:
        how = phrase.format(whom=whom)
    attack = results.get("attack") or {}
    poisoned = sorted(set(attack.get("clients") or []) & set(forget))
    kind = attack_name(results).replace("_", " ")
    who = ""
    if kind != "none" and poisoned:
        who = f" ({'; '.join(map(str, poisoned))} poisoned by {kind})"
        if poisoned == sorted(forget) and not samples:
            who = f", poisoned by {kind},"
    sentence = (
        f"Forget {name_forgotten(results)} of {total}{who} after {trained}, "
        f"{'with' if phrase is None else 'by'} {how}"
    )
    then = _THEN_WITH_REST if samples else _THEN
    repair = then.get(str(results.get("retrain", "none")))
    if repair:
        repair = repair.format(n=count(results.get("retrain_rounds"), "round"))
        return f"{sentence}; {repair}."
    return f"{sentence}; no repair afterwards."


def describe_conclusions(results: Mapping[str, Any]) -> list[str]:
    """Return what the metrics say, one statement each, computed from the values."""
    models = results["models"]
    said = list(_describe_utility(models, gaps=not tells_what_was_lost(results)))
    forgotten = _describe_forget_set(models)
    if forgotten:
        said.append(forgotten)
    if any(number(m.get("attack_success_rate")) is not None for m in models.values()):
        said.append(_describe_attack(results))
    if "unlearned" in models and _same(models["original"], models["unlearned"]):
        same = (
            "On every metric here the unlearned model equals the original to within "
            f"{SMALL}"
        )
        overruled_by = (verdict_of(results) or {}).get("finding")
        said.append(
            f"{same}, as it may: {name_clients(results['forget'])} {overruled_by}."
            if overruled_by == TOOK_NO_PART
            else f"{same}: these numbers show no trace of forgetting{_leave(results)}."
        )
    return said or ["No metric was measured in this run."]


def tells_what_was_lost(results: Mapping[str, Any]) -> bool:
    """Return whether the verdict says what was lost against retrained models.

    Then nothing else does: a second gap would be another number for one thing, since
    the verdict has several retrained models, and the tables one.
    """
    return number((verdict_of(results) or {}).get("quality_lost")) is not None


def _describe_utility(models: Mapping[str, Any], *, gaps: bool) -> Iterator[str]:
    """Yield how test accuracy moved from model to model."""
    value = {name: number(m.get("test_accuracy")) for name, m in models.items()}
    original, unlearned = value.get("original"), value.get("unlearned")
    recovered, retrained = value.get("recovered"), value.get("retrained")
    if original is not None and unlearned is not None:
        yield f"Forgetting: test accuracy {_moved(original, unlearned)}."
    elif original is not None:
        yield f"The original model's test accuracy is {rate(original)}."
    if unlearned is not None and recovered is not None:
        yield f"Repair: test accuracy {_moved(unlearned, recovered)}."
    if retrained is not None:
        last = "recovered" if recovered is not None else "unlearned"
        final = value.get(last)
        said = f"Retrained without the forgotten, the model reaches {rate(retrained)}"
        if final is None or not gaps:
            yield f"{said}."
        elif abs(final - retrained) < SMALL:
            yield f"{said}; {last} is level with it (gap {signed(final - retrained)})."
        else:
            side = "above" if final > retrained else "below"
            gap = signed(final - retrained)
            yield f"{said}; {last} is {side} it (gap {gap})."


def _describe_forget_set(models: Mapping[str, Any]) -> str:
    """Return how accuracy on the forgotten clients' data moved, or ''."""
    value = {name: number(m.get("forget_accuracy")) for name, m in models.items()}
    original, unlearned = value.get("original"), value.get("unlearned")
    if original is None or unlearned is None:
        return ""
    moved = _moved(original, unlearned)
    said = f"On the forgotten clients' own data, accuracy {moved}"
    retrained = value.get("retrained")
    if retrained is None:
        return f"{said}. There is no retrained model to compare with."
    return (
        f"{said}; a model that never saw them gets {rate(retrained)}, "
        f"so the gap is {signed(unlearned - retrained)}."
    )


def _describe_attack(results: Mapping[str, Any]) -> str:
    """Return how attack success moved, and whether a collapse explains it."""
    models = results["models"]
    value = {name: number(m.get("attack_success_rate")) for name, m in models.items()}
    known = {name: found for name, found in value.items() if found is not None}
    original, unlearned = known.get("original"), known.get("unlearned")
    if original is None or unlearned is None:
        every = ", ".join(f"{name} {rate(found)}" for name, found in known.items())
        return f"Attack success rate: {every}."
    said = f"Attack success {_moved(original, unlearned, good=False)}"
    for name in ("recovered", "retrained"):
        if name in known:
            verb = "is" if name == "recovered" else "reaches"
            said += f"; {name} {verb} {rate(known[name])}"
    before = number(models["original"].get("test_accuracy"))
    after = number(models["unlearned"].get("test_accuracy"))
    fell = original - unlearned >= SMALL
    if fell and before is not None and after is not None and _collapsed(before, after):
        said += (
            ". The unlearned model has collapsed: one that answers little correctly "
            "fails the attack too, so this fall is no sign of forgetting"
            f"{_leave(results)}"
        )
    return f"{said}."


def _leave(results: Mapping[str, Any]) -> str:
    """Return, where there is a verdict, what it judged: these numbers do not decide."""
    verdict = verdict_of(results)
    if verdict is None:
        return ""
    if verdict.get("model") == "unlearned":
        return " by themselves; the verdict rests on its own tests"
    return f"; the verdict is on the {verdict.get('model')} model"


def attack_name(results: Mapping[str, Any]) -> str:
    """Return the attack's name, 'none' without one."""
    return str((results.get("attack") or {}).get("name") or "none")


def poison_name(results: Mapping[str, Any]) -> str:
    """Return the attack's name; for sybils, of what poisons the images they share."""
    name = attack_name(results)
    return str((results.get("attack") or {})["shared"]) if name == "sybils" else name


def describe_poison(results: Mapping[str, Any]) -> Iterator[str]:
    """Yield who was poisoned, how, and how much of their data."""
    attack, name = results.get("attack") or {}, attack_name(results)
    if name == "none" or not attack.get("clients"):
        return
    who = name_clients(attack["clients"])
    if name == "canaries":
        yield (
            f"Poisoned: {who}, each by {attack.get('canaries')} images of random dots "
            "with random labels among the training examples, to see whether the model "
            "remembers them."
        )
        return
    kind = poison_name(results)
    backdoor = kind in ("backdoor", "model_replacement")
    target = f", towards class {attack.get('target')}" if backdoor else ""
    yield (
        f"Poisoned: {who}, by {name.replace('_', ' ')}{target}, in a fraction of "
        f"{attack.get('fraction')} of the training examples."
    )
    if name == "model_replacement":
        yield f"Their updates were sent {attack.get('boost'):g} times as long."
    if name == "sybils":
        yield (
            f"All of them trained on the images of client {attack['clients'][0]}, "
            f"poisoned by {kind.replace('_', ' ')}."
        )


def _collapsed(before: float, after: float) -> bool:
    """Return whether an accuracy lost more than half of what it was."""
    return after < before / 2


def _moved(before: float, after: float, *, good: bool = True) -> str:
    """Return the verb and both values of a change; only a good rate can collapse."""
    change = after - before
    values = f"from {rate(before)} to {rate(after)}"
    if abs(change) < SMALL:
        return f"hardly changed, {values}"
    if good and _collapsed(before, after):
        return f"collapsed {values}"
    slightly = "slightly " if abs(change) < LARGE else ""
    return f"{'rose' if change > 0 else 'fell'} {slightly}{values}"


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two models agree in every rate that both have, and have one."""
    pairs = [
        (number(one.get(name)), number(other.get(name)))
        for name in METRICS
        if name != "test_loss"
    ]
    gaps = [abs(a - b) for a, b in pairs if a is not None and b is not None]
    return bool(gaps) and max(gaps) < SMALL


def count(number_of: int | None, one: str, many: str = "") -> str:
    """Return a count with its noun."""
    return f"{number_of} {one if number_of == 1 else many or one + 's'}"
