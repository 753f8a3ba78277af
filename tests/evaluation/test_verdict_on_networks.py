"""The verdict on real networks: one that trained on, one retrained, one untrained.

A 'client' brings 120 images with random labels beside 600 honest digits. Numbers are
measured as a federation would: membership of its images against as many that were held
out, relearning, and answers on the test set.
"""

import copy
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from builders.checkout import REPOSITORY
from builders.federations import small_config
from builders.networks import initial_parameters
from fedneg.core.seeding import rng, torch_generator
from fedneg.core.verdict_settings import VerdictSettings
from fedneg.data.datasets import load_dataset
from fedneg.evaluation.divergence import mean_js_divergence, prediction_agreement
from fedneg.evaluation.measurements import Measurements
from fedneg.evaluation.membership import MembershipInput, bootstrap
from fedneg.evaluation.relearn import Target, relearn_by_sgd
from fedneg.evaluation.verdict import Verdict, judge
from fedneg.tasks.confidence import cross_entropies, probabilities_of
from fedneg.tasks.model import build_mlp, set_parameters
from fedneg.tasks.training import Rows, evaluate, predict, train_epochs

MARGINS = yaml.safe_load((REPOSITORY / "conf/verdict/margins.yaml").read_text())
SETTINGS = VerdictSettings.from_mapping(MARGINS)
DATA = load_dataset("digits")
ORDER = rng(0, "split").permutation(len(DATA.labels))
HONEST, FORGET, HELD_OUT = np.split(ORDER[:840], [600, 720])
LABELS = DATA.labels.copy()
LABELS[ORDER[600:]] = rng(0, "labels").integers(0, 10, len(ORDER) - 600)


def train(model: nn.Module, rows: np.ndarray, seed: int, epochs: int) -> nn.Module:
    """Train a network in place on some of the images."""
    overrides = (f"client.local_epochs={epochs}", "client.learning_rate=0.05")
    train_epochs(
        model,
        DATA.images[rows].copy(),
        LABELS[rows].copy(),
        scaling=DATA.scaling,
        settings=small_config(*overrides).client,
        generator=torch_generator(seed, "shuffle"),
    )
    return model


def fresh(seed: int) -> nn.Module:
    """Return an untrained network."""
    model = build_mlp(64, [64], 10)
    set_parameters(model, initial_parameters(64, [64], 10, seed=seed))
    return model


@lru_cache
def models() -> Mapping[str, nn.Module]:
    """Return all the models of this story by name."""
    everything = np.concatenate([HONEST, FORGET])
    fine_tuned = train(fresh(0), everything, seed=0, epochs=60)
    return {
        "original": train(fresh(0), everything, seed=0, epochs=60),
        "fine_tuned": train(fine_tuned, HONEST, seed=7, epochs=1),
        "unlearned": train(fresh(9), HONEST, seed=9, epochs=60),
        "untrained": fresh(5),
        **{f"seed {k}": train(fresh(k), HONEST, seed=k, epochs=60) for k in (1, 2, 3)},
    }


def losses(model: nn.Module, rows: np.ndarray) -> np.ndarray:
    """Return the loss of each image on the labels of this story."""
    logits = predict(model, DATA.images[rows], scaling=DATA.scaling)
    return cross_entropies(logits.numpy(), LABELS[rows])


@lru_cache
def measured() -> Mapping[str, Measurements]:
    """Return the numbers of every model."""
    images, labels = DATA.images[FORGET], LABELS[FORGET]
    answers = {
        name: probabilities_of(
            predict(model, DATA.test_images, scaling=DATA.scaling).numpy()
        )
        for name, model in models().items()
    }
    rows = Rows(torch.from_numpy(images), torch.from_numpy(labels), DATA.scaling)

    def loss_of(model: nn.Module) -> float:
        return evaluate(model, images, labels, scaling=DATA.scaling).loss

    target = Target("loss", loss_of(models()["original"]))
    found = {}
    for name, model in models().items():
        test = evaluate(model, DATA.test_images, DATA.test_labels, scaling=DATA.scaling)
        attack = MembershipInput.from_losses(
            losses(model, FORGET), losses(model, HELD_OUT)
        )
        learner = copy.deepcopy(model)
        found[name] = Measurements(
            name,
            name,
            test.accuracy,
            membership_auc=bootstrap(attack, lambda c: c.auc, rng(0, "bootstrap")),
            relearn=relearn_by_sgd(
                learner,
                rows,
                settings=small_config("client.learning_rate=0.05").client,
                generator=torch_generator(0, "relearn"),
                as_good=lambda m=learner: target.met_by(loss_of(m)),
                cap=400,
                check_every=4,
            ),
            js_divergence={
                k: mean_js_divergence(answers[name], other)
                for k, other in answers.items()
            },
            disagreement={
                k: 1 - prediction_agreement(answers[name], other)
                for k, other in answers.items()
            },
        )
    return found


def verdict(name: str, original: str = "original") -> Verdict:
    """Return the verdict on a model of this story."""
    numbers = measured()
    retrained = [numbers[f"seed {k}"] for k in (1, 2, 3)]
    return judge(
        numbers[name],
        original=numbers[original],
        retrained=retrained,
        settings=SETTINGS,
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("original", "not forgotten"),
        ("fine_tuned", "not forgotten"),
        ("unlearned", "forgotten"),
        ("untrained", "forgotten"),
        ("seed 2", "forgotten"),
    ],
)
def test_the_verdict_on_a_network_is_that_of_its_story(name: str, expected: str):
    assert verdict(name).outcome == expected


def test_an_untrained_network_has_forgotten_and_is_of_no_use():
    assert verdict("untrained").utility.kept is False
    assert verdict("unlearned").utility.kept is True


def test_with_a_retrained_model_as_the_original_nothing_has_power():
    """Nobody could tell: not even the model that remembers most is accused by it."""
    for name in ("seed 2", "unlearned"):
        assert verdict(name, original="unlearned").outcome == "inconclusive"
