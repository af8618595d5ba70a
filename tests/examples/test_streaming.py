"""The example with a tape: it learns along tapes, and reads one in pieces."""

import importlib
import re

import numpy as np
import pytest

# optax mixes dtypes, as any user's program may.
pytestmark = pytest.mark.relaxed

OPTIONS = ["--steps=200", "--batch-size=8", "--size=32", "--seed=1"]


@pytest.fixture(scope="module")
def outcome(run_example):
    return run_example("streaming", *OPTIONS)


def test_it_learns(outcome):
    """A few steps are enough to know something, and more at the end of a digit."""
    losses = outcome.losses()
    assert losses[-1] < 0.9 * losses[0]
    first, last = map(float, re.findall(r"(\d+\.\d)%", outcome.text))
    assert first < last


def test_pieces_are_the_whole(outcome):
    """In many pieces the tape gives what it gives as a whole."""
    count, difference = re.search(
        r"in (\d+) pieces.* (\d+e-\d+)\.", outcome.text
    ).groups()
    assert int(count) > 100 and float(difference) < 1e-4


def test_the_picture_shows_a_tape(outcome):
    """The picture fits a screen; the tape is black on white, above colors."""
    height, width, _ = outcome.picture.shape
    assert 800 <= height <= 2000 and 1000 <= width <= 2000
    top, middle = (
        outcome.picture[: height // 5],
        outcome.picture[height // 4 : height // 2],
    )
    assert 0.05 < (top.max(axis=2) < 0.3).mean() < 0.5
    assert (np.ptp(middle, axis=2) > 0.3).mean() > 0.003


def test_a_tape(outcome):
    """Its columns are those of digits, with gaps; no digit to test with is learned."""
    del outcome  # it puts the example where Python finds it
    data = importlib.import_module("streaming_data")
    rng = np.random.default_rng(0)
    train, test = data.split(rng)
    assert len(train.images) + len(test.images) == 1797
    tape = data.tape(test, 20, rng)
    starts = np.flatnonzero(tape.places == 0)
    assert len(starts) == 20
    for start in starts:
        image = tape.columns[start : start + 8].T
        (same,) = np.flatnonzero((test.images == image).all(axis=(1, 2)))
        assert (tape.labels[start : start + 8] == test.labels[same]).all()
    gaps = tape.places == -1
    assert (tape.labels[gaps] == data.GAP).all() and not tape.columns[gaps].any()
    pieces = data.pieces(train, 3, 450, rng)
    for expected in (True, False, True):
        tapes, labels, is_new = next(pieces)
        assert tapes.shape == (3, 450, 8) and labels.shape == (3, 450)
        assert is_new.tolist() == [expected] * 3
