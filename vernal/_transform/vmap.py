"""``filter_vmap``: ``jax.vmap`` for functions of arbitrary pytrees."""

import functools
from collections.abc import Callable, Hashable
from typing import Any, overload

import jax
import jax.numpy as jnp

from .._module.callables import module_update_wrapper
from .._module.fields import field
from .._tree.filters import combine, partition
from ..errors import TransformError, report
from ..typing import AxisSpec, PyTree
from .axes import if_array, per_argument, per_leaf
from .split import Hidden, hide, reveal
from .vectors import is_none
from .wrapper import Wrapper, check_callable


class _VmapWrapper(Wrapper):
    in_axes: PyTree[AxisSpec] = field(static=True)
    out_axes: PyTree[AxisSpec] = field(static=True)
    options: tuple[tuple[str, Any], ...] = field(static=True)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        in_axes = per_argument("filter_vmap", self.fun, self.in_axes, args)
        axes = (
            per_leaf("filter_vmap: `in_axes`", in_axes, args),
            per_leaf("filter_vmap: `in_axes`", if_array(0), kwargs),
        )
        is_mapped = jax.tree.map(lambda a: a is not None, axes, is_leaf=is_none)
        mapped, fixed = partition((args, kwargs), is_mapped)

        def one(mapped: Any) -> Any:
            args, kwargs = combine(mapped, fixed)
            out = self.fun(*args, **kwargs)
            axes = per_leaf("filter_vmap: `out_axes`", self.out_axes, out)
            is_mapped = jax.tree.map(lambda a: a is not None, axes, is_leaf=is_none)
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
