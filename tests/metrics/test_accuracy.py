"""Accuracy and top-k accuracy, beside scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vernal import metrics, nn
from vernal.errors import HyperparameterError, InputError

sklearn = pytest.importorskip("sklearn.metrics")


def accuracy(logits, labels, **kwargs):
    metric, state = nn.make_with_state(metrics.Accuracy)(**kwargs)
    state = jax.jit(metric.update)(jnp.asarray(logits), jnp.asarray(labels), state)
    return metric.compute(state)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k(k):
    """Equals top_k_accuracy_score; with all classes it is 1."""
    random = np.random.default_rng(0)
    logits = random.normal(size=(200, 5)).astype(np.float32)
    labels = random.integers(0, 5, 200)
    want = 1.0
    if k < 5:
        want = sklearn.top_k_accuracy_score(labels, logits, k=k, labels=range(5))
    np.testing.assert_allclose(accuracy(logits, labels, top_k=k), want, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.int32, bool, jnp.float16])
def test_equal_logits(dtype):
    """The class with the lower number comes first, as in argmax."""
    logits = jnp.asarray([[1, 1, 0], [0, 1, 1], [0, 0, 0]], dtype)
    for k, want in ((1, [1, 0, 1]), (2, [1, 1, 1])):
        got = [accuracy(x, y, top_k=k) for x, y in zip(logits, [0, 2, 0], strict=True)]
        np.testing.assert_array_equal(got, want)
    assert accuracy(logits[1], 1) == 1 and accuracy(logits[1], 2) == 0


def test_what_is_never_right():
    """NaN anywhere in the logits, and labels that are no class; -inf is a number."""
    nan, inf = np.nan, np.inf
    rows = [[nan, 0, 1], [0, nan, 1], [nan, nan, nan], [0, 1, 2], [0, 1, 2]]
    labels = [0, 2, 0, 3, -1]
    for row, label in zip(rows, labels, strict=True):
        assert accuracy(np.array(row, np.float32), label, top_k=3) == 0
    assert accuracy(np.array([-inf, -inf, inf], np.float32), 2) == 1
    assert accuracy(np.array([-inf, -inf], np.float32), 0) == 1


def test_several_axes():
    """Tokens of sequences count like examples."""
    random = np.random.default_rng(1)
    logits = random.normal(size=(3, 4, 6)).astype(np.float32)
    labels = random.integers(0, 6, (3, 4))
    want = np.mean(logits.argmax(-1) == labels)
    np.testing.assert_allclose(accuracy(logits, labels), want, rtol=1e-6)


def test_bad_arguments():
    """Labels of another shape or kind, logits without classes, a bad top_k."""
    metric, state = nn.make_with_state(metrics.Accuracy)()
    logits = jnp.ones((4, 3))
    for labels in (jnp.zeros((4, 1), int), jnp.zeros(3, int), jnp.zeros(4)):
        with pytest.raises(InputError, match="Accuracy: the labels do not fit"):
            metric.update(logits, labels, state)
    with pytest.raises(InputError, match="no axis for the classes"):
        metric.update(jnp.array(1.0), jnp.array(0), state)
    for k in (0, 1.5, True):
        with pytest.raises(HyperparameterError, match="`top_k`"):
            metrics.Accuracy(top_k=k)
