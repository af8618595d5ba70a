"""A layer that is linear up to a bias, as a linear map."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from .._tree.filters import combine, is_array, partition
from ..errors import HyperparameterError, report, short
from ..typing import Array, PyTree
from ._numerics import compute_dtype


@dataclasses.dataclass(frozen=True)
class LinearPart:
    """The map ``v ↦ layer(v) - layer(0)``, as a function of the layer's arrays.

    It is the derivative of the layer at 0, so that the bias need not be known. Equal
    layers have equal maps, which are compiled once.
    """

    rest: Any
    """The layer without its arrays."""

    def __call__(self, arrays: PyTree, v: Array) -> Array:
        layer = combine(arrays, self.rest)
        with jax.default_matmul_precision("highest"):
            _, product = jax.jvp(layer, (jnp.zeros_like(v),), (v,))
        return product


def linear_part(layer: Any) -> tuple[PyTree, LinearPart]:
    """The arrays of a layer, in at least float32, and the map as a function of them."""
    arrays, rest = partition(layer, is_array)
    return jax.tree.map(_widened, arrays), LinearPart(rest)


def require_linear(kind: str, name: str, layer: Any, x: jax.ShapeDtypeStruct) -> None:
    """Refuses a layer that is not linear, up to a bias, on inputs like ``x``.

    Raises:
        HyperparameterError: for the argument ``name`` of the class ``kind``.
    """
    arrays, linear = linear_part(layer)
    wide = combine(arrays, linear.rest)
    try:
        y = jax.eval_shape(wide, x)
        # What is not linear has no transpose; a constant that is added does no harm.
        jax.eval_shape(jax.linear_transpose(wide, x), y)
    except Exception as error:
        what = f"an input on which {type(layer).__name__} is linear, up to a bias"
        reason = str(error) or type(error).__name__
        raise HyperparameterError(
            report(
                f"{kind}: bad argument `{name}`.",
                expected=f"the shape of {what}",
                got=f"{x.shape}: {short(reason.splitlines()[0])}",
            )
        ) from error


def _widened(a: Array) -> Array:
    real = jnp.issubdtype(a.dtype, jnp.floating)
    return jnp.asarray(a).astype(compute_dtype(a.dtype)) if real else a
