"""Saying why a jitted function was compiled again."""

import inspect
import warnings
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from .._compat import compilations
from .._module.callables import Partial, module_update_wrapper
from .._module.fields import field
from .._module.register import is_function
from .._transform.jit import count_traces, is_filter_jit, jitted_functions
from .._transform.wrapper import Wrapper, check_callable
from .._tree.format import innermost
from ..errors import TransformError, report, short
from ._signature import (
    Change,
    Entry,
    Signature,
    changes,
    describe,
    entries,
    same_type,
    same_value,
)

REMEMBERED = 8  # compilations that a new one is compared with
SHOWN = 3  # changes in one explanation
KEPT = 100  # explanations

# What the code of a function was compiled for last, and for whom.
_Last = tuple[weakref.ref["_History"], Signature]
_of_code: weakref.WeakKeyDictionary[Any, _Last] = weakref.WeakKeyDictionary()


class _History:
    """The calls and compilations of one function; shared by all copies of it."""

    def __init__(self) -> None:
        self.calls = 0
        self.compiled = 0
        self.signatures: deque[Signature] = deque(maxlen=REMEMBERED)
        self.explanations: deque[str] = deque(maxlen=KEPT)


class Explained(Wrapper):
    # Made by `explain_retrace`, which has the documentation.

    history: _History = field(static=True, repr=False)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        history, before = self.history, _count(self.fun)
        out = self.fun(*args, **kwargs)
        history.calls += 1
        # Only now, and only if it was compiled, are the arguments looked at: of arrays
        # that were donated everything but the values is still there.
        count = _count(self.fun)
        is_counted = any(a > b for a, b in zip(count, before, strict=True))
        if is_counted or (not any(count) and _is_new(self, args, kwargs)):
            is_first = not any(before) and not history.compiled
            _note(self, args, kwargs, is_first)
        return out

    @property
    def explanations(self) -> tuple[str, ...]:
        """The reasons of all compilations but the first; of very many the last 100."""
        return tuple(self.history.explanations)

    def __repr__(self) -> str:
        history, name = self.history, _name(self.fun)
        if history.explanations:
            return "\n".join(history.explanations)
        if not history.calls:
            return f"{name} was not called yet."
        calls = f"{history.calls} call{'' if history.calls == 1 else 's'}"
        done = "compiled once" if history.compiled else "not compiled"
        return f"{name} was {done} in {calls}: nothing was retraced."


def explain_retrace(fn: Callable[..., Any]) -> Explained:
    """Says why a jitted function is compiled again, whenever it is.

    The reason is the smallest difference from a call that it was compiled for before:
    which argument, by its path, has another shape, dtype, weak type, placement or
    structure; which static value or field of a Module changed; which function was
    made anew. It is given as a warning at the call. ``print(step)`` shows all of them,
    or that nothing was retraced.

    A call that compiles nothing costs a few microseconds more. Functions that are not
    wrapped are not touched. (To make a second compilation an error, and in calls under
    an outer ``jit``, use :func:`assert_max_traces`.)

    Arguments:
        fn: what ``jax.jit`` or :func:`filter_jit` returned; also a method.

    Returns:
        A function to be called in its place. Its ``explanations`` are a tuple of texts.

    Raises:
        TransformError: the function is not jitted.

    >>> import vernal as vn, jax.numpy as jnp, warnings
    >>> @vn.debug.explain_retrace
    ... @vn.filter_jit
    ... def step(xs, rate):
    ...     return rate * xs
    >>> _ = step(jnp.ones(3), 0.1), step(jnp.ones(3), 0.1)
    >>> print(step)
    step was compiled once in 2 calls: nothing was retraced.
    >>> with warnings.catch_warnings(action="ignore"):
    ...     _ = step(jnp.ones(3), 0.2)
    >>> print(step)
    step was compiled again, in call 3:
      `rate` changed 0.1 -> 0.2 (static float): pass an array
    """
    check_callable("explain_retrace", fn)
    _count(fn)
    return module_update_wrapper(Explained(fn, _History()))


