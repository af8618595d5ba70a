"""The example of fine-tuning: new digits are learned, and the body stays as it is."""

import importlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vernal as vn
from tests.policy.source import ROOT

# optax mixes dtypes, as any user's program may.
pytestmark = pytest.mark.relaxed

OPTIONS = ["--body-steps=20", "--steps=10", "--seed=1"]


@pytest.fixture(scope="module")
def small():
    """The example with two choices of few examples; everything else is as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "examples")
        module = importlib.import_module("finetune")
        patch.setattr(module, "SHOTS", (5, 20))
        patch.setattr(module, "DRAWS", 2)
        yield module


@pytest.fixture(scope="module")
def outcome(small, run_example):
    return run_example("finetune", *OPTIONS)


def results(outcome):
    said = re.findall(r"of each new digit: (.*)% new head.* (.*)% from", outcome.text)
    return [[float(x) for x in pair] for pair in said]


def test_it_learns(outcome):
    """The loss falls, and digits are read better than by chance, with both networks."""
    for part in (
        "0 to 4",
        "5 to 9, 20 each, new head",
        "5 to 9, 20 each, from scratch",
    ):
        losses = outcome.losses(part)
        assert losses[-1] < 0.8 * losses[0]
    assert np.shape(results(outcome)) == (2, 2)
    assert np.min(results(outcome)[1]) > 30


def test_the_picture_has_colors(outcome):
    """The picture is of a size that fits a screen, and has curves and digits."""
    height, width, _ = outcome.picture.shape
    assert 500 <= height <= 2000 and 1000 <= width <= 2000
    assert np.ptp(outcome.picture, axis=2).mean() > 0.01


def test_a_seed_decides(outcome, run_example):
    """The same seed prints and draws the same."""
    again = run_example("finetune", *OPTIONS)
    assert results(again) == results(outcome)
    np.testing.assert_array_equal(again.picture, outcome.picture)


def test_the_body_is_frozen(small):
    """A new head changes; parameters and statistics of the body do not, bit for bit."""
    body = vn.nn.inference_mode(small.Body(jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), 2)
    old = jax.vmap(lambda key: small.make(body, 5, key))(keys)
    before = jax.device_get(old)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, 8, 1, 8, 8)).astype(np.float32)
    labels = rng.integers(5, size=(2, 8)).astype(np.int32)
    model, state = small.train("test", old, small.HEAD, images, labels, 3, rng)
    for new, old in ((model.body, before[0].body), (state, before[1])):
        jax.tree.map(np.testing.assert_array_equal, new, old)
    # A feature that is 0 for all images leaves its weights as they are.
    assert jnp.mean(model.head.weight != before[0].head.weight) > 0.5
