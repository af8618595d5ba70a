"""Running averages: weights that sum to 1, and what is taken in of a batch."""

import jax.numpy as jnp
import numpy as np
import pytest

from vernal.nn import _batch_moments, _running

MOMENTA = [0.0, 1e-300, 0.1, 0.9, 0.99, 0.999999, 1.0]


@pytest.mark.parametrize("momentum", MOMENTA)
def test_running_rate(momentum):
    """The weight of the newest of t values with weights momentum**age; 1 at t = 1."""
    counts = np.array([1, 2, 3, 10, 1000, 2**31 - 1])
    got = _running.running_rate(jnp.asarray(counts), momentum, jnp.dtype("float32"))
    got = np.broadcast_to(got, counts.shape)
    for count, rate in zip(counts[:-1], got[:-1], strict=True):
        expected = 1 / np.power(momentum, np.arange(count)).sum()
        np.testing.assert_allclose(rate, expected, rtol=2e-6)
    assert got[0] == 1
    np.testing.assert_allclose(got[-1], max(1 - momentum, 0.5**31), rtol=2e-6)


def test_blend():
    """Linear in the rate; exactly the new value at rate 1, even if the old is NaN."""
    old = jnp.array([1.0, 1e8, np.nan, np.inf])
    new = jnp.array([1e-9, 1.0, 2.0, 3.0])
    np.testing.assert_array_equal(_running.blend(old, new, jnp.array(1.0)), new)
    got = _running.blend(jnp.array(2.0), jnp.array(4.0), jnp.array(0.25))
    assert got == 2.5
    np.testing.assert_array_equal(_running.blend(new, new, jnp.array(0.3)), new)


def moments(*numbers: float) -> _batch_moments.Moments:
    """Of one channel, all as arrays."""
    return _batch_moments.Moments(*(jnp.array([x]) for x in numbers))


ONE = (jnp.array([1.0]), jnp.array([4.0]))


@pytest.mark.parametrize("momentum", [0.5, None])
def test_nothing_is_taken_in_of_nothing(momentum):
    """A batch without values leaves number, mean and variance in every bit."""
    steps = jnp.array(3.0)
    empty = moments(np.float32(0.1), 0.0, 0.0)
    for unbiased in (False, True):
        new = _running.update(steps, ONE, empty, momentum, unbiased)
        np.testing.assert_array_equal(jnp.stack(new[1]), jnp.stack(ONE))
        assert new[0] == 3


@pytest.mark.parametrize("number", [5.0, jnp.array([5.0])])
def test_unbiased(number):
    """The variance that is taken in is n / (n - 1) of what is given."""
    batch = _batch_moments.Moments(*moments(2.0, 8.0, 0.0)[:2], number)
    new = _running.update(jnp.array(0), ONE, batch, 0.9, True)
    np.testing.assert_allclose(new[1][1], 10)
    assert new[0] == 1
    new = _running.update(jnp.array(0), ONE, batch, 0.9, False)
    np.testing.assert_allclose(new[1][1], 8)


@pytest.mark.parametrize("number", [3.0, jnp.array([3.0])])
def test_pooling(number):
    """Mean and variance of (0, 2) and (3, 3, 6) together, by Chan's formula."""
    batch = _batch_moments.Moments(*moments(4.0, 2.0, 0.0)[:2], number)
    values = np.array([0.0, 2.0, 3.0, 3.0, 6.0])
    for ddof in (0, 1):
        old = (jnp.array([1.0]), jnp.array([np.var([0.0, 2.0], ddof=ddof)]))
        old = (old[0], old[1].astype(jnp.float32))
        total, new = _running.update(jnp.array(2.0), old, batch, None, ddof == 1)
        assert total == 5
        np.testing.assert_allclose(new[0], values.mean(), rtol=1e-6)
        np.testing.assert_allclose(new[1], values.var(ddof=ddof), rtol=1e-6)


def test_groups_are_averaged():
    """Each has the weight of its values; one with a single value has none."""
    mean, variance = jnp.array([[1.0], [4.0], [9.0]]), jnp.array([[1.0], [2.0], [0.0]])
    number = jnp.array([[3.0], [2.0], [1.0]])
    batch = _batch_moments.Moments(mean, variance, number)
    _, new = _running.update(jnp.array(0), ONE, batch, 0.9, False)
    np.testing.assert_allclose(jnp.stack(new), [[11 / 5], [7 / 5]], rtol=1e-6)
    _, new = _running.update(jnp.array(0), ONE, batch, 0.9, True)
    np.testing.assert_allclose(new[1], (3 * 1.5 + 2 * 4) / 5, rtol=1e-6)
