"""Where arrays leave the program: other devices, and functions of the host."""

import warnings
from collections.abc import Callable
from typing import Any

import jax

from .._tree.compare import tree_equal
from .._tree.filters import combine, is_array, partition
from ..errors import TransformError, report, short
from ..typing import PyTree
from .split import is_abstract
from .vectors import is_none
from .wrapper import check_callable

_PLACES = (jax.sharding.Sharding, jax.sharding.PartitionSpec)


def filter_shard(x: PyTree, device_or_shardings: PyTree) -> PyTree:
    """Puts the arrays of a tree on a device, or spreads them over several.

    Outside of compiled functions the arrays are moved, as by ``jax.device_put``.
    Inside, the compiler is told where they shall be, as by
    ``jax.lax.with_sharding_constraint``.

    Arguments:
        x: any pytree; leaves that are no arrays stay as they are.
        device_or_shardings: a tree that is a prefix of ``x``, of devices
            (``jax.Device``), shardings (``jax.sharding.NamedSharding`` …),
            partition specs (where a mesh is set), and None for arrays to be left
            where they are.

    Raises:
        TransformError: something else is in ``device_or_shardings``, or it is no
            prefix of ``x``.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> model = vn.nn.Linear(2, 3, key=jax.random.key(0))
    >>> model = vn.filter_shard(model, jax.devices()[0])
    >>> model.weight.devices() == {jax.devices()[0]}
    True
    """
    try:
        places = jax.tree.map(_spread, device_or_shardings, x, is_leaf=is_none)
    except TransformError:
        raise
    except ValueError as error:
        raise TransformError(
            report(
                "filter_shard: the structure of `device_or_shardings` does not fit.",
                expected="one device or sharding, or a tree that is a prefix of `x`",
                got=short(str(error), 200),
            )
        ) from None
    return jax.tree.map(_put, x, places)


def _spread(place: Any, subtree: PyTree) -> PyTree:
    """One sharding, or None, for each leaf."""
    if isinstance(place, jax.Device):
        place = jax.sharding.SingleDeviceSharding(place)
    if place is not None and not isinstance(place, _PLACES):
        raise TransformError(
            report(
                "filter_shard: found what is neither a device nor a sharding.",
                expected="a device, sharding, partition spec, or None",
                got=f"{short(repr(place))} of type {type(place).__name__}",
            )
        )
    return jax.tree.map(lambda _: place, subtree)


def _put(x: Any, place: Any) -> Any:
    if place is None or not is_array(x):
        return x
    if not isinstance(x, jax.core.Tracer):
        moved = jax.device_put(x, place)
        if not isinstance(moved, jax.core.Tracer):
            return moved
    # While something is traced, `device_put` would promise nothing.
    return jax.lax.with_sharding_constraint(x, place)


def filter_pure_callback(
    callback: Callable[..., Any],
    *args: Any,
    result_shape_dtypes: PyTree,
    sharding: Any = None,
    vmap_method: str | None = None,
    vectorized: bool | None = None,
    **kwargs: Any,
) -> PyTree:
    """Calls a Python function on the host from within a compiled function.

    The function must be pure: it may be called more than once, or not at all. It
    cannot be differentiated; see :func:`filter_custom_vjp` for giving it a derivative.

    Arguments:
        callback: the function. Arrays among its arguments are passed as concrete
            arrays; all other leaves as they are.
        *args, **kwargs: its arguments.
        result_shape_dtypes: what it returns, with a ``jax.ShapeDtypeStruct`` in the
            place of each array. All other leaves must be what it really returns.
        sharding: as in ``jax.pure_callback``: the device that calls.
        vmap_method: what to do under ``vmap``: ``"sequential"``, ``"expand_dims"``,
            ``"broadcast_all"``; by default it is an error. See ``jax.pure_callback``.
        vectorized: deprecated. True is ``vmap_method="legacy_vectorized"``: arrays
            that are mapped have an axis more, and the results must have it too.
            False is ``vmap_method="sequential"``.

    Returns:
        The result of the function.

    Raises:
        TransformError: both ``vmap_method`` and ``vectorized`` were passed. Errors of
            the callback itself, and results that are not as announced, are raised
            by JAX while running, as ``jax.errors.JaxRuntimeError`` with the text of
            the error.

    >>> import vernal as vn, jax, jax.numpy as jnp, numpy as np
    >>> shape = jax.ShapeDtypeStruct((2,), jnp.float32)
    >>> @jax.jit
    ... def f(x):
    ...     return vn.filter_pure_callback(np.sort, x, result_shape_dtypes=shape)
    >>> f(jnp.array([2.0, 1.0])).tolist()
    [1.0, 2.0]
    """
    check_callable("filter_pure_callback", callback)
    if vectorized is not None:
        vmap_method = _method_of(vectorized, vmap_method)
    arrays, static = partition((callback, args, kwargs), is_array)
    structs, rest = partition(result_shape_dtypes, is_abstract)

    def call(arrays: Any) -> Any:
        callback, args, kwargs = combine(arrays, static)
        return _arrays_of(callback(*args, **kwargs), result_shape_dtypes)

    options = {"sharding": sharding, "vmap_method": vmap_method}
    return combine(jax.pure_callback(call, structs, arrays, **options), rest)


def _method_of(vectorized: bool, vmap_method: str | None) -> str:
    if vmap_method is not None:
        raise TransformError(
            report(
                "filter_pure_callback: got both `vmap_method` and `vectorized`.",
                fix="drop `vectorized`, which is deprecated",
            )
        )
    method = "legacy_vectorized" if vectorized else "sequential"
    text = "filter_pure_callback: `vectorized` is deprecated."
    text = report(text, fix=f'use `vmap_method="{method}"`')
    warnings.warn(text, DeprecationWarning, stacklevel=3)
    return method


def _arrays_of(out: PyTree, announced: PyTree) -> PyTree:
    """The arrays of a callback's result, once the rest is what was announced."""
    want: Any = jax.tree.structure(announced)
    got = jax.tree.structure(out)
    if got != want:
        raise _unannounced("another structure", str(want), str(got))
    is_announced = jax.tree.map(is_abstract, announced)
    arrays, rest = partition(out, is_announced)
    expected = partition(announced, is_announced)[1]
    if tree_equal(rest, expected) is not True:
        raise _unannounced("other values", repr(expected), repr(rest))
    return arrays


def _unannounced(what: str, expected: str, got: str) -> TransformError:
    return TransformError(
        report(
            f"filter_pure_callback: the callback returned {what} than announced.",
            expected=short(expected, 200),
            got=short(got, 200),
            fix="`result_shape_dtypes` must have all leaves that are no arrays",
        )
    )
