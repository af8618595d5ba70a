"""``filter_checkpoint``: less memory in the backward pass, for more computing."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, overload

import jax

from .._module.callables import module_update_wrapper
from .._module.fields import field
from .._tree.filters import combine, is_array, partition
from ..errors import TransformError, report, short
from .split import hide, reveal
from .wrapper import Wrapper, check_callable

Policy = Callable[..., Any]

_P = ParamSpec("_P")
_T = TypeVar("_T")


class _CheckpointWrapper(Wrapper):
    prevent_cse: bool = field(static=True)
    policy: Policy | None = field(static=True)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        arrays, static = partition((self.fun, args, kwargs), is_array)

        def call(arrays: Any) -> Any:
            fun, args, kwargs = combine(arrays, static)
            return hide(fun(*args, **kwargs))

        run = jax.checkpoint(call, prevent_cse=self.prevent_cse, policy=self.policy)
        return reveal(*run(arrays))


@overload
def filter_checkpoint(
    *, prevent_cse: bool = True, policy: Policy | None = None
) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]: ...
@overload
def filter_checkpoint(
    fun: Callable[_P, _T], *, prevent_cse: bool = True, policy: Policy | None = None
) -> Callable[_P, _T]: ...
def filter_checkpoint(
    fun: Callable[..., Any] | None = None,
    *,
    prevent_cse: bool = True,
    policy: Policy | None = None,
) -> Any:
    """Computes a function again in the backward pass, instead of storing its inside.

    The results and derivatives are the same; between the two passes only the arguments
    are kept in memory, and the function is computed twice. State that is passed in and
    returned is updated once.

    Arguments:
        fun: any function of pytrees; a Module or a bound method too.
        prevent_cse: keeps the compiler from undoing this by finding that the two
            computations are the same. It can be switched off, for speed, within the
            body of ``jax.lax.scan``.
        policy: which values are stored after all: one of ``jax.checkpoint_policies``.

    Raises:
        TransformError: ``fun`` or ``policy`` is not callable.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> @vn.filter_checkpoint(policy=jax.checkpoint_policies.dots_saveable)
    ... def block(x, activation):
    ...     return activation(x @ x)
    >>> vn.filter_grad(lambda x: block(x, jnp.sin).sum())(jnp.ones((2, 2))).shape
    (2, 2)
    """
    if policy is not None and not callable(policy):
        raise TransformError(
            report(
                "filter_checkpoint: `policy` is not callable.",
                expected="None, or one of `jax.checkpoint_policies`",
                got=f"{short(repr(policy))} of type {type(policy).__name__}",
            )
        )
    if fun is None:
        return functools.partial(
            filter_checkpoint, prevent_cse=prevent_cse, policy=policy
        )
    check_callable("filter_checkpoint", fun)
    return module_update_wrapper(_CheckpointWrapper(fun, prevent_cse, policy))
