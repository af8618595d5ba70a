"""The area under the ROC curve, beside scikit-learn, and its bound of the error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vernal import metrics, nn
from vernal.errors import HyperparameterError, InputError

sklearn = pytest.importorskip("sklearn.metrics")


def measure(scores, labels, **kwargs):
    """The area and its bound, from two batches."""
    metric, state = nn.make_with_state(metrics.AUROC)(**kwargs)
    half = len(scores) // 2
    for rows in (slice(0, half), slice(half, None)):
        batch = (jnp.asarray(scores[rows]), jnp.asarray(labels[rows]))
        state = jax.jit(metric.update)(*batch, state)
    return float(metric.compute(state)), float(metric.max_error(state))


def draw(kind, n=4000):
    random = np.random.default_rng(0)
    labels = random.random(n) < 0.3
    x = random.normal(size=n) + labels
    scores = {
        "sigmoid": 1 / (1 + np.exp(-x)),
        "sure": 1 / (1 + np.exp(-8 * x)),
        "crowded": 0.5 + 1e-4 * x,
        "random": random.random(n),
        "reversed": 1 / (1 + np.exp(x)),
    }
    return scores[kind].astype(np.float32), labels


@pytest.mark.parametrize("bins", [2, 50, 1024])
@pytest.mark.parametrize("kind", ["sigmoid", "sure", "crowded", "random", "reversed"])
def test_the_error_is_within_its_bound(kind, bins):
    """However scores are spread; and the bound is about what bins can give."""
    scores, labels = draw(kind)
    want = sklearn.roc_auc_score(labels, scores)
    got, bound = measure(scores, labels, num_bins=bins)
    assert abs(got - want) <= bound + 1e-6
    assert bound <= 0.5
    if kind == "random":
        assert 0.4 / bins < bound < 0.6 / bins
    if kind in ("sigmoid", "random", "reversed") and bins == 1024:
        assert abs(got - want) < 1e-4


def test_few_scores_are_exact():
    """Where each score has a bin of its own; ties count one half."""
    random = np.random.default_rng(1)
    scores = (random.integers(0, 10, 500) / 10).astype(np.float32)
    labels = random.random(500) < scores
    got, _ = measure(scores, labels, num_bins=64)
    want = sklearn.roc_auc_score(labels, scores)
    np.testing.assert_allclose(got, want, rtol=2e-6)
    assert measure(labels.astype(np.float32), labels) == (1.0, 0.0)
    assert measure(np.zeros(8, np.float32), np.arange(8) % 2) == (0.5, 0.5)


def test_logits_in_a_range():
    """Bins from low to high; outside of them the bound grows, and still holds."""
    scores, labels = draw("sigmoid")
    logits = np.log(scores / (1 - scores)).astype(np.float32)
    want = sklearn.roc_auc_score(labels, logits)
    for low, high, limit in ((-8, 8, 3e-3), (-0.5, 0.5, 0.3)):
        got, bound = measure(logits, labels, low=low, high=high)
        assert abs(got - want) <= bound + 1e-6 and bound < limit
    infinite = np.array([-np.inf, 0, np.inf, 0.1], np.float32)
    assert measure(infinite, np.array([0, 0, 1, 1])) == (1.0, 0.0)


def test_rare_classes():
    """One positive among a hundred thousand, and only one class."""
    scores = np.linspace(0, 1, 100_001, dtype=np.float32)
    labels = np.arange(100_001) == 75_000
    got, bound = measure(scores, labels)
    assert abs(got - 0.75) <= bound + 1e-6 and bound < 1e-3
    assert np.isnan(measure(scores[:4], np.ones(4, int))[0])


def test_nan_scores_count_as_wrong():
    """The highest of a negative example, the lowest of a positive one."""
    scores = np.array([np.nan, 0.3, 0.6, np.nan], np.float32)
    assert measure(scores, np.array([1, 0, 1, 1]))[0] == pytest.approx(1 / 3)
    assert measure(scores, np.array([0, 0, 1, 1]))[0] == pytest.approx(1 / 4)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.int32])
def test_dtypes(dtype):
    """Scores of half precision go to the bins of their values in float32."""
    scores, labels = draw("sigmoid", 500)
    scores = np.asarray(scores * (3 if dtype == np.int32 else 1)).astype(dtype)
    got, bound = measure(scores, labels, high=3.0)
    want = sklearn.roc_auc_score(labels, scores.astype(np.float32))
    assert abs(got - want) <= bound + 1e-6


def test_bad_arguments():
    """Bins that are no bins, ranges that are none, labels that do not fit."""
    for bad in ({"num_bins": 1}, {"low": np.nan}, {"low": 1.0}, {"high": np.inf}):
        with pytest.raises(HyperparameterError, match=f"`{next(iter(bad))}`|`high`"):
            metrics.AUROC(**bad)
    metric, state = nn.make_with_state(metrics.AUROC)()
    for labels in (jnp.zeros(2, int), jnp.zeros(3)):
        with pytest.raises(InputError, match="the labels do not fit"):
            metric.update(jnp.zeros(3), labels, state)
