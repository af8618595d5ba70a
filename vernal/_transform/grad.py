"""Gradients with respect to the floating arrays of any pytree."""

import functools
from collections.abc import Callable
from typing import Any, overload

import jax
import jax.numpy as jnp

from .._module.callables import module_update_wrapper
from .._module.fields import field
from .._tree.filters import combine, is_array_like, is_inexact_array, partition
from .._tree.format import tree_pformat
from ..errors import TransformError, report, short
from .split import hide, reveal
from .wrapper import Wrapper, check_callable


class _ValueAndGradWrapper(Wrapper):
    has_aux: bool = field(static=True)
    options: tuple[tuple[str, Any], ...] = field(static=True)

    def __call__(self, x: Any, /, *args: Any, **kwargs: Any) -> Any:
        trained, rest = partition(x, is_inexact_array)

        def loss(trained: Any) -> Any:
            out = self.fun(combine(trained, rest), *args, **kwargs)
            value, aux = _value_and_aux(out, self.has_aux)
            return value, hide(aux)

        grad = jax.value_and_grad(loss, has_aux=True, **dict(self.options))
        (value, aux), grads = grad(trained)
        return ((value, reveal(*aux)) if self.has_aux else value), grads


class _GradWrapper(Wrapper):
    value_and_grad: _ValueAndGradWrapper
    has_aux: bool = field(static=True)

    def __call__(self, x: Any, /, *args: Any, **kwargs: Any) -> Any:
        value, grads = self.value_and_grad(x, *args, **kwargs)
        return (grads, value[1]) if self.has_aux else grads


@overload
def filter_value_and_grad(
    *, has_aux: bool = False, **gradkwargs: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]: ...
@overload
def filter_value_and_grad(
    fun: Callable[..., Any], *, has_aux: bool = False, **gradkwargs: Any
) -> Callable[..., Any]: ...
def filter_value_and_grad(
    fun: Callable[..., Any] | None = None, *, has_aux: bool = False, **gradkwargs: Any
) -> Any:
    """As :func:`filter_grad`, and also returns the value of the function.

    Returns:
        A function that returns ``(value, gradient)``, or ``((value, aux), gradient)``
        with ``has_aux``.

    >>> import vernal as vn, jax.numpy as jnp
    >>> vn.filter_value_and_grad(lambda x: x**2)(jnp.float32(3))
    (Array(9., dtype=float32), Array(6., dtype=float32))
    """
    _check_options("filter_value_and_grad", gradkwargs)
    if fun is None:
        return functools.partial(filter_value_and_grad, has_aux=has_aux, **gradkwargs)
    check_callable("filter_value_and_grad", fun)
    options = tuple(gradkwargs.items())
    return module_update_wrapper(_ValueAndGradWrapper(fun, has_aux, options))


@overload
def filter_grad(
    *, has_aux: bool = False, **gradkwargs: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]: ...
@overload
def filter_grad(
    fun: Callable[..., Any], *, has_aux: bool = False, **gradkwargs: Any
) -> Callable[..., Any]: ...
def filter_grad(
    fun: Callable[..., Any] | None = None, *, has_aux: bool = False, **gradkwargs: Any
) -> Any:
    """Gradient of a scalar function with respect to its whole first argument.

    Every floating or complex array in the first argument is differentiated; its other
    leaves (also Python's floats), and all other arguments, are held fixed. To
    differentiate with respect to several arguments, pass them as one tuple.

    Arguments:
        fun: the function; its first result must be a scalar.
        has_aux: ``fun`` returns ``(value, aux)``; ``aux`` may be any pytree.
        **gradkwargs: passed to ``jax.grad``: ``holomorphic``, ``allow_int``.

    Returns:
        A function of the same arguments that returns the gradient: a tree with the
        structure of the first argument, and None in the place of each leaf that was
        held fixed. With ``has_aux``, ``(gradient, aux)``.

    Raises:
        TransformError: ``argnums`` was passed.

    >>> import vernal as vn, jax.numpy as jnp
    >>> vn.filter_grad(lambda p: p["w"] ** 2)({"w": jnp.float32(3), "name": "a"})
    {'name': None, 'w': Array(6., dtype=float32)}
    """
    _check_options("filter_grad", gradkwargs)
    if fun is None:
        return functools.partial(filter_grad, has_aux=has_aux, **gradkwargs)
    check_callable("filter_grad", fun)
    inner = _ValueAndGradWrapper(fun, has_aux, tuple(gradkwargs.items()))
    return module_update_wrapper(_GradWrapper(fun, inner, has_aux))


def _check_options(name: str, options: dict[str, Any]) -> None:
    if "argnums" in options:
        raise TransformError(
            report(
                f"{name}: `argnums` is not supported.",
                expected="the first argument to be differentiated",
                got=f"argnums={options['argnums']!r}",
                fix="pass what is to be differentiated as one tuple, first",
            )
        )


def _value_and_aux(out: Any, has_aux: bool) -> tuple[Any, Any]:
    """Takes the result of a loss apart, or says what it should be."""
    is_pair = isinstance(out, tuple) and len(out) == 2
    value, aux = out if has_aux and is_pair else (out, None)
    if (is_pair or not has_aux) and is_array_like(value) and jnp.shape(value) == ():
        return value, aux
    fix = "" if has_aux else "a sum or mean; for (value, aux) pass has_aux=True"
    raise TransformError(
        report(
            "filter_grad: the function does not return a scalar.",
            expected=f"{'(value, aux) with ' if has_aux else ''}a value of shape ()",
            got=short(tree_pformat(out), 120),
            fix=fix,
        )
    )
