"""The example with a generator and a critic: both learn, and digits come about."""

import re

import numpy as np
import pytest

# optax mixes dtypes, as any user's program may.
pytestmark = pytest.mark.relaxed

OPTIONS = ["--steps=60", "--batch-size=32", "--width=8", "--each=4", "--seed=1"]


@pytest.fixture(scope="module")
def outcome(run_example):
    return run_example("gan", *OPTIONS)


def scores(outcome):
    """What is read: drawn digits, real ones after drawn ones, real after real ones."""
    said = outcome.text[outcome.text.index("A classifier") :]
    return [float(x) for x in re.findall(r"(\d+\.\d)%", said)]


def test_it_learns(outcome):
    """The critic learns to tell real from drawn, and the scores are printed."""
    losses = outcome.losses()
    assert losses[0] > 1.8 and min(losses) < 1.7
    assert len(scores(outcome)) == 3 and scores(outcome)[-1] == 98.7


def test_the_picture_shows_digits(outcome):
    """The picture fits a screen; its sheet of real digits is black on white."""
    height, width, _ = outcome.picture.shape
    assert 800 <= height <= 2000 and 1000 <= width <= 2000
    right = outcome.picture[height // 10 : height // 2, -width // 4 :]
    assert (right < 0.2).mean() > 0.05 < (right > 0.9).mean()


def test_a_seed_decides(outcome, run_example):
    """The same seed prints and draws the same."""
    again = run_example("gan", *OPTIONS)
    assert (again.losses(), scores(again)) == (outcome.losses(), scores(outcome))
    np.testing.assert_array_equal(again.picture, outcome.picture)
