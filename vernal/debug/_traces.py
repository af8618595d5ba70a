"""Counting how often a function is traced, and saying why it was traced anew."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, overload

from .._module.callables import module_update_wrapper
from .._module.fields import field
from .._transform.wrapper import Wrapper, check_callable
from .._tree.format import tree_pformat
from ..errors import TraceCountError, TransformError, report, short
from ._signature import Signature, changes, describe

_P = ParamSpec("_P")
_T = TypeVar("_T")


class _Count:
    """How often, and with what; shared by all copies of a wrapped function."""

    def __init__(self) -> None:
        self.traces = 0
        self.last: Signature = {}


class _MaxTraces(Wrapper):
    max_traces: int | None = field(static=True)
    count: _Count = field(static=True, repr=False)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        count, now = self.count, describe(self.fun, args, kwargs)
        if self.max_traces is not None and count.traces >= self.max_traces:
            raise _too_many(self, now)
        count.traces += 1
        count.last = now
        return self.fun(*args, **kwargs)


@overload
def assert_max_traces(
    *, max_traces: int | None
) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]: ...
@overload
def assert_max_traces(
    fn: Callable[_P, _T], *, max_traces: int | None
) -> Callable[_P, _T]: ...
def assert_max_traces(
    fn: Callable[..., Any] | None = None, *, max_traces: int | None
) -> Any:
    """Refuses to be called more often than allowed: inside of a jit, to be traced.

    A training step that is compiled more than once is nearly always a mistake: a shape
    that varies, a number that should be an array. The error says which argument is not
    what it was.

    Arguments:
        fn: the function, below ``jax.jit`` or :func:`filter_jit`.
        max_traces: the number of calls allowed; None: any, they are counted only.

    Returns:
        The function, which raises ``TraceCountError`` at one call too many.

    >>> import vernal as vn, jax.numpy as jnp
    >>> @vn.filter_jit
    ... @vn.debug.assert_max_traces(max_traces=1)
    ... def step(xs, rate):
    ...     return rate * xs
    >>> _ = step(jnp.ones(3), 0.1), step(jnp.ones(3), 0.1)
    >>> vn.debug.get_num_traces(step)
    1
    """
    if fn is None:
        return functools.partial(assert_max_traces, max_traces=max_traces)
    check_callable("assert_max_traces", fn)
    return module_update_wrapper(_MaxTraces(fn, max_traces, _Count()))


def get_num_traces(fn: Callable[..., Any]) -> int:
    """How often a function below :func:`assert_max_traces` has been called.

    Arguments:
        fn: what ``assert_max_traces`` returned, or a wrapper around it.

    Raises:
        TransformError: there is no ``assert_max_traces`` in it.

    >>> import vernal as vn
    >>> f = vn.debug.assert_max_traces(lambda x: x, max_traces=None)
    >>> _ = f(1), f(2)
    >>> vn.debug.get_num_traces(f)
    2
    """
    inner: Any = fn
    while inner is not None:
        if isinstance(inner, _MaxTraces):
            return inner.count.traces
        inner = getattr(inner, "__wrapped__", None)
    raise TransformError(
        report(
            "get_num_traces: the function does not count its traces.",
            expected="a function decorated with `assert_max_traces`",
            got=short(repr(fn)),
        )
    )


def _too_many(wrapper: _MaxTraces, now: Signature) -> TraceCountError:
    name = getattr(wrapper.fun, "__name__", None) or tree_pformat(wrapper.fun)
    found = changes(wrapper.count.last, now)
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return TraceCountError(
        report(
            f"{name} was traced more often than allowed: {wrapper.count.traces + 1}.",
            expected=f"max_traces = {wrapper.max_traces}",
            got=f"{found[0]}{more}" if found else "the same arguments as before",
            fix="keep shapes, dtypes and static values the same from call to call"
            if found
            else "make the jitted function once, not anew for each call",
        )
    )
