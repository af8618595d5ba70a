"""What tests share: Hypothesis profiles and keys. The strict world: ../conftest.py."""

import os
from collections.abc import Callable

import jax
import pytest
from hypothesis import HealthCheck, settings

# Compiling makes first examples slow, so neither profile has a deadline.
_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile(
    "ci", derandomize=True, deadline=None, max_examples=25, suppress_health_check=_SLOW
)
settings.register_profile(
    "nightly", deadline=None, max_examples=1000, suppress_health_check=_SLOW
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture
def getkey() -> Callable[[], jax.Array]:
    """A function that returns a new key at each call, the same ones in every run."""
    count = 0

    def next_key() -> jax.Array:
        nonlocal count
        count += 1
        return jax.random.fold_in(jax.random.key(2024), count)

    return next_key
