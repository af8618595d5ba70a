"""The example with colors: it learns to read, and its colors are the right ones."""

import importlib
import re

import numpy as np
import pytest
from matplotlib.colors import to_rgb

# optax mixes dtypes, as any user's program may.
pytestmark = pytest.mark.relaxed

OPTIONS = ["--steps=250", "--batch-size=32", "--size=32", "--seed=1"]


@pytest.fixture(scope="module")
def outcome(run_example):
    return run_example("recurrent", *OPTIONS)


@pytest.fixture(scope="module")
def recurrent_data(outcome):
    return importlib.import_module("recurrent_data")


def errors(outcome):
    said = re.search(r"held-out names are off by.*", outcome.text)[0]
    return [float(x) for x in re.findall(r"\d\.\d{3}", said)]


def test_it_learns(outcome):
    """A few hundred steps are enough to be better than the mean of all colors."""
    losses = outcome.losses()
    assert losses[-1] < 0.5 * losses[0]
    network, spelling, mean = errors(outcome)
    assert network < 0.95 * mean and 0.1 < spelling < mean


def test_the_picture_has_colors(outcome):
    """The picture is of a size that fits a screen, and colorful."""
    height, width, _ = outcome.picture.shape
    assert 1000 <= height <= 2000 and 1000 <= width <= 2000
    assert np.ptp(outcome.picture, axis=2).mean() > 0.05


def test_a_seed_decides(outcome, run_example):
    """The same seed prints and draws the same."""
    again = run_example("recurrent", *OPTIONS)
    assert (again.losses(), errors(again)) == (outcome.losses(), errors(outcome))
    np.testing.assert_array_equal(again.picture, outcome.picture)


def test_the_color_space(recurrent_data):
    """White is at lightness 1, gray has no color, and the way back leads back."""
    rgb = np.array([to_rgb(x) for x in ("white", "black", "gray", "red", "teal")])
    lab = recurrent_data.to_lab(rgb)
    np.testing.assert_allclose(lab[:2], [[1, 0, 0], [0, 0, 0]], atol=1e-3)
    np.testing.assert_allclose(lab[2, 1:], 0, atol=1e-3)
    # From the publication of Oklab.
    np.testing.assert_allclose(lab[3], [0.628, 0.225, 0.126], atol=1e-3)
    np.testing.assert_allclose(recurrent_data.to_screen(lab), rgb, atol=2e-3)


def test_the_names_are_polite_and_whole(recurrent_data):
    """Every name fits, can be read back from its letters, and may be read aloud."""
    data = recurrent_data.load()
    assert len(data.names) == 922 and len(set(data.names)) == 922
    assert not any("shit" in name for name in data.names)
    alphabet = recurrent_data.LETTERS + "_"
    for name, row in zip(data.names, data.letters, strict=True):
        assert "".join(alphabet[i] for i in row).rstrip("_") == name
