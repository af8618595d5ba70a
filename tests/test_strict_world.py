"""The strict world of ../conftest.py is really on, and can be relaxed on purpose."""

import warnings

import jax
import jax.numpy as jnp
import pytest
from hypothesis import settings


def add_mixed_dtypes():
    return jnp.ones(3, jnp.float32) + jnp.ones(3, jnp.int32)


def add_mixed_ranks():
    return jnp.ones((2, 3)) + jnp.ones(3)


def test_mixed_dtypes_are_refused():
    """Strict dtype promotion is on."""
    with pytest.raises(Exception, match="promotion"):
        add_mixed_dtypes()


def test_mixed_ranks_are_refused():
    """Rank promotion raises."""
    with pytest.raises(ValueError, match="rank_promotion"):
        add_mixed_ranks()


@pytest.mark.relaxed
def test_a_marked_test_is_relaxed():
    """The `relaxed` marker switches both off, for that test only."""
    assert add_mixed_dtypes().dtype == jnp.float32
    assert add_mixed_ranks().shape == (2, 3)


def test_warnings_are_errors():
    """A warning that nobody expects fails the test."""
    with pytest.raises(UserWarning, match="unexpected"):
        warnings.warn("unexpected", stacklevel=1)


def test_eight_devices_are_simulated():
    """Sharding is tested over eight CPU devices on any machine."""
    assert len(jax.devices("cpu")) == 8


def test_nothing_compiled_is_kept_on_disk():
    """No cache from an earlier run hides a slow or repeated compilation."""
    assert jax.config.jax_compilation_cache_dir is None
    assert not jax.config.jax_enable_compilation_cache


def test_hypothesis_has_no_deadline():
    """A property test never fails because its first example compiled."""
    assert settings().deadline is None


def test_keys_are_new_each_time(getkey):
    """`getkey` never hands out the same key twice in one test."""
    first, second = (jax.random.key_data(getkey()) for _ in range(2))
    assert not jnp.array_equal(first, second)


FORGETFUL = """
import jax

def test_forgets():
    jax.config.update("jax_debug_nans", True)
"""


def test_a_forgetful_test_fails(pytester, pytestconfig):
    """A test that leaves a JAX setting changed is an error."""
    pytester.makeconftest((pytestconfig.rootpath / "conftest.py").read_text())
    pytester.makepyfile(FORGETFUL)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, errors=1)
