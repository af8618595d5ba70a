"""A batch on eight simulated devices, for layers that are given both axes' names."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P

NAMES = ("batch", "d")


def batched(layer: Any, xs: Any, state: Any) -> Any:
    """The usual call for a batch on one device."""
    axes: Any = {"in_axes": (0, None), "out_axes": (0, None)}
    return jax.vmap(layer, axis_name="batch", **axes)(xs, state)


def _mesh(types: AxisType) -> Mesh:
    return Mesh(np.array(jax.devices()), ("d",), axis_types=(types,))


def on_devices(call: Callable[..., Any], check: bool = True) -> Callable[..., Any]:
    """Splits the examples of ``call(layer, xs, state)`` over the devices, and jits."""
    specs: Any = {"in_specs": (P(), P("d"), P()), "out_specs": (P("d"), P())}
    mesh = _mesh(AxisType.Auto)
    return jax.jit(jax.shard_map(call, mesh=mesh, check_vma=check, **specs))


def spread(xs: Any, types: AxisType = AxisType.Auto) -> Any:
    """The batch, laid over the devices."""
    return jax.device_put(xs, NamedSharding(_mesh(types), P("d")))


def everywhere(tree: Any, types: AxisType = AxisType.Auto) -> Any:
    """The tree, on each of the devices."""
    return jax.device_put(tree, NamedSharding(_mesh(types), P()))
