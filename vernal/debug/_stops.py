"""Stopping where something goes wrong."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from .._runtime.checks import error_if, failure_code
from .._tree.filters import combine, is_inexact_array, partition
from .._tree.format import Text, tree_pformat

_T = TypeVar("_T")


def breakpoint_if(pred: ArrayLike, **kwargs: Any) -> None:
    """Opens JAX's debugger if a condition is true, also inside of compiled functions.

    Arguments:
        pred: boolean; of any shape: any true entry, in any example, opens it.
        **kwargs: passed to ``jax.debug.breakpoint``.

    Raises:
        TransformError: ``pred`` is not boolean.

    >>> import vernal as vn, jax.numpy as jnp
    >>> x = jnp.ones(3)
    >>> vn.debug.breakpoint_if(jnp.any(jnp.isnan(x)))
    """
    lax.cond(
        failure_code(pred, 0, 1) >= 0,
        lambda: jax.debug.breakpoint(**kwargs),
        lambda: None,
    )


def backward_nan(x: _T, name: str | None = None, terminate: bool = True) -> _T:
    """Returns its argument; prints its cotangents, and stops at the first NaN in them.

    For gradients that are NaN though the function is not: put it around one value after
    the other, from the output to the input.

    Arguments:
        x: any pytree; its floating arrays are watched.
        name: shown in front of what is printed.
        terminate: whether a NaN among the cotangents is an error, as by
            :func:`error_if`.

    Returns:
        ``x``. It can be differentiated in reverse mode only.

    Raises:
        CheckError: in the backward pass, at a NaN.

    >>> import vernal as vn, jax
    >>> f = lambda x: vn.debug.backward_nan(x, "x") ** 2
    >>> print(jax.grad(f)(3.0))
    x:
       primals=3.
    cotangents=6.
    6.0
    """
    arrays, rest = partition(x, is_inexact_array)
    title = "" if name is None else f"{name}:\n"

    @jax.custom_vjp
    def watch(arrays: Any) -> Any:
        return arrays

    def forward(arrays: Any) -> tuple[Any, Any]:
        return arrays, arrays

    def backward(arrays: Any, cotangents: Any) -> tuple[Any]:
        def show(arrays: Any, cotangents: Any) -> None:
            first, second = _values(arrays), _values(cotangents)
            print(f"{title}   primals={first}\ncotangents={second}", flush=True)

        jax.debug.callback(show, arrays, cotangents, ordered=True)
        if terminate:
            is_nan = [jnp.any(jnp.isnan(c)) for c in jax.tree.leaves(cotangents)]
            where = "" if name is None else f" at `{name}`"
            message = f"a cotangent is NaN{where}"
            cotangents = error_if(cotangents, jnp.array(is_nan), message)
        return (cotangents,)

    watch.defvjp(forward, backward)
    return combine(watch(arrays), rest)


def _values(arrays: Any) -> str:
    texts = jax.tree.map(lambda a: Text(np.array2string(np.asarray(a))), arrays)
    return tree_pformat(texts)
