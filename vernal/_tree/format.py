"""Pretty-printing of trees; arrays are shortened to ``f32[3,4]``."""

from collections.abc import Callable
from typing import Any

import jax
import wadler_lindig as wl

from ..typing import PyTree

_JITTED = type(jax.jit(lambda: None))


def innermost(function: Any) -> Any:
    """The function as it was written, whose text is the same in every run."""
    while (inner := getattr(function, "__wrapped__", None)) is not None:
        function = inner
    return getattr(function, "fun", function)


def _never(_: Any) -> bool:
    return False


class Text:
    """Prints as the text it is given, in the place of a leaf."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def tree_pformat(
    pytree: PyTree,
    *,
    width: int = 80,
    indent: int = 2,
    short_arrays: bool = True,
    struct_as_array: bool = False,
    truncate_leaf: Callable[[Any], bool] = _never,
) -> str:
    """Formats a tree as text that fits in ``width`` columns where it can.

    Arguments:
        pytree: any tree.
        width: columns to fit in.
        indent: columns per level of nesting.
        short_arrays: write arrays as dtype and shape, ``f32[3,4]``.
        struct_as_array: write ``jax.ShapeDtypeStruct`` that way too.
        truncate_leaf: nodes for which this is true are written as ``Name(...)``.

    Returns:
        The text, without a closing newline.

    >>> import jax.numpy as jnp
    >>> tree_pformat({"weight": jnp.ones((3, 4)), "rate": 0.1})
    "{'weight': f32[3,4], 'rate': 0.1}"
    """

    def custom(node: Any) -> wl.AbstractDoc | None:
        if truncate_leaf(node):
            return wl.TextDoc(f"{type(node).__name__}(...)")
        is_struct = struct_as_array and isinstance(node, jax.ShapeDtypeStruct)
        if short_arrays and (isinstance(node, jax.Array) or is_struct):
            weak = "weak_" if getattr(node, "weak_type", False) else ""
            return wl.array_summary(node.shape, weak + node.dtype.name, kind=None)
        if isinstance(node, jax.custom_jvp | jax.custom_vjp | _JITTED):
            return wl.pdoc(innermost(node))
        return None

    return wl.pformat(
        pytree, width=width, indent=indent, short_arrays=short_arrays, custom=custom
    )


def tree_pprint(
    pytree: PyTree,
    *,
    width: int = 80,
    indent: int = 2,
    short_arrays: bool = True,
    struct_as_array: bool = False,
    truncate_leaf: Callable[[Any], bool] = _never,
) -> None:
    """Prints :func:`tree_pformat` of a tree; the arguments are the same.

    >>> tree_pprint([1, (2, 3)])
    [1, (2, 3)]
    """
    text = tree_pformat(
        pytree,
        width=width,
        indent=indent,
        short_arrays=short_arrays,
        struct_as_array=struct_as_array,
        truncate_leaf=truncate_leaf,
    )
    print(text)
