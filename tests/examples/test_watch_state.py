"""The example that watches running statistics: one network is well, and one is not."""

import re

import numpy as np
import pytest

# optax mixes dtypes, as any user's program may.
pytestmark = pytest.mark.relaxed

OPTIONS = ["--steps=60", "--width=4", "--seed=1"]


@pytest.fixture(scope="module")
def outcome(run_example):
    return run_example("watch_state", *OPTIONS)


def test_both_learn(outcome):
    """Losses fall, and the part of the digits that is read is printed for both."""
    for part in ("with care", "in a hurry"):
        losses = outcome.losses(part)
        assert len(losses) >= 10 and min(losses) < losses[0]
    scores = [float(x) for x in re.findall(r"(\d+\.\d)%", outcome.text)]
    assert len(scores) == 4 and scores[1] > scores[3] > 10


def test_the_sick_ones_are_marked(outcome):
    """The tables name every statistic; that of the hurried network which jumps, too."""
    careful, hurried = outcome.text.split("Trained in a hurry")
    for text in (careful, hurried):
        assert all(f"norms[{i}].batch_state_index[1]" in text for i in range(4))
        assert "60 records, steps 0 to 59" in text
    assert "jumping" in hurried and "jumping" not in careful


def test_the_picture(outcome):
    """It fits a screen; blue and red curves are in it, the red ones only below."""
    height, width, _ = outcome.picture.shape
    assert 800 <= height <= 2000 and 1000 <= width <= 2000
    crimson = np.abs(outcome.picture - np.array([220, 20, 60]) / 255).max(-1) < 0.05
    blue = np.abs(outcome.picture - np.array([31, 119, 180]) / 255).max(-1) < 0.05
    assert blue[: height // 2].sum() > 500
    assert crimson[height // 2 :].sum() > 100


def test_a_seed_decides(outcome, run_example):
    """The same seed prints and draws the same."""
    again = run_example("watch_state", *OPTIONS)
    assert again.losses("in a hurry") == outcome.losses("in a hurry")
    np.testing.assert_array_equal(again.picture, outcome.picture)
