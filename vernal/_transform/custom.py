"""Derivatives written by hand, for functions of arbitrary pytrees."""

import functools
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import jax
import jax.numpy as jnp

from .._module.callables import Partial
from .._tree.filters import (
    combine,
    is_array,
    is_inexact_array,
    is_inexact_array_like,
    partition,
)
from ..errors import TransformError, report
from ..typing import PyTree
from .split import Hidden, hide, reveal
from .vectors import check_vectors, none_to_zero, zero_to_none
from .wrapper import check_callable

Function = Callable[..., Any]


class _Custom:
    """A function with rules; it is no pytree, but a function like others."""

    def __init__(self, fn: Function) -> None:
        check_callable(type(self).__name__, fn)
        self.fn = fn
        functools.update_wrapper(self, fn, updated=())

    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else Partial(self, instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._name}>"

    @property
    def _name(self) -> str:
        return getattr(self.fn, "__name__", type(self.fn).__name__)

    def _missing(self, rules: str) -> TransformError:
        return TransformError(
            report(
                f"{type(self).__name__}: {self._name} has no rules yet.",
                expected=rules,
                fix="decorate the rules; without any the function needs no wrapper",
            )
        )

    def _held_fixed(self, what: str, fix: str) -> TransformError:
        return TransformError(
            report(
                f"{type(self).__name__}: asked for a derivative that has no rule.",
                expected=f"no derivatives with respect to {what}",
                got="one of their arrays is being differentiated",
                fix=f"{fix}, or use `jax.lax.stop_gradient`",
            )
        )


