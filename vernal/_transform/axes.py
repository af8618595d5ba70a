"""Which axis of which leaf is mapped: what `filter_vmap` and `filter_pmap` share."""

import dataclasses
import inspect
from typing import Any

import jax

from .._tree.filters import is_array
from ..errors import TransformError, report, short
from ..typing import PyTree
from .vectors import is_none


@dataclasses.dataclass(frozen=True)
class if_array:
    """An axis specification: this axis for arrays, None for everything else.

    Attributes:
        axis: the axis to map, an integer.

    >>> import jax.numpy as jnp
    >>> if_array(1)(jnp.ones((2, 3))), if_array(1)("text")
    (1, None)
    """

    axis: int

    def __call__(self, x: Any) -> int | None:
        """Returns ``axis`` for an array, else None."""
        return self.axis if is_array(x) else None


def per_argument(name: str, fun: Any, in_axes: Any, args: tuple[Any, ...]) -> Any:
    """Turns axes given by argument name into axes by position."""
    if not isinstance(in_axes, dict):
        return tuple(in_axes) if isinstance(in_axes, list) else in_axes
    known = list(inspect.signature(fun).parameters)
    unknown = set(in_axes) - set(known[: len(args)])
    if unknown:
        raise TransformError(
            report(
                f"{name}: `in_axes` names arguments that were not passed.",
                expected=f"among {known[: len(args)]}",
                got=f"{sorted(unknown)}",
                fix="pass them by position, or leave them out of `in_axes`",
            )
        )
    passed = zip(args, known, strict=False)
    return tuple(in_axes.get(key, if_array(0)) for _, key in passed)


def per_leaf(name: str, spec: Any, tree: PyTree) -> PyTree:
    """Broadcasts a prefix of axis specifications to one axis per leaf.

    ``name`` says whose axes they are, at the beginning of an error text.
    """

    def decide(axis: Any, subtree: PyTree) -> PyTree:
        if _is_axis(axis):
            return jax.tree.map(lambda _: axis, subtree)
        if not callable(axis):
            raise _no_such_axis(name, axis)
        axes = jax.tree.map(axis, subtree)
        for found in jax.tree.leaves(axes, is_leaf=is_none):
            if not _is_axis(found):
                raise _no_such_axis(name, found)
        return axes

    try:
        return jax.tree.map(decide, spec, tree, is_leaf=is_none)
    except TransformError:
        raise
    except ValueError as error:
        raise TransformError(
            report(
                f"{name} has a structure that does not fit.",
                expected="a tree that is a prefix of the arguments or of the result",
                got=short(str(error), 200),
            )
        ) from None


def _is_axis(x: Any) -> bool:
    return x is None or isinstance(x, int)


def _no_such_axis(name: str, axis: Any) -> TransformError:
    return TransformError(
        report(
            f"{name} has a leaf that is no axis.",
            expected="None, an int, or a function from leaf to one of these",
            got=f"{short(repr(axis))} of type {type(axis).__name__}",
        )
    )
