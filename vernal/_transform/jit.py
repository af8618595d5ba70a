"""``filter_jit``: ``jax.jit`` for functions of arbitrary pytrees.

A call flattens its arguments, looks up the compiled function that belongs to
everything that is not an array, and calls it with a flat list of arrays. Nothing here
waits for the device, and whatever can be done once per trace is done there.
"""

import functools
import weakref
from collections.abc import Callable
from typing import Any, Generic, Literal, ParamSpec, TypeVar, overload

import jax

from .._module.callables import module_update_wrapper
from .._module.fields import field
from .._module.register import is_function
from .._tree.filters import is_array
from ..errors import TransformError, report
from .failures import argument_name, first_deleted, has_checks, reveal_failure
from .silence import restoring, silence_donation
from .split import (
    ARRAY,
    Layout,
    is_abstract,
    layout_of,
    merge,
    split,
    unhashable,
)
from .wrapper import Wrapper, check_callable

_P = ParamSpec("_P")
_T = TypeVar("_T")

Donate = Literal["all", "all-except-first", "warn", "warn-except-first", "none"]
_DONATE = ("all", "all-except-first", "warn", "warn-except-first", "none")
_REFUSED = {
    "static_argnums": "values that are no arrays are static already",
    "static_argnames": "values that are no arrays are static already",
    "donate_argnums": '`donate="all"` or `donate="all-except-first"`',
    "donate_argnames": '`donate="all"` or `donate="all-except-first"`',
    "in_shardings": "`jax.jit`, which takes models of built-in layers as they are",
    "out_shardings": "`jax.jit`, which takes models of built-in layers as they are",
}


class _Output:
    """What the compiled function returns; JAX keeps the metadata with each trace."""

    def __init__(self, arrays: list[Any], treedef: Any, static: Any) -> None:
        self.arrays = arrays
        self.metadata = _OutputMetadata(treedef, static)


class _OutputMetadata:  # compared by identity: leaves may be of any type
    def __init__(self, treedef: Any, static: Any) -> None:
        self.treedef = treedef
        self.static = static


# Unflattening gives the user's own output at once, so it is built only one time.
jax.tree_util.register_pytree_node(
    _Output,
    lambda out: (out.arrays, out.metadata),
    lambda meta, arrays: merge(arrays, meta.treedef, meta.static),
)


class _Compiled:
    """The jitted function for one layout of the arguments."""

    def __init__(self, wrapper: "_JitWrapper[..., Any]", layout: Layout) -> None:
        self.layout = layout
        self.has_fun = not is_function(wrapper.fun)
        self.fun = None if self.has_fun else wrapper.fun
        self.first, self.last = _kept_range(wrapper.donate, layout, self.has_fun)
        self.quiet = wrapper.donate.startswith("all")
        options = dict(wrapper.options)
        if wrapper.donate != "none":
            options["donate_argnums"] = 1
        self.name = getattr(wrapper.fun, "__name__", "function")
        traced = functools.partial(self.trace)
        traced.__name__ = self.name  # type: ignore[attr-defined]
        self.jitted = jax.jit(traced, **options)
        self.is_new = self.has_checks = False
        self.traces = 0

    def arrange(self, arrays: list[Any]) -> tuple[list[Any], list[Any]]:
        """Orders arrays into those that are kept and those that are donated."""
        if self.last is None:
            return arrays, []
        a, b = self.first, self.last
        return arrays[a:b], arrays[:a] + arrays[b:]

    def run(self, function: Callable[..., Any], arrays: list[Any]) -> Any:
        """Calls the jitted function, or a compiled form of it."""
        kept, donated = self.arrange(arrays)
        try:
            if self.quiet:
                out = restoring(function, kept, donated)
            else:
                out = function(kept, donated)
            if self.is_new:
                self.look_for_checks(kept, donated)
            # Only what can fail is waited for, so that it fails here.
            return jax.block_until_ready(out) if self.has_checks else out
        except Exception as error:
            reveal_failure(error, self.name)
            gone = first_deleted(error, arrays)
            if gone is not None:
                raise self.was_donated(gone, len(arrays)) from None
            raise

    def was_donated(self, gone: int, count: int) -> TransformError:
        """Explains which array is no longer there, by the name of its argument."""
        marks = [object() for _ in range(count)]
        tree = merge(marks, self.layout.treedef, self.layout.static)
        fun, args, kwargs = tree if self.has_fun else (self.fun, *tree)
        place = argument_name(fun, args, kwargs, marks[gone])
        return TransformError(
            report(
                f"{self.name}: the buffer of `{place}` is no longer there.",
                expected="arguments that no call has been given to keep",
                got="an array that was donated to an earlier call, or deleted",
                fix="go on with what that call returned: state = step(state); or make "
                "a copy before, jax.tree.map(jnp.copy, state)",
            )
        )

    def look_for_checks(self, kept: list[Any], donated: list[Any]) -> None:
        """Runs after each compilation; the trace that it asks for is at hand."""
        self.is_new = False
        if not self.has_checks:
            self.has_checks = has_checks(self.jitted.trace(kept, donated).jaxpr)

    def lower(self, arrays: list[Any]) -> Any:
        kept, donated = self.arrange(arrays)
        lowered = restoring(self.jitted.lower, kept, donated)
        self.look_for_checks(kept, donated)
        return lowered

    def trace(self, kept: list[Any], donated: list[Any]) -> Any:
        """The function that JAX traces; runs in Python once per compilation."""
        self.is_new = True
        self.traces += 1
        if self.quiet:
            silence_donation()
        a = self.first
        arrays = donated[:a] + kept + donated[a:]
        tree = merge(arrays, self.layout.treedef, self.layout.static)
        fun, args, kwargs = tree if self.has_fun else (self.fun, *tree)
        out = fun(*args, **kwargs)
        arrays, treedef, static = split(out)
        return out if static is None else _Output(arrays, treedef, static)


