"""The example with noise: it learns to take noise away, and makes digits of it."""

import importlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vernal as vn

# optax mixes dtypes, as any user's program may.
pytestmark = pytest.mark.relaxed

OPTIONS = ["--steps=30", "--batch-size=16", "--width=1", "--each=2", "--seed=1"]


@pytest.fixture(scope="module")
def outcome(run_example):
    return run_example("diffusion", *OPTIONS)


def scores(outcome):
    """What is read: drawn digits, real ones after drawn ones, real after real ones."""
    said = outcome.text[outcome.text.index("A classifier") :]
    return [float(x) for x in re.findall(r"(\d+\.\d)%", said)]


def test_it_learns(outcome):
    """A few steps are enough to know something, and the scores are printed."""
    losses = outcome.losses()
    assert losses[0] > 0.95 and losses[-1] < 0.95 * losses[0]
    assert len(scores(outcome)) == 3 and scores(outcome)[-1] == 98.7


def test_the_picture_shows_digits(outcome):
    """The picture fits a screen; its sheet of real digits is black on white."""
    height, width, _ = outcome.picture.shape
    assert 800 <= height <= 2000 and 1000 <= width <= 2000
    right = outcome.picture[height // 10 : height // 2, -width // 4 :]
    assert (right < 0.2).mean() > 0.05 < (right > 0.9).mean()


def test_a_seed_decides(outcome, run_example):
    """The same seed prints and draws the same."""
    again = run_example("diffusion", *OPTIONS)
    assert (again.losses(), scores(again)) == (outcome.losses(), scores(outcome))
    np.testing.assert_array_equal(again.picture, outcome.picture)


class Gaussian(vn.Module):
    """The best guess if each pixel is drawn from a normal distribution by itself."""

    mean: jax.Array
    deviation: jax.Array

    def __call__(self, image, noise, label):
        weight = self.deviation**2 / (self.deviation**2 + noise**2)
        return self.mean + weight * (image - self.mean)


def test_sampling_solves_the_equation(outcome):
    """Where the best guess is known, noise becomes what the solution says."""
    diffusion = importlib.import_module("diffusion")
    mean, deviation = 0.3, 0.75
    noise = jax.random.normal(jax.random.key(0), (50, 1, 8, 8))
    model = Gaussian(jnp.array(mean), jnp.array(deviation))
    end, path = diffusion.sample(model, noise, jnp.zeros(50, int))
    start = diffusion.LEVELS[0]
    solution = mean + (start * noise - mean) * deviation / np.hypot(deviation, start)
    np.testing.assert_allclose(end, solution, atol=0.05)
    assert path.shape == (len(diffusion.LEVELS), *noise.shape)
