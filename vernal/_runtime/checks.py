"""``error_if``: errors that depend on values which are known on the device only."""

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap
from jax.typing import ArrayLike

from .._compat import CALLBACK_LOGGER
from .._transform.failures import CHECK, Failure
from .._tree.filters import combine, is_array, is_array_like, partition
from ..errors import CheckError, TransformError, report, short
from .stack import user_stack

_T = TypeVar("_T")
OnError = Literal["default", "raise", "nan", "breakpoint", "off"]
_ACTIONS = ("raise", "nan", "breakpoint", "off")
VARIABLE = "VERNAL_ON_ERROR"


def error_if(x: _T, pred: ArrayLike, msg: str, *, on_error: OnError = "default") -> _T:
    """Raises an error if a condition is true: now if it is known, or else at run time.

    Works eagerly and under every transformation: ``jit``, ``vmap`` (an error in any
    example is an error), ``grad``, ``scan``, ``cond`` (only in the branch that runs).
    Go on with the returned value: a check whose result is not used may be left out by
    the compiler.

    From a function compiled by :func:`filter_jit` comes a ``CheckError`` with the
    message, the place of the check in your program and the name of the function. For
    this a call of a function that contains checks waits until the device has finished;
    other functions do not wait. From a plain ``jax.jit`` comes JAX's own error, when
    its result is first used, with the same text inside.

    Arguments:
        x: any pytree with at least one array. It is returned unchanged.
        pred: boolean; of any shape: the check fails if any entry is true.
        msg: the message.
        on_error: what a failing check does. ``"raise"``: raises. ``"nan"``: goes on
            with NaN in all floating arrays of ``x``, the largest number in integer
            ones, and True in boolean ones. ``"breakpoint"``: prints the message and
            opens JAX's debugger. ``"off"``: nothing; the check costs nothing.
            ``"default"``: what the environment variable ``VERNAL_ON_ERROR`` says when
            the function is traced, and ``"raise"`` if it is not set.

    Returns:
        ``x``.

    Raises:
        CheckError: the check fails.
        TransformError: ``pred`` is not boolean, ``x`` has no array, or ``on_error`` is
            unknown.

    >>> import vernal as vn, jax.numpy as jnp
    >>> @vn.filter_jit
    ... def root(x):
    ...     return jnp.sqrt(vn.error_if(x, x < 0, "x must not be negative"))
    >>> root(jnp.array([4.0, 9.0]))
    Array([2., 3.], dtype=float32)
    >>> try:
    ...     root(jnp.array([4.0, -9.0]))
    ... except vn.errors.CheckError as error:
    ...     print(str(error).splitlines()[0])
    x must not be negative
    """
    return branched_error_if(x, pred, 0, [msg], on_error=on_error)


def branched_error_if(
    x: _T,
    pred: ArrayLike,
    index: ArrayLike,
    msgs: Sequence[str],
    *,
    on_error: OnError = "default",
) -> _T:
    """As :func:`error_if`, with a message that is chosen at run time.

    Arguments:
        x: any pytree with at least one array. It is returned unchanged.
        pred: boolean; the check fails if any entry is true.
        index: integers, which number of ``msgs`` to show; broadcast against ``pred``.
            Of several failing entries the largest index is shown.
        msgs: the messages.
        on_error: as for :func:`error_if`.

    Returns:
        ``x``.

    Raises:
        CheckError: the check fails.
        TransformError: as for :func:`error_if`.

    >>> import vernal as vn, jax.numpy as jnp
    >>> x = jnp.array(3.0)
    >>> vn.branched_error_if(x, x > 5, jnp.array(1), ["too small", "too large"])
    Array(3., dtype=float32, weak_type=True)
    """
    action = _action(on_error)
    if action == "off":
        return x
    texts: Sequence[Any] = msgs
    if bad := [msg for msg in texts if not isinstance(msg, str)]:
        title = "error_if: a message is not a text."
        raise TransformError(report(title, expected="str", got=short(repr(bad[0]))))
    arrays, rest = partition(x, is_array)
    code = failure_code(pred, index, len(msgs))
    check = _Check(tuple(msgs), user_stack())
    if isinstance(code, jax.core.Tracer):
        if not jax.tree.leaves(arrays):
            raise _no_array(x)
        return combine(_ACT[action](check, code, arrays), rest)
    if code < 0:
        return x
    if action == "raise":
        raise check.error(int(code))
    return combine(_ACT[action](check, code, arrays), rest)


