"""Telling arrays from other leaves, and splitting trees by such questions."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import TreeError, report, short
from ..typing import FilterSpec, IsLeaf, PyTree

_NUMPY_TYPES = (np.ndarray, np.generic)
_ARRAY_TYPES = (*_NUMPY_TYPES, jax.Array)


def is_array(element: Any) -> bool:
    """Whether ``element`` is a JAX array, a tracer, or a NumPy array or scalar.

    >>> import numpy as np, jax.numpy as jnp
    >>> is_array(jnp.ones(3)), is_array(np.ones(3)), is_array(1.0)
    (True, True, False)
    """
    return isinstance(element, _ARRAY_TYPES)


def is_array_like(element: Any) -> bool:
    """Whether ``jnp.asarray(element)`` gives an array without looking inside it.

    True for arrays, for Python's bool, int, float and complex, and for objects with a
    ``__jax_array__`` method; False for lists and other containers.

    >>> is_array_like(1.0), is_array_like([1.0])
    (True, False)
    """
    scalar_or_array = (*_ARRAY_TYPES, bool, int, float, complex)
    return isinstance(element, scalar_or_array) or hasattr(element, "__jax_array__")


def is_inexact_array(element: Any) -> bool:
    """Whether ``element`` is an array of floating or complex numbers.

    These are the leaves that can be differentiated and trained.

    >>> import jax.numpy as jnp
    >>> is_inexact_array(jnp.ones(3)), is_inexact_array(jnp.arange(3))
    (True, False)
    """
    return is_array(element) and jnp.issubdtype(element.dtype, jnp.inexact)


def is_inexact_array_like(element: Any) -> bool:
    """As :func:`is_inexact_array`, and also True for Python's float and complex.

    >>> is_inexact_array_like(1.0), is_inexact_array_like(1)
    (True, False)
    """
    if not is_array(element) and hasattr(element, "__jax_array__"):
        element = element.__jax_array__()
    return is_inexact_array(element) or isinstance(element, float | complex)


def filter(  # the documented name, though it shadows the builtin
    pytree: PyTree,
    filter_spec: FilterSpec,
    inverse: bool = False,
    replace: Any = None,
    is_leaf: IsLeaf = None,
) -> PyTree:
    """Keeps the leaves that ``filter_spec`` selects and replaces all others.

    Arguments:
        pytree: any pytree.
        filter_spec: a tree whose structure is a prefix of ``pytree``'s, of booleans
            (keep this whole subtree or none of it) and functions from leaf to boolean.
        inverse: keep what the specification does not select.
        replace: what stands in the place of the leaves that are not kept.
        is_leaf: as in ``jax.tree.map``, for the leaves of ``pytree``.

    Returns:
        A tree of the same structure.

    Raises:
        TreeError: ``filter_spec`` has something else than booleans and functions.

    >>> import jax.numpy as jnp
    >>> filter([1, jnp.ones(2), "a"], is_array)
    [None, Array([1., 1.], dtype=float32), None]
    """
    mask = _mask(pytree, filter_spec, is_leaf)
    return jax.tree.map(lambda m, x: x if m != inverse else replace, mask, pytree)


def partition(
    pytree: PyTree,
    filter_spec: FilterSpec,
    replace: Any = None,
    is_leaf: IsLeaf = None,
) -> tuple[PyTree, PyTree]:
    """Splits a tree in two: the leaves that are selected, and all others.

    Equivalent to ``filter(...), filter(..., inverse=True)``; the arguments are those
    of :func:`filter`. Undone by :func:`combine`.

    >>> import jax.numpy as jnp
    >>> arrays, rest = partition([1, jnp.ones(2)], is_array)
    >>> rest
    [1, None]
    >>> combine(arrays, rest)
    [1, Array([1., 1.], dtype=float32)]
    """
    mask = _mask(pytree, filter_spec, is_leaf)
    kept = jax.tree.map(lambda m, x: x if m else replace, mask, pytree)
    rest = jax.tree.map(lambda m, x: replace if m else x, mask, pytree)
    return kept, rest


def combine(*pytrees: PyTree, is_leaf: IsLeaf = None) -> PyTree:
    """Merges trees of one structure: at each leaf, the first that is not None.

    Arguments:
        *pytrees: trees of equal structure, where None counts as a leaf.
        is_leaf: as in ``jax.tree.map``; None is a leaf in any case.

    Raises:
        TreeError: the structures differ.

    >>> combine([None, 2], [1, None])
    [1, 2]
    """

    def stop(x: Any) -> bool:
        return x is None or (is_leaf is not None and is_leaf(x))

    def first(*leaves: Any) -> Any:
        return next((x for x in leaves if x is not None), None)

    try:
        return jax.tree.map(first, *pytrees, is_leaf=stop)
    except ValueError as error:
        raise TreeError(
            report(
                "combine: the trees have different structures.",
                expected="trees made by `partition` or `filter` from one tree",
                got=short(str(error), 200),
            )
        ) from None


def _mask(pytree: PyTree, filter_spec: FilterSpec, is_leaf: IsLeaf) -> PyTree:
    """Broadcasts a prefix of booleans and functions to one boolean per leaf."""

    def decide(spec: Any, subtree: PyTree) -> PyTree:
        if isinstance(spec, bool | np.bool_):
            answer: Callable[[Any], bool] = lambda _: bool(spec)  # noqa: E731
        elif callable(spec):
            answer = lambda x: bool(spec(x))  # noqa: E731
        else:
            raise TreeError(
                report(
                    "filter_spec: found a leaf that selects nothing.",
                    expected="booleans, and functions from leaf to bool",
                    got=f"{short(repr(spec))} of type {type(spec).__name__}",
                    fix="`vn.is_array` selects arrays; `True` a whole subtree",
                )
            )
        return jax.tree.map(answer, subtree, is_leaf=is_leaf)

    try:
        return jax.tree.map(decide, filter_spec, pytree)
    except TreeError:
        raise
    except ValueError as error:
        raise TreeError(
            report(
                "filter_spec: its structure does not fit the tree.",
                expected="a tree whose structure is a prefix of the other's",
                got=short(str(error), 200),
                fix="make it from the tree: `jax.tree.map(lambda _: True, tree)`",
            )
        ) from None
