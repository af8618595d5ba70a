"""Named axes over which a batch is mapped, or spread over devices."""

from collections.abc import Hashable
from typing import Any

import jax.numpy as jnp
from jax import lax

from ..errors import AxisNameError
from ..typing import Array, AxisName
from ._checks import fail, require
from ._numerics import axis_names


def names_of(axis_name: Any) -> tuple[Hashable, ...]:
    """The names as a tuple; for None there are none."""
    return () if axis_name is None else axis_names(axis_name)


def position(layer: Any) -> Array:
    """Which example this is among all on the axes of ``layer.axis_name``, from 0."""
    count_examples(layer)  # refuses names that are not in scope
    index = jnp.zeros((), jnp.int32)
    for name in names_of(layer.axis_name):
        index = index * lax.psum(1, name) + lax.axis_index(name)
    return index


def is_axis_name(x: Any) -> bool:
    """Whether ``x`` is a name or several; JAX takes numbers for positions of axes."""
    names: tuple[Any, ...] = axis_names(x)
    is_name = [isinstance(x, Hashable) and not isinstance(x, int) for x in names]
    return all(is_name) and None not in names and len(set(names)) == len(names) > 0


def require_axis_name(layer: str, axis_name: Any) -> Any:
    """The name as it is kept, of one axis or several.

    Raises:
        HyperparameterError: it is neither.
    """
    ok = is_axis_name(axis_name)
    require(ok, layer, "axis_name", "a name, or several", axis_name)
    return tuple(axis_name) if isinstance(axis_name, list) else axis_name


def read_axis_name(layer: str, axis_name: AxisName | None) -> Any:
    """The name as it is kept, of one axis or several; None is for a whole batch."""
    expected = "a name, or several, or None for a whole batch in one array"
    ok = axis_name is None or is_axis_name(axis_name)
    require(ok, layer, "axis_name", expected, axis_name)
    return tuple(axis_name) if isinstance(axis_name, list) else axis_name


def count_examples(layer: Any) -> int:
    """The number of examples on the axes of a layer's ``axis_name``; of None, 1.

    Raises:
        AxisNameError: a name is not in scope.
    """
    name = layer.axis_name
    if name is None:
        return 1
    try:
        return int(lax.psum(1, axis_names(name)))
    except NameError:
        fail(
            layer,
            f"no axis named {name!r} is in scope",
            error=AxisNameError,
            expected=f"a call under vmap or shard_map with the axis {name!r}",
            got="a call outside of it, or under another name",
            fix=f"jax.vmap(model, axis_name={name!r}, in_axes=(0, None), "
            "out_axes=(0, None)); for inference: inference_mode(model)",
        )
