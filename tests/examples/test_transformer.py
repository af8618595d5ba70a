"""The example with text: it learns, it cannot see what comes, and it writes."""

import importlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

# optax mixes dtypes, as any user's program may.
pytestmark = pytest.mark.relaxed

OPTIONS = ["--steps=50", "--batch-size=4", "--size=16", "--depth=1", "--seed=1"]


@pytest.fixture(scope="module")
def outcome(run_example):
    return run_example("transformer", *OPTIONS)


@pytest.fixture(scope="module")
def transformer(outcome):
    return importlib.import_module("transformer")


def results(outcome):
    said = re.search(r"Held-out text takes.*", outcome.text)[0]
    return [float(x) for x in re.findall(r"\d\.\d\d", said)]


def test_it_learns(outcome):
    """Sixty steps are enough to learn more than how frequent each character is."""
    losses = outcome.losses()
    assert losses[-1] < 0.8 * losses[0]
    model, gzip, frequencies = results(outcome)
    assert model < frequencies and 2 < gzip < 3


def test_it_writes(outcome):
    """There is a text of a thousand characters, not all of one kind."""
    text = outcome.text.split("What it writes:\n\n")[1].split("See ")[0]
    assert 900 < len(text) < 1100 and len(set(text)) > 10


def test_the_picture_has_colors(outcome):
    """The picture is of a size that fits a screen, and the surprises have colors."""
    height, width, _ = outcome.picture.shape
    assert 1000 <= height <= 2000 and 1000 <= width <= 2000
    lower_left = outcome.picture[height // 2 :, : width // 2]
    assert np.ptp(lower_left, axis=2).mean() > 0.05


def test_a_seed_decides(outcome, run_example):
    """The same seed prints and draws the same."""
    again = run_example("transformer", *OPTIONS)
    assert (again.losses(), results(again)) == (outcome.losses(), results(outcome))
    np.testing.assert_array_equal(again.picture, outcome.picture)


def test_it_cannot_see_what_comes(transformer):
    """A character changes the predictions from its place on, and none before it."""
    model = jax.jit(transformer.Transformer(50, 16, 2, jax.random.key(0)))
    text = jnp.arange(20)
    changed = model(text) != model(text.at[12].set(0))
    assert not changed[:12].any() and changed[12:].any(axis=1).all()


def test_nothing_is_known_before(transformer):
    """No paragraph of the text to test with is in the text to learn."""
    data = importlib.import_module("transformer_data")
    train, test = (set(x.split("\n\n")) for x in data.load())
    assert not train & test and 0.05 < len(test) / len(train) < 0.2
