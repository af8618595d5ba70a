"""``filter_vmap``: ``jax.vmap`` for functions of arbitrary pytrees."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Hashable
from typing import Any, overload

import jax
import jax.numpy as jnp

from .._module.callables import module_update_wrapper
from .._module.fields import field
from .._tree.filters import combine, is_array, partition
from ..errors import TransformError, report, short
from ..typing import AxisSpec, PyTree
from .split import Hidden, hide, reveal
from .wrapper import Wrapper, check_callable


@dataclasses.dataclass(frozen=True)
class if_array:
    """An axis specification: this axis for arrays, None for everything else.

    Attributes:
        axis: the axis to map, an integer.

    >>> import jax.numpy as jnp
    >>> if_array(1)(jnp.ones((2, 3))), if_array(1)("text")
    (1, None)
    """

    axis: int

    def __call__(self, x: Any) -> int | None:
        """Returns ``axis`` for an array, else None."""
        return self.axis if is_array(x) else None


class _VmapWrapper(Wrapper):
    in_axes: PyTree[AxisSpec] = field(static=True)
    out_axes: PyTree[AxisSpec] = field(static=True)
    options: tuple[tuple[str, Any], ...] = field(static=True)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        in_axes = _per_argument(self.fun, self.in_axes, args)
        axes = (
            _per_leaf(in_axes, args, "in_axes"),
            _per_leaf(if_array(0), kwargs, "in_axes"),
        )
        is_mapped = jax.tree.map(lambda a: a is not None, axes, is_leaf=_is_none)
        mapped, fixed = partition((args, kwargs), is_mapped)

        def one(mapped: Any) -> Any:
            args, kwargs = combine(mapped, fixed)
            out = self.fun(*args, **kwargs)
            axes = _per_leaf(self.out_axes, out, "out_axes")
            is_mapped = jax.tree.map(lambda a: a is not None, axes, is_leaf=_is_none)
            mapped_out, rest = partition(out, is_mapped)
            return mapped_out, hide(rest), Hidden(axes)

        options = dict(self.options)
        if options["axis_size"] is None and not jax.tree.leaves(mapped):
            return _no_axis(one(mapped))
        vmapped = jax.vmap(one, in_axes=(axes,), out_axes=(0, None, None), **options)
        mapped_out, rest, axes_out = vmapped(mapped)
        moved = jax.tree.map(
            lambda x, axis: jnp.moveaxis(x, 0, axis), mapped_out, axes_out.values
        )
        return combine(moved, reveal(*rest))


def _is_none(x: Any) -> bool:
    return x is None


def _no_axis(out: Any) -> Any:
    """Nothing is mapped on the way in: then nothing can be on the way out."""
    mapped_out, rest, _ = out
    if jax.tree.leaves(mapped_out):
        raise TransformError(
            report(
                "filter_vmap: there is no axis to map over.",
                expected="at least one array argument with an axis, or `axis_size`",
                got="no mapped arguments, and results to be stacked",
                fix="pass `axis_size=`, or `out_axes=None`",
            )
        )
    return reveal(*rest)


def _per_argument(fun: Any, in_axes: Any, args: tuple[Any, ...]) -> Any:
    """Turns axes given by argument name into axes by position."""
    if not isinstance(in_axes, dict):
        return tuple(in_axes) if isinstance(in_axes, list) else in_axes
    names = list(inspect.signature(fun).parameters)
    unknown = set(in_axes) - set(names[: len(args)])
    if unknown:
        raise TransformError(
            report(
                "filter_vmap: `in_axes` names arguments that were not passed.",
                expected=f"among {names[: len(args)]}",
                got=f"{sorted(unknown)}",
                fix="pass them by position, or leave them out of `in_axes`",
            )
        )
    passed = zip(args, names, strict=False)
    return tuple(in_axes.get(name, if_array(0)) for _, name in passed)


def _per_leaf(spec: Any, tree: PyTree, name: str) -> PyTree:
    """Broadcasts a prefix of axis specifications to one axis per leaf."""

    def decide(axis: Any, subtree: PyTree) -> PyTree:
        if _is_axis(axis):
            return jax.tree.map(lambda _: axis, subtree)
        if not callable(axis):
            raise _no_such_axis(name, axis)
        axes = jax.tree.map(axis, subtree)
        for found in jax.tree.leaves(axes, is_leaf=_is_none):
            if not _is_axis(found):
                raise _no_such_axis(name, found)
        return axes

    try:
        return jax.tree.map(decide, spec, tree, is_leaf=_is_none)
    except TransformError:
        raise
    except ValueError as error:
        raise TransformError(
            report(
                f"filter_vmap: the structure of `{name}` does not fit.",
                expected="a tree that is a prefix of the arguments or of the result",
                got=short(str(error), 200),
            )
        ) from None


def _is_axis(x: Any) -> bool:
    return x is None or isinstance(x, int)


def _no_such_axis(name: str, axis: Any) -> TransformError:
    return TransformError(
        report(
            f"filter_vmap: `{name}` has a leaf that is no axis.",
            expected="None, an int, or a function from leaf to one of these",
            got=f"{short(repr(axis))} of type {type(axis).__name__}",
        )
    )


@overload
def filter_vmap(
    *,
    in_axes: PyTree[AxisSpec] = ...,
    out_axes: PyTree[AxisSpec] = ...,
    axis_name: Hashable = None,
    axis_size: int | None = None,
    **vmapkwargs: Any,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]: ...
@overload
def filter_vmap(
    fun: Callable[..., Any],
    *,
    in_axes: PyTree[AxisSpec] = ...,
    out_axes: PyTree[AxisSpec] = ...,
    axis_name: Hashable = None,
    axis_size: int | None = None,
    **vmapkwargs: Any,
) -> Callable[..., Any]: ...
def filter_vmap(
    fun: Callable[..., Any] | None = None,
    *,
    in_axes: PyTree[AxisSpec] = if_array(axis=0),
    out_axes: PyTree[AxisSpec] = if_array(axis=0),
    axis_name: Hashable = None,
    axis_size: int | None = None,
    **vmapkwargs: Any,
) -> Any:
    """Vectorizes a function of arbitrary pytrees over one axis of their arrays.

    By default every JAX and NumPy array is mapped along its first axis, and every
    other leaf is passed on unchanged; likewise for the results.

    Arguments:
        fun: the function. It is not mapped itself: to map over a model, make it an
            argument.
        in_axes: a tree that is a prefix of the tuple of positional arguments, of axes
            (int), None (not mapped), and functions from leaf to one of these; or a
            dict from argument name to such a tree, where arguments left out have the
            default. Keyword arguments always have the default.
        out_axes: likewise for the result. None is for arrays that do not differ along
            the mapped axis, such as a state that is updated from batch statistics.
        axis_name: a name for the axis, for collectives such as ``jax.lax.pmean``.
        axis_size: its size; needed only where no argument is mapped.
        **vmapkwargs: passed to ``jax.vmap``.

    Raises:
        TransformError: an axis is none, or there is no axis to map over.

    >>> import vernal as vn, jax
    >>> keys = jax.random.split(jax.random.key(0), 8)
    >>> ensemble = vn.filter_vmap(lambda k: vn.nn.Linear(2, 3, key=k))(keys)
    >>> ensemble.weight.shape
    (8, 3, 2)
    >>> call = vn.filter_vmap(lambda m, x: m(x), in_axes=(vn.if_array(0), None))
    >>> call(ensemble, jnp.ones(2)).shape
    (8, 3)
    """
    options = {"axis_name": axis_name, "axis_size": axis_size, **vmapkwargs}
    if fun is None:
        return functools.partial(
            filter_vmap, in_axes=in_axes, out_axes=out_axes, **options
        )
    check_callable("filter_vmap", fun)
    wrapper = _VmapWrapper(fun, in_axes, out_axes, tuple(options.items()))
    return module_update_wrapper(wrapper)
