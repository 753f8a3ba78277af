"""The references of a verdict, trained look by look, as far as they are needed."""

from collections.abc import Collection, Mapping

from fedneg.core.parameters import Vector
from fedneg.core.seeding import rng
from fedneg.evaluation.evidence import ModelEvidence
from fedneg.evaluation.judgement import Judgement
from fedneg.evaluation.looks import Look
from fedneg.federation.federation import Federation
from fedneg.federation.references import rounds_beyond

# Which other seeds models with the clients have, and those of a bank: none that one
# without them has.
WITH_DRAWS = 500
BANK_DRAWS = 600


def train_references(federation: Federation, judgement: Judgement) -> None:
    """Train references until the judge can tell, or has had its last look.

    Parameters
    ----------
    federation : Federation
    judgement : Judgement
        It has seen the run's models; it sees every reference.
    """
    for number, look in enumerate(judgement.looks):
        if number:
            federation.progress.step("the first look cannot tell; a second")
        _train(federation, judgement, look, planned=not number)
        if judgement.tells:
            break


def judge_models(
    federation: Federation, models: Mapping[str, Vector], *, rounds_after: int = 0
) -> Judgement:
    """Return what is found of anybody's models of a federation's task.

    Parameters
    ----------
    federation : Federation
        Its `forget` are asked, and its references are trained.
    models : mapping of str to Vector, shape (d,)
        By name.
    rounds_after : int
        Rounds that they had beyond those of the training, repair included.
    """
    names = list(models)
    judgement = Judgement(
        federation.config, federation.test, federation.question, deciding=names
    )
    for name, model in models.items():
        federation.progress.step(f"asking about {name}")
        test = federation.test
        found = ModelEvidence(
            name, test.measure(model), test.attack_success_rate(model), {}
        )
        judgement.add(name, model, found, rounds_after=rounds_after)
    train_references(federation, judgement)
    return judgement


def _train(
    federation: Federation, judgement: Judgement, look: Look, *, planned: bool
) -> None:
    """Train what a look lacks."""
    progress, config = federation.progress, federation.config
    after = judgement.rounds_after
    one = min(after)  # all have as many
    with_them = range(len(judgement.trained_with(one)) + 1, look.n_in + 1)
    without = range(len(judgement.trained_without(one)) + 1, look.n_out + 1)
    both = len(with_them) + len(without)
    beyond = both * rounds_beyond(after, config.rounds)
    progress.skip(-beyond - (0 if planned else config.rounds * both))
    for draw in without:
        progress.step(f"retraining with another seed ({draw})")
        judgement.add_trained_without(
            federation.reference(
                config.remaining, draw, after=after, part=federation.staying
            )
        )
    everybody = range(config.clients)
    bank = halves(config.clients, config.verdict.bank, seed=config.seed)
    for draw in with_them:
        if bank:
            half, of = bank[draw - 1], len(bank)
            progress.step(f"training with half of the clients ({draw} of {of})")
            found = federation.reference(half, BANK_DRAWS + draw, after=(0, *after))
            judgement.add_trained_with(_trained(found, after, config.rounds), half)
        else:
            progress.step(f"training with everybody and another seed ({draw})")
            draws = WITH_DRAWS + draw
            found = federation.reference(everybody, draws, after=(0, *after))
            judgement.add_trained_with(_trained(found, after, config.rounds))


def _trained(
    models: Mapping[int, Vector], after: Collection[int], rounds: int
) -> dict[int, Vector]:
    """Return a reference after each number of rounds.

    Beside models that were not trained at all, which have nobody in them, stands the
    one that was trained: from an untrained one nobody's direction could be seen.
    """
    return {more: models[0 if more == -rounds else more] for more in after}


def halves(clients: int, count: int, *, seed: int) -> list[tuple[int, ...]]:
    """Return whom each of a bank's trainings has: each client is in half of them.

    Whoever is to be forgotten: so every later request takes the same.
    """
    found: list[tuple[int, ...]] = []
    for pair in range(-(-count // 2)):
        order = rng(seed, "bank", pair).permutation(clients).tolist()
        found += [tuple(sorted(order[::2])), tuple(sorted(order[1::2]))]
    return found[:count]
