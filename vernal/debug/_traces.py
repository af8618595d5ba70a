"""Counting how often a function is traced, and saying why it was traced anew."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, overload

import jax

from .._module.callables import module_update_wrapper
from .._module.fields import field
from .._transform.wrapper import Wrapper, check_callable
from .._tree.filters import is_array
from .._tree.format import tree_pformat
from .._tree.paths import path_text
from ..errors import TraceCountError, TransformError, report, short


class _Count:
    """How often, and with what; shared by all copies of a wrapped function."""

    def __init__(self) -> None:
        self.traces = 0
        self.last: tuple[dict[str, str], dict[str, str]] = ({}, {})


class _MaxTraces(Wrapper):
    max_traces: int | None = field(static=True)
    count: _Count = field(static=True, repr=False)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        count, now = self.count, _describe(self.fun, args, kwargs)
        if self.max_traces is not None and count.traces >= self.max_traces:
            raise _too_many(self, now)
        count.traces += 1
        count.last = now
        return self.fun(*args, **kwargs)


@overload
def assert_max_traces(
    *, max_traces: int | None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]: ...
@overload
def assert_max_traces(
    fn: Callable[..., Any], *, max_traces: int | None
) -> Callable[..., Any]: ...
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


def _describe(
    fun: Any, args: Any, kwargs: Any
) -> tuple[dict[str, str], dict[str, str]]:
    """What the trace depends on: path -> shape and dtype, or value; and as printed."""
    try:
        arguments: dict[str, Any] = (
            inspect.signature(fun).bind(*args, **kwargs).arguments
        )
    except (TypeError, ValueError):  # it has no signature, or another one
        arguments = {"args": args, "kwargs": kwargs}
    found: dict[str, str] = {}
    static: dict[str, str] = {}
    for name, value in arguments.items():
        # One field to a line: static ones, too, which are no leaves.
        lines = tree_pformat(value, width=1).splitlines()
        static |= {f"{name}, line {i}": x.strip() for i, x in enumerate(lines)}
        for path, leaf in jax.tree_util.tree_leaves_with_path(value):
            place = path_text(path)
            dot = "." if place and place[0] != "[" else ""
            found[f"{name}{dot}{place}"] = _leaf_text(leaf)
    return found, static


def _leaf_text(leaf: Any) -> str:
    weak = " weakly typed" if getattr(leaf, "weak_type", False) else ""
    text = f"{leaf.dtype.name}{leaf.shape}" if is_array(leaf) else repr(leaf)
    return short(text) + weak


def _too_many(wrapper: _MaxTraces, now: tuple[dict[str, str], ...]) -> TraceCountError:
    name = getattr(wrapper.fun, "__name__", None) or tree_pformat(wrapper.fun)
    pairs = list(zip(wrapper.count.last, now, strict=True))
    changes = _changes(*pairs[0]) or _changes(*pairs[1])
    more = f" (and {len(changes) - 1} more)" if len(changes) > 1 else ""
    return TraceCountError(
        report(
            f"{name} was traced more often than allowed: {wrapper.count.traces + 1}.",
            expected=f"max_traces = {wrapper.max_traces}",
            got=f"{changes[0]}{more}" if changes else "the same arguments as before",
            fix="keep shapes, dtypes and static values the same from call to call"
            if changes
            else "make the jitted function once, not anew for each call",
        )
    )


def _changes(before: dict[str, str], now: dict[str, str]) -> list[str]:
    return [
        f"{place}: {now.get(place, 'absent')}, before {before.get(place, 'absent')}"
        for place in {**before, **now}
        if before.get(place) != now.get(place)
    ]
