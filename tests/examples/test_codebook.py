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


def results(outcome):
    """What is told in the end: bits, errors, codes, those in use, with and without."""
    said = outcome.text[outcome.text.index("With ") :]
    return [float(x) for x in re.findall(r"\d+(?:\.\d+)?", said)]


def test_it_learns(outcome):
    """Both runs lower their error, and the last lines tell what came of it."""
    for name in ("training without revival", "training with revival"):
        losses = outcome.losses(name)
        assert losses[0] > 0.1 > losses[-1]
    bits, *errors, codes, revived, without = results(outcome)
    assert (bits, codes) == (16, 16) and 1 <= without < revived <= 16
    assert len(errors) == 2 and 0.01 < min(errors) < max(errors) < 0.1


def test_the_picture_shows_digits(outcome):
    """The picture fits a screen; the sheet of digits is black on white."""
    height, width, _ = outcome.picture.shape
    assert 800 <= height <= 2000 and 1000 <= width <= 2000
    right = outcome.picture[height // 10 : height // 2, -width // 3 :]
    assert (right < 0.2).mean() > 0.03 < (right > 0.9).mean()


def test_a_seed_decides(outcome, run_example):
    """The same seed prints and draws the same."""
    again = run_example("codebook", *OPTIONS)
    assert results(again) == results(outcome)
    np.testing.assert_array_equal(again.picture, outcome.picture)
