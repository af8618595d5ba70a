"""Initial values: their distribution, dtype, and Equinox with the same key."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from tests.world import x64
from vernal.nn._init import default_dtype, uniform_fan_in


def test_default_dtype() -> None:
    """It is float32, float64 in 64-bit mode, or what was asked for."""
    assert default_dtype(None) == jnp.float32
    with x64():
        assert default_dtype(None) == jnp.float64
    for dtype in (jnp.bfloat16, "float16", np.dtype("complex64"), np.float32):
        assert default_dtype(dtype) == jnp.dtype(dtype)


@pytest.mark.parametrize("fan_in", [1, 4, 10])
def test_distribution(fan_in: int) -> None:
    """Values are spread evenly over ±1/√fan_in."""
    n, limit = 100_000, 1 / np.sqrt(fan_in)
    x = uniform_fan_in(jr.key(0), (n,), jnp.dtype("float32"), fan_in)
    sample = np.sort(np.asarray(x, float))
    assert -limit <= sample[0] and sample[-1] <= limit
    # Kolmogorov's distance; it exceeds 1.95/√n once in a thousand samples.
    distance = np.abs((sample / limit + 1) / 2 - np.linspace(0, 1, n)).max()
    assert distance < 1.95 / np.sqrt(n)


def test_no_inputs() -> None:
    """Without inputs the limit is 1."""
    x = uniform_fan_in(jr.key(0), (1000,), jnp.dtype("float32"), 0)
    assert 0.9 < float(jnp.abs(x).max()) <= 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64"])
def test_dtypes_are_strong(dtype: Any) -> None:
    """Values have the dtype that was asked for, and it is strong."""
    x = uniform_fan_in(jr.key(0), (3, 2), jnp.dtype(dtype), 2)
    assert x.shape == (3, 2) and x.dtype == dtype and not x.weak_type


def test_complex_values_are_those_of_equinox() -> None:
    """Real and imaginary part are drawn independently, from the same keys."""
    ours = uniform_fan_in(jr.split(jr.key(5))[0], (4, 9), jnp.dtype("complex64"), 9)
    theirs = eqx.nn.Linear(9, 4, dtype=jnp.complex64, key=jr.key(5)).weight
    assert jnp.array_equal(ours, theirs)
    assert not jnp.array_equal(ours.real, ours.imag)
