"""The confusion matrix, beside scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.world import x64
from vernal import metrics, nn
from vernal.errors import HyperparameterError, InputError

sklearn = pytest.importorskip("sklearn.metrics")


def build(n=5):
    return nn.make_with_state(metrics.ConfusionMatrix)(n)


def draw(n=5, size=(40, 5)):
    random = np.random.default_rng(0)
    return random.integers(0, n, size), random.integers(0, n - 1, size)


@pytest.mark.parametrize("normalize", [None, "true", "pred", "all"])
def test_normalized(normalize):
    """Equals confusion_matrix, also with a class that is never there."""
    guesses, labels = draw()
    matrix, state = build()
    state = jax.jit(matrix.update)(jnp.asarray(guesses), jnp.asarray(labels), state)
    got = matrix.compute(state, normalize=normalize)
    want = sklearn.confusion_matrix(
        labels.ravel(), guesses.ravel(), labels=range(5), normalize=normalize
    )
    np.testing.assert_allclose(got, want, rtol=1e-6)
    if normalize is None:
        assert got.dtype == jnp.uint32
        np.testing.assert_array_equal(got, want)


def test_logits_and_small_integers():
    """Logits count for their argmax; narrow integers do not overflow."""
    guesses, labels = draw(200, (300,))
    matrix, state = build(200)
    wide = matrix.update(jnp.asarray(guesses), jnp.asarray(labels), state)
    want = matrix.compute(wide)
    for given in (guesses.astype(np.uint8), np.eye(200, dtype=np.float16)[guesses]):
        narrow = jnp.asarray(labels.astype(np.uint8))
        new = matrix.update(jnp.asarray(given), narrow, matrix.reset(wide))
        np.testing.assert_array_equal(matrix.compute(new), want)
        wide = new


def test_what_is_not_counted():
    """No class, and NaN; all the rest is."""
    matrix, state = build(2)
    guesses = jnp.array([0, 1, 2, -1, 1, 0])
    labels = jnp.array([0, 1, 0, 0, -1, 2])
    state = matrix.update(guesses, labels, state)
    np.testing.assert_array_equal(matrix.compute(state), np.eye(2))
    logits = jnp.array([[jnp.nan, 0.0], [0.0, jnp.nan], [0.0, 1.0]])
    state = matrix.update(logits, jnp.array([0, 1, 0]), state)
    np.testing.assert_array_equal(matrix.compute(state), [[1, 1], [0, 1]])


def test_large_counts():
    """The table is exact; the matrix says the largest number, or all in x64."""
    matrix, state = build(2)
    count = jnp.array([[[1, 0], [0, 0]], [[7, 2**32 - 1], [0, 3]]], jnp.uint32)
    state = state.set(matrix.index, count)
    high = 2**32 - 1
    np.testing.assert_array_equal(matrix.compute(state), [[high, high], [0, 3]])
    assert matrix.table(state) == "\n".join([
        "            0           1",
        "0  4294967303  4294967295",
        "1           0           3"])  # fmt: skip
    with x64():
        got = matrix.compute(state)
        np.testing.assert_array_equal(got, [[2**32 + 7, high], [0, 3]])


def test_table():
    """Names head rows and columns, as wide as they need."""
    matrix, state = build(2)
    state = matrix.update(jnp.array([1, 1]), jnp.array([0, 1]), state)
    want = ["        cat  parrot", "cat       0       1", "parrot    0       1"]
    assert matrix.table(state, ["cat", "parrot"]).splitlines() == want
    with pytest.raises(HyperparameterError, match="names"):
        matrix.table(state, ["cat"])


def test_bad_arguments():
    """Logits of other classes, labels of other shapes, unknown words."""
    matrix, state = build(3)
    with pytest.raises(InputError, match="not one entry for each class"):
        matrix.update(jnp.ones((4, 2)), jnp.zeros(4, int), state)
    with pytest.raises(InputError, match="the labels do not fit"):
        matrix.update(jnp.zeros(4, int), jnp.zeros(3, int), state)
    with pytest.raises(HyperparameterError, match="`normalize`"):
        matrix.compute(state, normalize="rows")
    for bad in (0, 2.0, "3"):
        with pytest.raises(HyperparameterError, match="`num_classes`"):
            metrics.ConfusionMatrix(bad)
