"""``filter_pmap``: ``jax.pmap`` for functions of arbitrary pytrees."""

import functools
from collections.abc import Callable, Hashable
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
import numpy as np

from .._module.callables import module_update_wrapper
from .._module.fields import field
from .._tree.filters import combine, is_array, partition
from ..errors import TransformError, report, short
from ..typing import AxisSpec, PyTree
from .axes import if_array, per_argument, per_leaf
from .jit import Cache
from .silence import restoring, silence_donation
from .split import Hidden, Layout, hide, layout_of, merge, reveal, split, unhashable
from .vectors import is_none
from .wrapper import Wrapper, check_callable

Donate = Literal["all", "warn", "none"]
_DONATE = ("all", "warn", "none")
_REFUSED = {
    "static_broadcasted_argnums": "values that are no arrays are static already",
    "donate_argnums": '`donate="all"`',
}


class _Compiled:
    """The parallel function for one layout of the arguments, and one choice of axes."""

    def __init__(self, wrapper: "_PmapWrapper", layout: Layout, axes: Any) -> None:
        self.layout = layout
        self.out_axes = wrapper.out_axes
        self.quiet = wrapper.donate == "all"
        options = dict(wrapper.options)
        size = options["axis_size"]
        # JAX wants one mapped argument, whatever it is.
        is_mapped = any(axis is not None for axis in axes)
        self.extra = [] if is_mapped else [np.zeros(size, np.int8)]
        if wrapper.donate != "none":
            options["donate_argnums"] = 0
        traced = functools.partial(self.trace)
        traced.__name__ = getattr(wrapper.fun, "__name__", "function")  # type: ignore[attr-defined]
        in_axes, out_axes = (list(axes), [0] * len(self.extra)), (0, None, None)
        self.run = jax.pmap(traced, in_axes=in_axes, out_axes=out_axes, **options)

    def __call__(self, arrays: list[Any]) -> Any:
        mapped, rest, axes = restoring(self.run, arrays, self.extra)
        return combine(jax.tree.map(_moved, mapped, axes.values), reveal(*rest))

    def trace(self, arrays: list[Any], extra: list[Any]) -> Any:
        if self.quiet:
            silence_donation()
        tree = merge(arrays, self.layout.treedef, self.layout.static)
        fun, args, kwargs = tree
        out = fun(*args, **kwargs)
        axes = per_leaf("filter_pmap: `out_axes`", self.out_axes, out)
        is_mapped = jax.tree.map(lambda a: a is not None, axes, is_leaf=is_none)
        mapped, rest = partition(out, is_mapped)
        return mapped, hide(rest), Hidden(axes)


def _moved(x: Any, axis: int) -> Any:
    return x if axis == 0 else jnp.moveaxis(x, 0, axis)


class _PmapWrapper(Wrapper):
    in_axes: PyTree[AxisSpec] = field(static=True)
    out_axes: PyTree[AxisSpec] = field(static=True)
    donate: str = field(static=True)
    options: tuple[tuple[str, Any], ...] = field(static=True)
    cache: Cache = field(static=True, repr=False)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        tree = (self.fun, args, kwargs)
        arrays, treedef, static = split(tree)
        axes = tuple(self._axes(treedef, args, kwargs))
        try:
            layout = layout_of(treedef, static)
        except TypeError:
            raise unhashable(tree, "filter_pmap") from None
        compiled = self.cache.get((layout, axes))
        if compiled is None:
            compiled = _Compiled(self, layout, axes)
            self.cache[layout, axes] = compiled
        return compiled(arrays)

    def _axes(self, treedef: Any, args: Any, kwargs: Any) -> list[int | None]:
        """The mapped axis of each array, counted from the front."""
        name = "filter_pmap: `in_axes`"
        in_axes = per_argument("filter_pmap", self.fun, self.in_axes, args)
        leaves = treedef.flatten_up_to((self.fun, args, kwargs))
        axes = treedef.flatten_up_to(
            (
                per_leaf(name, None, self.fun),
                per_leaf(name, in_axes, args),
                per_leaf(name, if_array(0), kwargs),
            )
        )
        pairs = list(zip(leaves, axes, strict=True))
        _check_sizes(pairs, dict(self.options)["axis_size"])
        return [
            axis if axis is None else axis % leaf.ndim
            for leaf, axis in pairs
            if is_array(leaf)
        ]


