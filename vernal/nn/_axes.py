"""Named axes over which a batch is mapped, or spread over devices."""

from collections.abc import Hashable
from typing import Any

import jax.numpy as jnp
from jax import lax

from .._module.module import Module
from ..errors import AxisNameError
from ..typing import Array
from ._checks import fail
from ._numerics import axis_names


def names_of(axis_name: Any) -> tuple[Hashable, ...]:
    """The names as a tuple; for None there are none."""
    return () if axis_name is None else axis_names(axis_name)


def position(layer: Any) -> Array:
    """Which example this is among all on the axes of ``layer.axis_name``, from 0."""
    index = jnp.zeros((), jnp.int32)
    for name in names_of(layer.axis_name):
        size = require_bound(layer, (name,))
        index = index * size + lax.axis_index(name)
    return index


def require_bound(layer: Module, names: tuple[Hashable, ...]) -> int:
    """The number of examples on the named axes.

    Raises:
        AxisNameError: a name is not in scope.
    """
    try:
        return int(lax.psum(1, names))
    except NameError:
        fail(
            layer,
            f"no axis named {' or '.join(map(repr, names))} is in scope",
            error=AxisNameError,
            expected="a call under vmap or shard_map with that axis_name",
            got="a call outside of it, or under another name",
            fix="jax.vmap(…, axis_name=…, in_axes=(0, None), out_axes=(0, None)); for "
            "a whole batch in one array: axis_name=None",
        )
