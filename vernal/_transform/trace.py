"""Looking at what a function would compute, without computing it."""

from collections.abc import Callable
from typing import Any

import jax

from .._module.callables import module_update_wrapper
from .._tree.filters import combine, partition
from ..typing import PyTree
from .split import hide, is_abstract, reveal
from .wrapper import Wrapper


def filter_eval_shape(fun: Callable[..., Any], *args: Any, **kwargs: Any) -> PyTree:
    """The result that a call would have, with shapes and dtypes in place of arrays.

    No memory is used and nothing is computed on a device, so that it can be asked for
    models of any size.

    Arguments:
        fun: any function of pytrees.
        *args, **kwargs: its arguments; arrays may be ``jax.ShapeDtypeStruct``.

    Returns:
        The result, each array replaced by a ``jax.ShapeDtypeStruct``.

    >>> import vernal as vn, jax
    >>> key = jax.random.key(0)
    >>> vn.filter_eval_shape(vn.nn.Linear, 10_000, 10_000, key=key).weight
    ShapeDtypeStruct(shape=(10000, 10000), dtype=float32)
    """
    arrays, static = partition((fun, args, kwargs), is_abstract)

    def call(arrays: Any) -> Any:
        fun, args, kwargs = combine(arrays, static)
        return hide(fun(*args, **kwargs))

    return reveal(*jax.eval_shape(call, arrays))


class _JaxprWrapper(Wrapper):
    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        arrays, static = partition((self.fun, args, kwargs), is_abstract)

        def call(arrays: Any) -> Any:
            fun, args, kwargs = combine(arrays, static)
            return hide(fun(*args, **kwargs))

        jaxpr, (shapes, hidden) = jax.make_jaxpr(call, return_shape=True)(arrays)
        return jaxpr, shapes, hidden.values


def filter_make_jaxpr(fun: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a function that returns the jaxpr of ``fun`` for given arguments.

    Arguments:
        fun: any function of pytrees; arrays among its arguments are traced.

    Returns:
        A function of the same arguments. It returns the jaxpr; the result with
        ``jax.ShapeDtypeStruct`` for arrays and None elsewhere; and the result with
        None for arrays.

    >>> import jax.numpy as jnp
    >>> trace = filter_make_jaxpr(lambda x, n: (x + n, n))
    >>> jaxpr, shapes, static = trace(jnp.ones(2), 3)
    >>> shapes[0].shape, static
    ((2,), (None, 3))
    """
    return module_update_wrapper(_JaxprWrapper(fun))