def _check_sizes(pairs: list[tuple[Any, int | None]], axis_size: int | None) -> None:
    """Refuses axes that are not there, or not all of one size."""
    sizes = set() if axis_size is None else {axis_size}
    for leaf, axis in pairs:
        if axis is None:
            continue
        ndim = leaf.ndim if is_array(leaf) else 0
        if not -ndim <= axis < ndim:
            raise _refused(
                "`in_axes` gives a leaf an axis that it does not have",
                expected="None, or an axis of the array",
                got=f"axis {axis} of {_kind(leaf)}",
                fix=f"`vn.if_array({axis})` is for arrays only",
            )
        sizes.add(leaf.shape[axis])
    if not sizes:
        raise _refused(
            "there is no axis to map over",
            expected="at least one array argument with an axis, or `axis_size`",
            got="no mapped arguments",
            fix="pass `axis_size=`",
        )
    if len(sizes) > 1:
        raise _refused(
            "the mapped axes have different sizes",
            expected="one size for all, and for `axis_size`",
            got=", ".join(map(str, sorted(sizes))),
        )


def _kind(leaf: Any) -> str:
    what = f"shape {leaf.shape}" if is_array(leaf) else short(repr(leaf))
    return f"{what} of type {type(leaf).__name__}"


def _refused(title: str, **rows: str) -> TransformError:
    return TransformError(report(f"filter_pmap: {title}.", **rows))


@overload
def filter_pmap(
    *,
    in_axes: PyTree[AxisSpec] = ...,
    out_axes: PyTree[AxisSpec] = ...,
    axis_name: Hashable = None,
    axis_size: int | None = None,
    donate: Donate = "none",
    **pmapkwargs: Any,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]: ...
@overload
def filter_pmap(
    fun: Callable[..., Any],
    *,
    in_axes: PyTree[AxisSpec] = ...,
    out_axes: PyTree[AxisSpec] = ...,
    axis_name: Hashable = None,
    axis_size: int | None = None,
    donate: Donate = "none",
    **pmapkwargs: Any,
) -> Callable[..., Any]: ...
def filter_pmap(
    fun: Callable[..., Any] | None = None,
    *,
    in_axes: PyTree[AxisSpec] = if_array(axis=0),
    out_axes: PyTree[AxisSpec] = if_array(axis=0),
    axis_name: Hashable = None,
    axis_size: int | None = None,
    donate: Donate = "none",
    **pmapkwargs: Any,
) -> Any:
    """Runs a function of arbitrary pytrees on several devices at once.

    Each device gets one index of the mapped axis. For new programs JAX recommends
    :func:`filter_jit` on sharded arrays (see :func:`filter_shard`) or
    ``jax.shard_map``. The function is compiled as by :func:`filter_jit`: leaves that
    are no arrays are static.

    Arguments:
        fun: the function. Its own arrays are the same on all devices.
        in_axes, out_axes: which axes are mapped, as in :func:`filter_vmap`.
        axis_name: a name for the axis, for collectives such as ``jax.lax.pmean``.
        axis_size: its size; needed only where no argument is mapped.
        donate: whether the outputs may take over the buffers of the arguments:
            ``"none"`` (default), ``"all"``, or ``"warn"``: as ``"all"``, with JAX's
            warning about buffers that no output could use.
        **pmapkwargs: passed to ``jax.pmap``: ``devices``, ``backend``.

    Raises:
        TransformError: an axis is none; there is no axis to map over; an option has
            no meaning here; or a leaf is neither an array nor hashable.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> x = jnp.arange(jax.device_count())
    >>> bool((vn.filter_pmap(lambda x, f: f(x))(x, jnp.square) == x**2).all())
    True
    """
    options = {"axis_name": axis_name, "axis_size": axis_size, **pmapkwargs}
    if donate not in _DONATE:
        raise TransformError(
            report(
                "filter_pmap: unknown value of `donate`.",
                expected=", ".join(map(repr, _DONATE)),
                got=repr(donate),
            )
        )
    for name in pmapkwargs:
        if name in _REFUSED:
            raise TransformError(
                report(f"filter_pmap: `{name}` is not supported.", fix=_REFUSED[name])
            )
    if fun is None:
        given = {"in_axes": in_axes, "out_axes": out_axes, "donate": donate}
        return functools.partial(filter_pmap, **given, **options)
    check_callable("filter_pmap", fun)
    static = (in_axes, out_axes, donate, tuple(options.items()), Cache())
    return module_update_wrapper(_PmapWrapper(fun, *static))
