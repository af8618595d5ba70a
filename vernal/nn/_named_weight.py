"""What layers share that compute a weight of another layer: to find and replace it."""

from typing import Any, TypeVar

import jax.numpy as jnp

from .._tree.filters import is_inexact_array
from .._tree.surgery import tree_at
from ..typing import Array
from ._checks import require

_Layer = TypeVar("_Layer")


def check_weight(kind: str, layer: Any, weight_name: Any, ndim: int) -> None:
    """Refuses what is no layer with a real weight of that name and ≥ ``ndim`` axes.

    Raises:
        HyperparameterError: for the class ``kind``.
    """
    require(callable(layer), kind, "layer", "a callable layer", layer)
    is_text = isinstance(weight_name, str)
    weight: Any = getattr(layer, weight_name, None) if is_text else None
    fits = is_inexact_array(weight) and weight.ndim >= ndim
    fits = fits and jnp.issubdtype(weight.dtype, jnp.floating)
    axes = f"≥ {ndim} {'axis' if ndim == 1 else 'axes'}"
    expected = f"an attribute of {type(layer).__name__}, a real array with {axes}"
    require(fits, kind, "weight_name", expected, weight_name)


def with_weight(layer: _Layer, weight_name: str, weight: Array) -> _Layer:
    """A copy of the layer with another weight, brought to the dtype of the old one."""
    old = getattr(layer, weight_name)
    new = weight.astype(old.dtype)
    return tree_at(lambda m: getattr(m, weight_name), layer, new)