class _Check:
    """The messages of one check, and where in the user's program it stands."""

    def __init__(self, messages: tuple[str, ...], stack: list[str]) -> None:
        self.messages = messages
        self.stack = stack

    def error(self, code: int) -> CheckError:
        words = ("checked at", *["called from"] * len(self.stack))
        rows = [
            f"  {word + ':':<12} {line}"
            for word, line in zip(words, self.stack, strict=False)
        ]
        return CheckError("\n".join([self.messages[code], *rows]))

    def fail(self, code: Any) -> None:
        """Runs on the host when the check fails on the device."""
        _quiet_jax()
        raise Failure(self.error(int(code)))

    def show(self, code: Any) -> None:
        print(self.error(int(code)), flush=True)


def _raise(check: _Check, code: jax.Array, arrays: _T) -> _T:
    def run(code: jax.Array, arrays: _T) -> _T:
        def fail(code: jax.Array) -> jax.Array:
            return jax.pure_callback(check.fail, jax.ShapeDtypeStruct((), bool), code)

        # An output, which the compiler cannot know, so that the check has to be made.
        failed = lax.cond(code >= 0, fail, lambda _: False, code)
        return jax.tree.map(lambda a: _replace(failed, a, jnp.zeros_like), arrays)

    run.__name__ = CHECK  # by which `has_checks` finds it
    return jax.jit(run)(code, arrays)


def _go_on(check: _Check, code: jax.Array, arrays: _T) -> _T:
    return jax.tree.map(lambda a: _replace(code >= 0, a, _not_a_number), arrays)


def _break(check: _Check, code: jax.Array, arrays: _T) -> _T:
    def stop(code: jax.Array) -> None:
        jax.debug.callback(check.show, code)
        jax.debug.breakpoint()

    lax.cond(code >= 0, stop, lambda _: None, code)
    return arrays


_ACT: dict[str, Callable[[_Check, Any, Any], Any]] = {
    "raise": _raise,
    "nan": _go_on,
    "breakpoint": _break,
}


def _replace(failed: Any, a: Any, value: Callable[[Any], Any]) -> Any:
    """``value(a)`` if failed, else ``a``."""
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
        data = _replace(failed, jr.key_data(a), jnp.zeros_like)
        return jr.wrap_key_data(data, impl=jr.key_impl(a))
    return jnp.where(failed, value(a), a)


def _not_a_number(a: Any) -> Any:
    if jnp.issubdtype(a.dtype, jnp.inexact):
        return jnp.full_like(a, jnp.nan)
    largest = True if a.dtype == bool else np.iinfo(a.dtype).max
    return jnp.full_like(a, largest)


@custom_vmap
def _largest(code: jax.Array) -> jax.Array:
    """The largest of all examples' codes: under vmap it is the same for all."""
    return code


@_largest.def_vmap
def _largest_of_all(size: int, is_batched: list[bool], code: jax.Array) -> Any:
    return _largest(jnp.max(code, axis=0) if is_batched[0] else code), False


def failure_code(pred: ArrayLike, index: ArrayLike, count: int) -> jax.Array:
    """The number of the message to show, or -1 where all is well; a scalar."""
    is_known = is_array_like(pred)
    pred, index = jnp.asarray(pred if is_known else 0), jnp.asarray(index)
    if pred.dtype != bool:
        raise TransformError(
            report(
                "error_if: the condition is not boolean.",
                expected="bool or an array of dtype bool",
                got=f"{pred.shape}, {pred.dtype}" if is_known else "no array",
                fix="error_if(x, x != 0, message), in this order",
            )
        )
    index = jnp.clip(index.astype(jnp.int32), 0, count - 1)
    pred, index = jnp.broadcast_arrays(pred, index)
    code = jnp.where(pred, index, jnp.full_like(index, -1))
    return _largest(jnp.max(code, initial=-1))


def _action(on_error: str) -> str:
    action = os.environ.get(VARIABLE, "raise") if on_error == "default" else on_error
    if action in _ACTIONS:
        return action
    name = VARIABLE if on_error == "default" else "on_error"
    raise TransformError(
        report(
            f"error_if: unknown value of {name}.",
            expected=", ".join(map(repr, _ACTIONS)),
            got=short(repr(action)),
        )
    )


def _no_array(x: Any) -> TransformError:
    return TransformError(
        report(
            "error_if: there is no array to tie the check to.",
            expected="a pytree with at least one array, which is used afterwards",
            got=short(repr(x)),
            fix="x = error_if(x, pred, msg), with an array x that is computed with",
        )
    )


class _NotOurs(logging.Filter):
    """Drops what JAX logs of a failing check: the caller gets its error anyway."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], Failure))


_not_ours = _NotOurs()


def _quiet_jax() -> None:
    logging.getLogger(CALLBACK_LOGGER).addFilter(_not_ours)  # once, however often
