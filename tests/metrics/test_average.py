"""The running average, beside float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.world import x64
from vernal import metrics, nn
from vernal.errors import InputError


def build():
    return nn.make_with_state(metrics.Average)()


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.int32, bool])
def test_dtypes(dtype):
    """Half precision is added up in float32; integers and booleans are numbers."""
    average, state = build()
    values = jnp.asarray(np.arange(3000) % 7 > 2, dtype)
    state = average.update(values, state)
    got = average.compute(state)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, np.asarray(values, float).mean(), rtol=1e-6)


def test_shapes_and_masks():
    """Numbers of any shape count each; a mask of the first axes stands for the rest."""
    average, state = build()
    state = average.update(3.0, state)
    values = np.arange(12.0, dtype=np.float32).reshape(3, 4)
    mask = np.array([True, False, True])
    state = average.update(jnp.asarray(values), state, mask=jnp.asarray(mask))
    state = average.update(jnp.array(jnp.nan), state, mask=False)
    want = np.append(values[mask].ravel(), 3.0).mean()
    np.testing.assert_allclose(average.compute(state), want, rtol=1e-6)
    assert int(state.get(average.index)[1][1]) == 9


def test_long_runs():
    """Twenty million numbers in small batches: float64's average to seven digits."""
    average, state = build()
    batch = jnp.full(4000, 0.1, jnp.float32)

    def body(state, _):
        return average.update(batch, state), None

    state = jax.jit(lambda s: jax.lax.scan(body, s, length=5000)[0])(state)
    assert int(state.get(average.index)[1][1]) == 20_000_000
    want = float(np.float32(0.1))
    np.testing.assert_allclose(average.compute(state), want, rtol=3e-7)


def test_x64():
    """In 64-bit mode it is float64."""
    with x64():
        average, state = build()
        state = average.update(jnp.array([0.1, 0.2]), state)
        got = average.compute(state)
        assert got.dtype == jnp.float64
        np.testing.assert_allclose(got, 0.15, rtol=1e-15)


def test_bad_values():
    """Complex numbers and lists are refused; nan and inf are what they are."""
    average, state = build()
    for bad in ([1.0], jnp.array(1j), "1"):
        with pytest.raises(InputError, match="Average: the array of values"):
            average.update(bad, state)
    state = average.update(jnp.array([1.0, jnp.inf]), state)
    assert average.compute(state) == jnp.inf
