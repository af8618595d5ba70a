"""Which values a slot takes, and what is said of others."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import tree_flatten, tree_unflatten

from .._tree.filters import is_array_like
from .._tree.format import tree_pformat
from ..errors import StateValueError, report, short
from ..typing import PyTree
from .index import Shapes, Slot, StateIndex, shapes_of, strong


def fit(old: PyTree, new: PyTree, name: str, verb: str) -> PyTree:
    """Makes ``new`` strongly typed arrays, or refuses if it does not fit ``old``."""
    treedef: Any
    olds, treedef = tree_flatten(old)
    news, new_treedef = tree_flatten(new)
    if new_treedef == treedef:
        fitted = [_fit(a, b) for a, b in zip(olds, news, strict=True)]
        if not any(x is None for x in fitted):
            return tree_unflatten(treedef, fitted)
    shapes = [(jnp.ndim(a), jnp.ndim(b)) for a, b in zip(olds, news, strict=False)]
    gained = any(a != b for a, b in shapes)
    raise StateValueError(
        report(
            f"State.{verb}: the new value of `{name}` does not fit the old one.",
            expected=value_text(old),
            got=value_text(new),
            fix=_AXIS_FIX if gained else "keep structure, shapes and dtypes",
        )
    )


_AXIS_FIX = (
    "a batch axis came in: under `vmap` pass and return the state with "
    "in_axes=None, out_axes=None"
)


def _fit(old: Any, new: Any) -> Any:
    """``new`` as a strongly typed array like ``old``; None if it does not fit."""
    if not isinstance(new, jax.Array):  # converting is slow, even if there is no need
        if not is_array_like(new):
            return None
        new = jnp.asarray(new)
    if new.shape != old.shape:
        return None
    if new.dtype == old.dtype:
        return strong(new)
    # Python's numbers, and what is computed from them alone, fit as in arithmetic.
    weak = getattr(new, "weak_type", False)
    if weak and 0 < _kind(new.dtype) <= _kind(old.dtype):
        return jax.lax.convert_element_type(new, old.dtype)
    return None


def _kind(dtype: Any) -> int:
    """0 for bool and keys, 1 for integers, 2 for real and 3 for complex numbers."""
    kinds = (jnp.integer, jnp.floating, jnp.complexfloating)
    found = [i for i, kind in enumerate(kinds, 1) if jnp.issubdtype(dtype, kind)]
    return found[0] if found else 0


def value_text(value: PyTree) -> str:
    return short(tree_pformat(value, width=10_000, struct_as_array=True), 200)


def is_misshapen(shapes: Shapes, known: tuple[Shapes, ...]) -> bool:
    """Whether a value with these shapes is not what a layer may expect.

    Masks and specs in the place of a value have no shapes. Within ``shard_map`` a
    layer may see a part of each array, with as many axes.
    """
    if None in shapes or len(shapes) != len(known[0]):
        return False
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return True
    ndims = [[len(shape or ()) for shape in value] for value in (shapes, *known)]
    return ndims[0] not in ndims[1:]


def wrong_shape(item: StateIndex[Any], value: PyTree) -> StateValueError:
    marker = item.marker
    name = marker.path if isinstance(marker, Slot) else "a slot"
    wanted, found = item.shapes[-1], shapes_of(value)
    gained_fix = _ROWS_FIX if item.kind.per_row else _GAINED_FIX
    both = zip(found, wanted, strict=True)
    gained = any(len(a or ()) > len(b or ()) for a, b in both)
    what = "gained an axis since it was made" if gained else "has another shape"
    return StateValueError(
        report(
            f"State.get: the value of `{name}` {what}.",
            expected=f"arrays of shape {', '.join(map(str, wanted))}",
            got=value_text(value),
            fix=gained_fix if gained else _SHAPE_FIX,
        )
    )


_GAINED_FIX = (
    "return the state with out_axes=None: jax.vmap(model, in_axes=(0, None), "
    "out_axes=(0, None), axis_name=…); read an ensemble's state under vmap"
)
_ROWS_FIX = (
    "call the model by nn.batched(model); to read, jax.vmap(lambda s: s.get(index), "
    "in_axes=(nn.row_axes(state),))(state)"
)
_SHAPE_FIX = "use the State that was made together with this model"