def _kept_range(donate: str, layout: Layout, has_fun: bool) -> tuple[int, int | None]:
    """Which slice of the arrays is not donated; an end of None means all of them."""
    if donate == "none":
        return 0, None
    if not donate.endswith("except-first"):
        return 0, 0
    *fun, args, _ = layout.treedef.children()
    counts = [tree.num_leaves for tree in (*fun, *args.children()[:1])]
    start, stop = sum(counts[: len(fun)]), sum(counts)
    if layout.static is None:
        return start, stop
    is_array = [x is ARRAY for x in layout.static]
    return sum(is_array[:start]), sum(is_array[:stop])


class Cache(dict[Any, Any]):
    """The compiled functions of one wrapper; compared by identity.

    Nearly every call has the layout of the one before, and only arrays for leaves: then
    one comparison of treedefs finds the function, and nothing is hashed.
    """

    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__

    def __init__(self) -> None:
        _caches.add(self)
        self.clear()

    def clear(self) -> None:
        super().clear()
        self.latest: _Compiled | None = None  # of the last call with only arrays

    def __reduce__(self) -> Any:
        return Cache, ()  # copies compile for themselves


_caches: weakref.WeakSet[Cache] = weakref.WeakSet()


def clear_caches() -> None:
    """Forgets all compiled functions, JAX's and vernal's: the next call compiles anew.

    It gives memory back in a process that compiles very many functions.

    >>> import vernal as vn
    >>> vn.clear_caches()
    """
    for cache in list(_caches):
        cache.clear()
    jax.clear_caches()


