"""The references of a verdict, trained look by look, as far as they are needed."""

from collections.abc import Mapping

from fedneg.core.parameters import Vector
from fedneg.evaluation.evidence import ModelEvidence
from fedneg.evaluation.judgement import Judgement
from fedneg.evaluation.looks import Look
from fedneg.federation.federation import Federation
from fedneg.federation.references import rounds_beyond

# Which other seeds models with the clients have: none that one without them has.
WITH_DRAWS = 500


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
    with_them = range(len(judgement.trained_with) + 1, look.n_in + 1)
    without = range(len(judgement.trained_without(0)) + 1, look.n_out + 1)
    beyond = len(without) * rounds_beyond(after, config.rounds)
    trainings = 0 if planned else len(with_them) + len(without)
    progress.skip(-beyond - config.rounds * trainings)
    everybody = range(config.clients)
    for draw in without:
        progress.step(f"retraining with another seed ({draw})")
        judgement.add_trained_without(
            federation.reference(config.remaining, draw, after=after)
        )
    for draw in with_them:
        progress.step(f"training with everybody and another seed ({draw})")
        found = federation.reference(everybody, WITH_DRAWS + draw)
        judgement.add_trained_with(found[0])