class filter_custom_jvp(_Custom):
    """A function whose forward derivative is given by hand: ``jax.custom_jvp``.

    The function may take and return any pytrees. Its derivative is set with
    ``def_jvp``, as a function ``rule(primals, tangents, **kwargs)`` that returns
    ``(out, tangent_out)``. There ``primals`` is the tuple of positional arguments, and
    ``tangents`` a tuple of the same structure. A tangent is None where the leaf is not
    a floating array, or is not being differentiated. In ``tangent_out``, a tree like
    ``out``, None stands for zero.

    Keyword arguments are not differentiated, nor are the arrays of a Module that is
    the function.

    Arguments:
        fn: the function.

    Raises:
        TransformError: it was called without a rule; a keyword argument is
            differentiated; or what the rule returns does not fit.

    >>> import vernal as vn, jax.numpy as jnp
    >>> @vn.filter_custom_jvp
    ... def clipped(x, low):
    ...     return jnp.maximum(x, low)
    >>> @clipped.def_jvp
    ... def clipped_jvp(primals, tangents):
    ...     return clipped(*primals), tangents[0]  # straight through
    >>> vn.filter_grad(clipped)(jnp.float32(-1), 0.0)
    Array(1., dtype=float32)
    """

    def __init__(self, fn: Function) -> None:
        super().__init__(fn)
        self._rule: Function | None = None

    def def_jvp(self, fn_jvp: Function) -> Function:
        """Sets the rule; a decorator."""
        check_callable("filter_custom_jvp.def_jvp", fn_jvp)
        self._rule = fn_jvp
        return fn_jvp

    def defjvp(self, fn_jvp: Function) -> Function:
        """Deprecated: sets a rule that gets zeros, not None, for floating arrays."""
        _warn_deprecated("filter_custom_jvp.defjvp", "`def_jvp`")

        def rule(primals: Any, tangents: Any, **kwargs: Any) -> Any:
            return fn_jvp(primals, _materialized(tangents, primals), **kwargs)

        self._rule = rule
        return fn_jvp

    def defjvps(self, *a: Any, **kw: Any) -> NoReturn:
        """Not supported: one rule for each argument."""
        raise TransformError(
            report(
                "filter_custom_jvp: `defjvps` is not supported.",
                fix="use `def_jvp`, with one rule for all arguments",
            )
        )

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Calls the function."""
        if self._rule is None:
            raise self._missing("a rule set with `def_jvp`")
        arrays, static = partition((self.fn, args, kwargs), is_array)

        @jax.custom_jvp
        def call(arrays: Any) -> Any:
            fn, args, kwargs = combine(_as_arrays(arrays), static)
            return hide(fn(*args, **kwargs))

        def rule(primals: Any, tangents: Any) -> Any:
            return self._apply(combine(_as_arrays(primals[0]), static), tangents[0])

        call.defjvp(rule, symbolic_zeros=True)
        return reveal(*call(arrays))

    def _apply(self, primals: Any, tangents: Any) -> Any:
        assert self._rule is not None
        _, args, kwargs = primals
        tangents = _as_arrays(jax.tree.map(zero_to_none, tangents))
        fn_tangents, tangents, kw_tangents = tangents
        if jax.tree.leaves((fn_tangents, kw_tangents)):
            what = "keyword arguments, or arrays of the function itself"
            raise self._held_fixed(what, "pass them by position")
        out, tangents_out = self._rule(args, tangents, **kwargs)
        arrays, hidden = hide(out)
        check_vectors("filter_custom_jvp, `tangent_out`", tangents_out, arrays)
        filled = _map_with_none(none_to_zero, tangents_out, arrays)
        return (arrays, hidden), (filled, hidden)


class filter_custom_vjp(_Custom):
    """A function whose backward derivative is given by hand: ``jax.custom_vjp``.

    The function may take and return any pytrees. It is differentiated with respect to
    the floating arrays of its first argument, ``vjp_arg``, only; to differentiate
    several arguments, pass them as one tuple. It needs two rules:

    - ``def_fwd`` sets ``fwd(perturbed, vjp_arg, *args, **kwargs)``, which returns
      ``(out, residuals)``. Here ``perturbed`` is a tree like ``vjp_arg`` of booleans:
      whether the leaf is being differentiated. The residuals may be any pytree.
    - ``def_bwd`` sets ``bwd(residuals, grad_out, perturbed, vjp_arg, *args,
      **kwargs)``, which returns the gradient: a tree like ``vjp_arg``, with None for
      zero and for whatever is no floating array. ``grad_out`` is such a tree too, like
      ``out``.

    Arguments:
        fn: the function.

    Raises:
        TransformError: it was called without its rules; an argument other than the
            first is differentiated; or the gradient does not fit.

    >>> import vernal as vn, jax.numpy as jnp
    >>> @vn.filter_custom_vjp
    ... def clip_gradient(x, limit):
    ...     return x
    >>> @clip_gradient.def_fwd
    ... def clip_gradient_fwd(perturbed, x, limit):
    ...     return x, None
    >>> @clip_gradient.def_bwd
    ... def clip_gradient_bwd(residuals, grad, perturbed, x, limit):
    ...     return jnp.clip(grad, -limit, limit)
    >>> vn.filter_grad(lambda x: 5 * clip_gradient(x, 1.0))(jnp.float32(2))
    Array(1., dtype=float32)
    """

    def __init__(self, fn: Function) -> None:
        super().__init__(fn)
        self._fwd: Function | None = None
        self._bwd: Function | None = None

    def def_fwd(self, fn_fwd: Function) -> Function:
        """Sets the rule of the forward pass; a decorator."""
        check_callable("filter_custom_vjp.def_fwd", fn_fwd)
        self._fwd = fn_fwd
        return fn_fwd

    def def_bwd(self, fn_bwd: Function) -> Function:
        """Sets the rule of the backward pass; a decorator."""
        check_callable("filter_custom_vjp.def_bwd", fn_bwd)
        self._bwd = fn_bwd
        return fn_bwd

    def defvjp(self, fn_fwd: Function, fn_bwd: Function) -> None:
        """Deprecated: both rules, without ``perturbed`` and without None for zero."""
        _warn_deprecated("filter_custom_vjp.defvjp", "`def_fwd` and `def_bwd`")

        def fwd(perturbed: Any, vjp_arg: Any, *args: Any, **kwargs: Any) -> Any:
            out, residuals = fn_fwd(vjp_arg, *args, **kwargs)
            return out, (out, residuals)

        def bwd(
            saved: Any, grad_out: Any, perturbed: Any, *args: Any, **kw: Any
        ) -> Any:
            out, residuals = saved
            return fn_bwd(residuals, _materialized(grad_out, out), *args, **kw)

        self._fwd, self._bwd = fwd, bwd

    def __call__(self, vjp_arg: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Calls the function."""
        if self._fwd is None or self._bwd is None:
            raise self._missing("rules set with `def_fwd` and `def_bwd`")
        moving, rest = partition(vjp_arg, is_inexact_array)
        arrays, static = partition((rest, self.fn, args, kwargs), is_array)

        @jax.custom_vjp
        def call(moving: Any, arrays: Any) -> Any:
            rest, fn, args, kwargs = combine(_as_arrays(arrays), static)
            return hide(fn(combine(_as_arrays(moving), rest), *args, **kwargs))

        def forward(moving: Any, arrays: Any) -> Any:
            return self._forward(moving, arrays, static)

        def backward(saved: Any, grads: Any) -> Any:
            return self._backward(saved, grads, static)

        call.defvjp(forward, backward, symbolic_zeros=True)
        return reveal(*call(moving, arrays))

    def _forward(self, moving: Any, arrays: Any, static: Any) -> Any:
        assert self._fwd is not None
        for x in jax.tree.leaves(arrays):
            if x.perturbed and is_inexact_array_like(x.value):
                what = "other arguments than the first"
                raise self._held_fixed(what, "pass all as one tuple, first")
        flags = jax.tree.map(lambda x: x.perturbed, moving)
        values = jax.tree.map(lambda x: x.value, (moving, arrays))
        moving, arrays = _as_arrays(values)
        rest, _, args, kwargs = combine(arrays, static)
        perturbed = combine(flags, jax.tree.map(lambda _: False, rest))
        vjp_arg = combine(moving, rest)
        out, residuals = self._fwd(perturbed, vjp_arg, *args, **kwargs)
        return hide(out), (hide(residuals), moving, arrays, Hidden(perturbed))

    def _backward(self, saved: Any, grads: Any, static: Any) -> Any:
        assert self._bwd is not None
        residuals, moving, arrays, perturbed = saved
        rest, _, args, kwargs = combine(arrays, static)
        grad_out = jax.tree.map(zero_to_none, grads[0])
        given = (reveal(*residuals), grad_out, perturbed.values, combine(moving, rest))
        grad = self._bwd(*given, *args, **kwargs)
        check_vectors("filter_custom_vjp, the gradient", grad, moving)
        return grad, None


def _as_arrays(tree: PyTree) -> PyTree:
    """JAX may give back Python's numbers where it was given tracers of them."""
    return jax.tree.map(jnp.asarray, tree)


def _map_with_none(function: Any, *trees: PyTree) -> PyTree:
    return jax.tree.map(function, *trees, is_leaf=lambda x: x is None)


def _materialized(vectors: PyTree, points: PyTree) -> PyTree:
    """Zeros in place of None, where there are floating arrays."""

    def fill(vector: Any, point: Any) -> Any:
        is_zero = vector is None and is_inexact_array(point)
        return jnp.zeros_like(point) if is_zero else vector

    return _map_with_none(fill, vectors, points)


def _warn_deprecated(name: str, instead: str) -> None:
    text = report(f"`{name}` is deprecated.", fix=f"use {instead}")
    warnings.warn(text, DeprecationWarning, stacklevel=3)
