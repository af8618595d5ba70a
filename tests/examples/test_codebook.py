"""The example with a codebook: it learns an alphabet, and revival keeps it in use."""

import re

import numpy as np
import pytest

# optax mixes dtypes, as any user's program may.
pytestmark = pytest.mark.relaxed

OPTIONS = ["--steps=60", "--batch-size=32", "--width=8", "--codes=16", "--seed=1"]


@pytest.fixture(scope="module")
def outcome(run_example):
    return run_example("codebook", *OPTIONS)


def errors(outcome):
    """What is told in the end: the bits, and the errors of network and k-means."""
    said = outcome.text[outcome.text.index("With ") :]
    return [float(x) for x in re.findall(r"\d+(?:\.\d+)?", said)]


def test_it_learns(outcome):
    """Both runs lower their error, and the last lines tell bits and errors."""
    for name in ("training without revival", "training with revival"):
        losses = outcome.losses(name)
        assert losses[0] > 0.1 > losses[-1]
    bits, network, clustered = errors(outcome)
    assert bits == 16 and 0.01 < clustered < network < 0.1


def test_the_picture_shows_digits(outcome):
    """The picture fits a screen; the sheet of digits is black on white."""
    height, width, _ = outcome.picture.shape
    assert 800 <= height <= 2000 and 1000 <= width <= 2000
    right = outcome.picture[height // 10 : height // 2, -width // 3 :]
    assert (right < 0.2).mean() > 0.03 < (right > 0.9).mean()


def test_a_seed_decides(outcome, run_example):
    """The same seed prints and draws the same."""
    again = run_example("codebook", *OPTIONS)
    assert errors(again) == errors(outcome)
    np.testing.assert_array_equal(again.picture, outcome.picture)
