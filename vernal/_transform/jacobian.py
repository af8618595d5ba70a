"""Whole Jacobians and Hessians of functions of arbitrary pytrees."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .._module.callables import module_update_wrapper
from .._module.fields import field
from .._tree.filters import combine, is_inexact_array, partition
from .split import hide, reveal
from .wrapper import Wrapper, check_callable


class _JacobianWrapper(Wrapper):
    has_aux: bool = field(static=True)
    forward: bool = field(static=True)

    def __call__(self, x: Any, /, *args: Any, **kwargs: Any) -> Any:
        moving, fixed = partition(x, is_inexact_array)

        def call(moving: Any) -> Any:
            out = self.fun(combine(moving, fixed), *args, **kwargs)
            out, aux = out if self.has_aux else (out, None)
            arrays, _ = partition(out, is_inexact_array)
            # JAX cannot differentiate nothing backwards; an empty array it can.
            nothing = [] if jax.tree.leaves(arrays) else [jnp.zeros(0)]
            return (arrays, nothing), hide(aux)

        if jax.tree.leaves(moving):
            jacobian = jax.jacfwd if self.forward else jax.jacrev
            (out, _), aux = jacobian(call, has_aux=True)(moving)
        else:
            (arrays, _), aux = call(moving)
            out = jax.tree.map(lambda _: moving, arrays)
        return (out, reveal(*aux)) if self.has_aux else out


def filter_jacfwd(fun: Callable[..., Any], has_aux: bool = False) -> Any:
    """The Jacobian of a function in its whole first argument, by forward mode.

    Every floating array in the result is differentiated with respect to every one in
    the first argument: ``jax.jacfwd`` for any pytrees. It takes about as long as one
    evaluation for each number in the argument; :func:`filter_jacrev`, for each number
    in the result.

    Arguments:
        fun: any function of pytrees.
        has_aux: ``fun`` returns ``(out, aux)``; ``aux`` may be any pytree.

    Returns:
        A function of the same arguments that returns the Jacobian: a tree like ``out``
        that has at each floating array a tree like the first argument, whose arrays
        have the shape ``out.shape + x.shape``. None stands for what is not a floating
        array. With ``has_aux``, ``(jacobian, aux)``.

    >>> import vernal as vn, jax.numpy as jnp
    >>> x = {"x": jnp.array([1.0, 2.0]), "power": 2}
    >>> vn.filter_jacfwd(lambda d: d["x"] ** d["power"])(x)["x"].tolist()
    [[2.0, 0.0], [0.0, 4.0]]
    """
    check_callable("filter_jacfwd", fun)
    return module_update_wrapper(_JacobianWrapper(fun, has_aux, True))


def filter_jacrev(fun: Callable[..., Any], has_aux: bool = False) -> Any:
    """As :func:`filter_jacfwd`, by reverse mode: for few results of many numbers.

    >>> import vernal as vn, jax.numpy as jnp
    >>> vn.filter_jacrev(lambda x: (x**2).sum())(jnp.array([1.0, 2.0])).tolist()
    [2.0, 4.0]
    """
    check_callable("filter_jacrev", fun)
    return module_update_wrapper(_JacobianWrapper(fun, has_aux, False))


def filter_hessian(fun: Callable[..., Any], has_aux: bool = False) -> Any:
    """The second derivatives of a function in its whole first argument.

    Arguments:
        fun: any function of pytrees, usually with a scalar result.
        has_aux: ``fun`` returns ``(out, aux)``; ``aux`` may be any pytree.

    Returns:
        A function of the same arguments that returns the Hessian: a tree like ``out``
        of trees like the first argument of trees like the first argument, whose
        arrays have the shape ``out.shape + x.shape + y.shape``. With ``has_aux``,
        ``(hessian, aux)``.

    >>> import vernal as vn, jax.numpy as jnp
    >>> vn.filter_hessian(lambda x: x[0] * x[1])(jnp.array([1.0, 2.0])).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    check_callable("filter_hessian", fun)
    return filter_jacfwd(filter_jacrev(fun, has_aux), has_aux)
