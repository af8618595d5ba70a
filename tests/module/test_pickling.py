"""Modules that hold functions can be pickled and deep-copied."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import vernal as vn


class Holder(vn.Module):
    """Has a function among its fields."""

    fn: Callable[..., Any] = vn.field(static="if_function")
    weight: jax.Array


FUNCTIONS = [jnp.tanh, jax.nn.relu, jax.nn.gelu, jax.lax.tanh, len, Holder]


@pytest.mark.parametrize("fn", FUNCTIONS, ids=lambda fn: fn.__name__)
def test_function_comes_back(fn: Callable[..., Any]) -> None:
    """A function that can be imported is the very same one after pickling."""
    holder = Holder(fn, jnp.ones(2))
    for twin in (pickle.loads(pickle.dumps(holder)), copy.deepcopy(holder)):
        assert twin.fn is fn
        assert twin == holder


def test_module_as_function() -> None:
    """A Module in the place of a function is pickled as a Module."""
    holder = Holder(vn.nn.Identity(), jnp.ones(2))
    assert pickle.loads(pickle.dumps(holder)) == holder


def test_local_function() -> None:
    """A local function can be deep-copied; pickle says that it cannot store it."""
    holder = Holder(lambda x: x, jnp.ones(2))
    assert copy.deepcopy(holder).fn is holder.fn
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(holder)


def test_twin_is_frozen() -> None:
    """What pickle made is as immutable as the original."""
    twin = pickle.loads(pickle.dumps(Holder(len, jnp.ones(2))))
    with pytest.raises(vn.errors.FrozenModuleError):
        twin.fn = max