def _parts(fn: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """The jitted function in a method or Partial, and the arguments that it holds."""
    if isinstance(fn, Partial):
        return fn.func, fn.args, fn.keywords
    if inspect.ismethod(fn):
        return fn.__func__, (fn.__self__,), {}
    return fn, (), {}


def _count(fn: Any) -> tuple[int, int]:
    """How often a jitted function was traced, as far as is known, and compiled."""
    inner, _, _ = _parts(fn)
    is_filtered = is_filter_jit(inner)
    jitted = jitted_functions(inner) if is_filtered else [inner]
    counts = [compilations(x) for x in jitted]
    if None in counts:
        raise TransformError(
            report(
                "explain_retrace: the function is not jitted.",
                expected="what `jax.jit` or `filter_jit` returned",
                got=short(repr(fn)),
                fix="explain_retrace(jax.jit(fn))",
            )
        )
    traces = count_traces(inner) if is_filtered else 0
    return traces, sum(n for n in counts if n)


def _is_new(self: Explained, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether no call was like this one.

    JAX does not count compilations of functions that it has no room to remember, in a
    program with more than 8,192 of them.
    """
    fun, first, held = _parts(self.fun)
    now = _describe_call(fun, (*first, *args), {**held, **kwargs})
    same = same_value if is_filter_jit(fun) else same_type
    return all(changes(before, now, same) for before in self.history.signatures)


def _note(
    self: Explained, args: tuple[Any, ...], kwargs: dict[str, Any], is_first: bool
) -> None:
    """Explains a compilation, if it is not the first."""
    history, name = self.history, _name(self.fun)
    fun, first, held = _parts(self.fun)
    args, kwargs = (*first, *args), {**held, **kwargs}
    now = _describe_call(fun, args, kwargs)
    code = getattr(innermost(fun), "__code__", None)
    history.compiled += 1
    reasons = _reasons(history.signatures, now, is_filter_jit(fun))
    if not is_first:
        _tell(history, f"{name} was compiled again, in call {history.calls}:", reasons)
    elif _is_anew(code, now):
        title = f"{name} was compiled again, as it was jitted anew:"
        reasons = ["the arguments are the same: jit it once, not in a loop"]
        _tell(history, title, reasons)
    history.signatures.append(now)
    if code is not None:
        _of_code[code] = weakref.ref(history), now


def _is_anew(code: Any, now: Signature) -> bool:
    """Whether the same was compiled before, for a jitted function that is gone."""
    last, before = _of_code.get(code, (None, {})) if code else (None, {})
    return last is not None and last() is None and not changes(before, now)


def _tell(history: _History, title: str, reasons: list[str]) -> None:
    text = "\n".join([title, *[f"  {reason}" for reason in reasons]])
    history.explanations.append(text)
    warnings.warn(text, stacklevel=4)


def _describe_call(
    fun: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Signature:
    form = (len(args), sorted(kwargs))
    text = ", ".join([f"{len(args)} by position", *[f"{k}=" for k in form[1]]])
    found: Signature = {"the call": Entry("static", f"({text})", form)}
    inner = fun.fun if is_filter_jit(fun) else fun
    found.update(describe(inner, args, kwargs))
    if is_filter_jit(fun) and not is_function(inner):
        found.update(entries(type(inner).__name__, inner))
    return found


def _reasons(known: Any, now: Signature, is_filtered: bool) -> list[str]:
    """The smallest difference from what is known, in words."""
    if not known:
        return ["what it was compiled for before was not seen"]
    found: list[Change] = []
    # Numbers are static under filter_jit. Under jax.jit their type counts; and if
    # nothing else is the reason, they are among its static arguments.
    for same in [same_value] if is_filtered else [same_type, same_value]:
        options = [changes(before, now, same) for before in reversed(known)]
        found = min(options, key=len)
        if found:
            break
    if not found:
        return [
            "no argument differs: a setting of JAX changed, or its caches were cleared"
        ]
    more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    return [_explain(change) for change in found[:SHOWN]] + more


def _explain(change: Change) -> str:
    path, before, now = change
    what, fix = _advice(before, now)
    if before and now and before.text == now.text:
        return f"`{path}` is another {now.text} than before{what}: {fix}"
    texts = [x.text if x else "absent" for x in (before, now)]
    return f"`{path}` changed {texts[0]} -> {texts[1]}{what}: {fix}"


def _advice(before: Entry | None, now: Entry | None) -> tuple[str, str]:
    """What kind of change it is, in brackets; and what to do about it."""
    kinds = [x.kind if x else "" for x in (before, now)]
    if "structure" in kinds or before is None or now is None:
        if "placement" in kinds:
            return "", "put it on the same devices each time: jax.device_put"
        return " (structure)", "pass trees of the same structure"
    if kinds == ["array", "array"]:
        return _advice_on_arrays(before, now)
    if kinds == ["number", "number"]:
        types = {x.value[0].__name__ for x in (before, now)}
        what = f"static {types.pop()}" if len(types) == 1 else "type"
        return f" ({what})", "pass an array"
    if "array" in kinds:
        return "", "pass an array each time"
    if "placement" in kinds:
        return "", "put it on the same devices each time: jax.device_put"
    if callable(now.value):
        return " (static)", "make it once, not anew for each call"
    return " (static)", "keep it the same from call to call"


def _advice_on_arrays(before: Entry, now: Entry) -> tuple[str, str]:
    (shape1, dtype1, _), (shape2, dtype2, _) = before.value, now.value
    if shape1 != shape2:
        return " (shape)", "keep shapes the same: pad, or leave a short batch out"
    if dtype1 != dtype2:
        return " (dtype)", f"convert it: x.astype({dtype1.name!r})"
    fix = f"give it a dtype where it is made: jnp.asarray(x, {dtype1.name!r})"
    return " (weak type)", fix


def _name(fn: Any) -> str:
    return str(getattr(_parts(fn)[0], "__name__", None) or type(fn).__name__)
