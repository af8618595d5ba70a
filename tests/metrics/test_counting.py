"""Counts beyond 2**24, 2**31 and 2**32, and sums of many small numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.world import x64
from vernal.metrics import _counting

# Compiles as for users, where a compiler might simplify too much; most tests do not.
OPTIMIZED = {
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
}


def number(count) -> int:
    return int(count[0]) * 2**32 + int(count[1])


@pytest.mark.parametrize("start", [0, 2**24, 2**31 - 1, 2**32 - 2, 2**40, 2**64 - 9])
def test_counts(start):
    """Every addition is exact, also of a count to a count."""
    count = jnp.array(divmod(start, 2**32), jnp.uint32)
    add = jax.jit(_counting.add_count)
    for more in (0, 1, 1, 3):
        count = add(count, jnp.array(more, jnp.int32))
    assert number(count) == start + 5
    other = jnp.array([2, 2**32 - 1], jnp.uint32)
    expected = (start + 5 + 3 * 2**32 - 1) % 2**64
    assert number(add(count, other)) == expected
    assert number(_counting.merge_counts([count, other], None)) == expected
    value = _counting.count_value(count)
    np.testing.assert_allclose(float(value), start + 5, rtol=1e-7)


def test_many_counts_at_once():
    """Each entry of an array carries for itself."""
    starts = np.array([0, 2**32 - 1, 2**33 - 1])
    count = jnp.asarray(np.stack(np.divmod(starts, 2**32)), jnp.uint32)
    count = _counting.add_count(count, jnp.array([1, 1, 1], jnp.uint32))
    got = [number(count[:, i]) for i in range(3)]
    assert got == [1, 2**32, 2**33]


@pytest.mark.parametrize("value", [1.0, 0.1])
def test_sums(value):
    """Beyond 2**24 ones still count; a tenth adds up to what float64 says."""
    start, steps = np.float32(2**24), 5000

    @functools.partial(jax.jit, compiler_options=OPTIMIZED)
    def run(total, value):
        body = lambda t, _: (_counting.add_sum(t, value), None)  # noqa: E731
        return jax.lax.scan(body, total, length=steps)[0]

    total = jnp.array([start, 0.0], jnp.float32)
    total = run(total, jnp.array(value, jnp.float32))
    expected = float(start) + steps * float(np.float32(value))
    assert abs(np.asarray(total, np.float64).sum() - expected) < 1e-3
    merged = _counting.merge_sums([total, total, total], None)
    assert abs(np.asarray(merged, np.float64).sum() - 3 * expected) < 3e-3
    plain = start
    for _ in range(steps):
        plain += np.float32(value)
    assert abs(plain - expected) > 100  # as it would be otherwise


def test_sums_of_any_sizes():
    """In any order of sizes and signs nothing is lost but the last bits."""
    random = np.random.default_rng(0)
    values = random.normal(size=300) * 10.0 ** random.integers(-6, 7, 300)
    values = values.astype(np.float32)
    add = jax.jit(_counting.add_sum)
    total = _counting.zero_sum()
    for value in values:
        total = add(total, jnp.asarray(value))
    expected = values.astype(np.float64).sum()
    assert abs(np.asarray(total, np.float64).sum() - expected) < 1e-5


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_infinite_values(bad):
    """An infinite sum stays infinite; NaN stays NaN."""
    total = _counting.zero_sum()
    for value in (1.0, bad, 2.0):
        total = _counting.add_sum(total, jnp.array(value, jnp.float32))
    np.testing.assert_equal(float(jnp.sum(total)), bad)


def test_x64():
    """In 64-bit mode sums and values are float64."""
    with x64():
        total = _counting.add_sum(_counting.zero_sum(), jnp.array(0.1))
        assert total.dtype == _counting.count_value(jnp.zeros(2, jnp.uint32)).dtype
        assert total.dtype == jnp.float64
