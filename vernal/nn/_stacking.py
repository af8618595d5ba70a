"""Several layers of one kind as one layer with stacked values, and back."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .._state.index import Fresh, is_index, renewed_index
from .._state.naming import indices
from .._tree.filters import is_array
from .._tree.paths import path_text
from ..errors import HyperparameterError, report


def has_slots(layer: Any) -> bool:
    """Whether a layer, or stack of layers, has state."""
    return bool(indices(layer))


def take(layers: Any, i: int) -> Any:
    """One layer of a stack of them."""
    return jax.tree.map(lambda a: a[i] if is_array(a) else a, layers)


def renewed(layer: Any) -> Any:
    """The same layer with slots of its own, no longer those of the stack."""
    markers: dict[Any, Fresh] = {}

    def renew(x: Any) -> Any:
        if not is_index(x) or x.is_stripped:
            return x
        return renewed_index(x, markers.setdefault(x.marker, Fresh()), x.init)

    return jax.tree.map(renew, layer, is_leaf=is_index)


def stacked(name: str, layers: Sequence[Any]) -> Any:
    """One layer with the values of all, each with an axis more in front.

    Raises:
        HyperparameterError: the layers differ in more than values; ``name`` says where.
    """
    rows, treedefs = zip(
        *(jax.tree.flatten(layer, is_leaf=is_index) for layer in layers), strict=True
    )
    different = [i for i, treedef in enumerate(treedefs) if treedef != treedefs[0]]
    if different:
        raise _unlike(
            name, f"layer {different[0]}", "another structure or configuration"
        )
    paths = jax.tree_util.tree_leaves_with_path(layers[0], is_leaf=is_index)
    markers: dict[Any, Fresh] = {}

    def stack(path: Any, values: Sequence[Any]) -> Any:
        first, *others = values
        if is_index(first):
            key = tuple(index.marker for index in values)
            init = jax.tree.map(
                lambda *inits: stack(path, inits), *(x.init for x in values)
            )
            marker = markers.setdefault(key, Fresh())
            return renewed_index(first, marker, init)
        forms = {(x.shape, x.dtype) if is_array(x) else None for x in values}
        if len(forms) > 1:
            raise _unlike(name, f"`{path_text(path)}`", "different shapes or dtypes")
        if forms == {None}:
            if any(x != first for x in others):
                raise _unlike(name, f"`{path_text(path)}`", "different values")
            return first
        return jnp.stack(values)

    columns = zip(*rows, strict=True)
    leaves = [stack(p, c) for (p, _), c in zip(paths, columns, strict=True)]
    return treedefs[0].unflatten(leaves)


def _unlike(name: str, where: str, what: str) -> HyperparameterError:
    return HyperparameterError(
        report(
            f"{name}: the layers are not of one kind.",
            expected="layers that differ in the values of their arrays only",
            got=f"{what} at {where}",
        )
    )