class _JitWrapper(Wrapper, Generic[_P, _T]):
    donate: str = field(static=True)
    options: tuple[tuple[str, Any], ...] = field(static=True)
    cache: Cache = field(static=True, repr=False)

    def __call__(self, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        compiled, arrays = _lookup(self, args, kwargs)
        return compiled.run(compiled.jitted, arrays)

    def lower(self, /, *args: Any, **kwargs: Any) -> "Lowered":
        """Traces and lowers the function for these arguments; does not run it."""
        compiled, arrays = _lookup(self, args, kwargs, is_abstract)
        return Lowered(self, compiled, compiled.lower(arrays))


def _lookup(
    wrapper: _JitWrapper[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    is_traced: Callable[[Any], bool] = is_array,
) -> tuple[_Compiled, list[Any]]:
    fun = wrapper.fun
    tree = (args, kwargs) if is_function(fun) else (fun, args, kwargs)
    arrays, treedef, static = split(tree, is_traced)
    cache = wrapper.cache
    latest = cache.latest  # read once, as other threads may call, too
    if static is None and latest is not None and treedef == latest.layout.treedef:
        return latest, arrays
    try:
        layout = layout_of(treedef, static)
    except TypeError:
        raise unhashable(tree) from None
    compiled = cache.get(layout)
    if compiled is None:
        compiled = cache[layout] = _Compiled(wrapper, layout)
    if static is None:
        cache.latest = compiled
    return compiled, arrays


def is_filter_jit(fun: Any) -> bool:
    """Whether this is what :func:`filter_jit` returned."""
    return isinstance(fun, _JitWrapper)


def jitted_functions(wrapper: Any) -> list[Any]:
    """The functions of ``jax.jit`` that a wrapper has made so far, one per layout."""
    return [compiled.jitted for compiled in wrapper.cache.values()]


def count_traces(wrapper: Any) -> int:
    """How often the function was traced, for all layouts together."""
    return sum(compiled.traces for compiled in wrapper.cache.values())


class Lowered:
    """A lowered function, as ``jax.stages.Lowered``: compile it, or look at it.

    Attributes:
        lowered: the ``jax.stages.Lowered`` inside.
    """

    def __init__(
        self, wrapper: _JitWrapper[..., Any], inner: _Compiled, lowered: Any
    ) -> None:
        self._wrapper = wrapper
        self._inner = inner
        self.lowered = lowered

    def as_text(self, *args: Any, **kwargs: Any) -> str:
        """The lowered program as text (StableHLO unless asked otherwise)."""
        return str(self.lowered.as_text(*args, **kwargs))

    def compile(self, *args: Any, **kwargs: Any) -> "Compiled":
        """Compiles, without running."""
        compiled = self.lowered.compile(*args, **kwargs)
        return Compiled(self._wrapper, self._inner, compiled)


class Compiled:
    """A compiled function: call it with arguments like those it was lowered for.

    Attributes:
        compiled: the ``jax.stages.Compiled`` inside, with its cost and memory analysis.
    """

    def __init__(
        self, wrapper: _JitWrapper[..., Any], inner: _Compiled, compiled: Any
    ) -> None:
        self._wrapper = wrapper
        self._inner = inner
        self.compiled = compiled

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        inner, arrays = _lookup(self._wrapper, args, kwargs)
        if inner is not self._inner:
            raise TransformError(
                report(
                    "a compiled function was called with other arguments.",
                    expected="the structure and static values it was lowered for",
                    got="another structure, or another value that is no array",
                    fix="lower and compile again for these arguments",
                )
            )
        return inner.run(self.compiled, arrays)


@overload
def filter_jit(
    *, donate: Donate = "none", **jitkwargs: Any
) -> Callable[[Callable[_P, _T]], _JitWrapper[_P, _T]]: ...
@overload
def filter_jit(
    fun: Callable[_P, _T], *, donate: Donate = "none", **jitkwargs: Any
) -> _JitWrapper[_P, _T]: ...
def filter_jit(
    fun: Callable[..., Any] | None = None, *, donate: Donate = "none", **jitkwargs: Any
) -> Any:
    """Compiles a function whose arguments and results may be any pytrees.

    All JAX and NumPy arrays among the arguments are traced; every other leaf is
    static: its value is a constant of the compiled function, which is compiled anew
    when the value changes. (Functions are compared by identity: make an optimizer, say,
    once.) A call returns before the device has finished, as with ``jax.jit``; only a
    function that contains runtime checks is waited for, so that they can raise.

    Arguments:
        fun: the function; may be a Module or a bound method, whose arrays are traced.
        donate: whose buffers the outputs may take over: ``"none"`` (default);
            ``"all"`` arguments' (and those in ``fun``); ``"all-except-first"``: not
            the first argument's. The arrays given away cannot be used again.
            ``"warn"`` and ``"warn-except-first"`` do the same, and leave JAX's
            warning about donated buffers that no output could use.
        **jitkwargs: passed to ``jax.jit``: ``keep_unused``, ``inline``,
            ``compiler_options`` …

    Returns:
        The compiled function. ``.lower(*args)`` traces and lowers it without running.

    Raises:
        TransformError: an option of ``jax.jit`` that has no meaning here, or a leaf
            that is neither an array nor hashable.

    >>> import vernal as vn, jax.numpy as jnp
    >>> @vn.filter_jit
    ... def scale(x, mode):
    ...     return 2 * x if mode == "double" else x
    >>> scale(jnp.arange(3), "double")
    Array([0, 2, 4], dtype=int32)
    """
    if donate not in _DONATE:
        raise TransformError(
            report(
                "filter_jit: unknown value of `donate`.",
                expected=", ".join(map(repr, _DONATE)),
                got=repr(donate),
            )
        )
    for name in jitkwargs:
        if name in _REFUSED:
            raise TransformError(
                report(f"filter_jit: `{name}` is not supported.", fix=_REFUSED[name])
            )
    if fun is None:
        return functools.partial(filter_jit, donate=donate, **jitkwargs)
    check_callable("filter_jit", fun)
    options = tuple(jitkwargs.items())
    return module_update_wrapper(_JitWrapper(fun, donate, options, Cache()))
