"""The example with a cache: it writes, with and without, the same."""

import importlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vernal as vn

# optax mixes dtypes, as any user's program may.
pytestmark = pytest.mark.relaxed

OPTIONS = [
    *("--steps=20", "--batch-size=4", "--size=16", "--depth=1", "--length=32"),
    "--seed=1",
]


@pytest.fixture(scope="module")
def outcome(run_example):
    return run_example("generate", *OPTIONS)


def test_it_learns_and_writes(outcome):
    """The loss falls, and what is written has the length that was asked for."""
    losses = outcome.losses()
    assert losses[-1] < 0.9 * losses[0]
    text = outcome.text.split("characters:\n\n")[1].split("\nSee ")[0]
    assert len(text) == 64 + 32 + 1


def test_both_ways_write_the_same(outcome):
    """With a cache and without, and two speeds are printed."""
    said = outcome.text.split("It writes")[1]
    assert said.endswith("both the same.\n")
    assert len(re.findall(r"[\d,]+ (?:characters|without)", said)) == 2


def test_the_picture_shows_curves_and_text(outcome):
    """The picture fits a screen; curves have colors, and text is on white."""
    height, width, _ = outcome.picture.shape
    assert 800 <= height <= 2000 and 1000 <= width <= 2000
    left, right = np.split(outcome.picture, 2, axis=1)
    assert (np.ptp(left, axis=2) > 0.3).mean() > 0.001
    assert 0.001 < (right.mean(axis=2) < 0.5).mean() < 0.2


def test_a_text_is_its_context(outcome):
    """The model goes on from the state as if it had read all again."""
    del outcome  # it puts the example where Python finds it
    network = importlib.import_module("generate_model")
    make = vn.nn.make_with_state(network.Writer)
    model, state = make(50, 16, 2, jax.random.key(0))
    tokens = jnp.arange(100) % 50
    whole, none = model(tokens, None)
    assert none is None
    first, state = model(tokens[:90], state)
    rest, _ = model(tokens[90:], state)
    np.testing.assert_allclose(jnp.concatenate([first, rest]), whole, 1e-4, 1e-5)
