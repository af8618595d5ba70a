"""Reductions of windows whose sizes follow from the shape that is asked for."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Num

from .._module.fields import field
from .._module.module import Module
from ..typing import Key
from ._checks import check_shape, fail, is_size, require
from ._spatial import Sizes, per_axis, spatial_names

# The windows on one axis, in sets of one size, each a matrix (windows, entries); and
# where each window is found in their concatenation.
_Windows = tuple[list[np.ndarray], np.ndarray]


class AdaptivePool(Module):
    r"""Divides the spatial axes into a given number of windows, and reduces each.

    $$y_{c, p} = \mathrm{op}(x_{c, j} : j \in w_p)$$

    An axis of $n$ entries is cut into $m$ windows that do not overlap: with
    $n = q m + r$, the first $r$ windows have $q + 1$ entries and the others $q$ (as
    NumPy's ``array_split`` does). Where $m > n$, entries are repeated: window $p$ has
    those that overlap with $[p n / m, (p + 1) n / m)$, one or two. On several axes,
    windows are the products of those on each. The layers with a name, such as
    :class:`AdaptiveAvgPool2d`, fix the operation.

    Takes one example ``(channels, *spatial)`` of any sizes, at least 1, to
    ``(channels, *target_shape)``; use ``jax.vmap`` for a batch.

    PyTorch has the same windows where $m$ divides $n$ and where $m > n$; in all other
    cases its windows overlap, from ``floor(p * n / m)`` to ``ceil((p + 1) * n / m)``.
    Flax has no such layer.

    Arguments:
        target_shape: the number of windows, at least 1: an int for all spatial axes,
            or one for each.
        num_spatial_dims: number of spatial axes, at least 1.
        operation: takes the entries of a window, ``(entries,)``, to one number, such as
            ``jnp.median``. It is called for each size of window, mapped with
            ``jax.vmap``.

    Attributes:
        target_shape: an int for each spatial axis.

    Raises:
        HyperparameterError: an argument is outside its range.
        InputError: the input has another rank, or an axis without entries; or the
            operation does not return one number.

    >>> import vernal as vn, jax.numpy as jnp
    >>> pool = vn.nn.AdaptivePool(3, num_spatial_dims=1, operation=jnp.sum)
    >>> pool(jnp.array([[1, 2, 3, 4, 5, 6, 7]]))
    Array([[ 6,  9, 13]], dtype=int32)
    """

    target_shape: tuple[int, ...] = field(static=True)
    operation: Callable[[Any], Any] = field(static="if_function")

    def __init__(
        self,
        target_shape: Sizes,
        num_spatial_dims: int,
        operation: Callable[[Any], Any],
    ) -> None:
        name, n = type(self).__name__, num_spatial_dims
        require(is_size(n), name, "num_spatial_dims", "an int ≥ 1", n)
        is_function = callable(operation)
        require(is_function, name, "operation", "a function of one array", operation)
        self.target_shape = per_axis(name, "target_shape", target_shape, n)
        self.operation = operation

    def __call__(
        self, x: Num[Array, "channels *spatial"], *, key: Key | None = None
    ) -> Num[Array, "channels *target_shape"]:
        """Pools one example ``(channels, *spatial)``; ``key`` is not used."""
        target = self.target_shape
        check_shape(self, x, f"channels {spatial_names(len(target))}")
        sizes = x.shape[1:]
        if min(sizes) < 1:
            fail(
                self,
                "an axis has no entries",
                expected="spatial sizes of at least 1",
                got=f"{tuple(sizes)}",
            )
        windows = [_windows(n, m) for n, m in zip(sizes, target, strict=True)]
        return _reduce(self, jnp.asarray(x), windows, ())


class AdaptiveAvgPool1d(AdaptivePool):
    """The averages of a given number of windows on one spatial axis.

    Takes one example ``(channels, length)`` to ``(channels, target_shape)``. Integers
    have floating-point averages; half precision is summed in float32. Windows,
    arguments and errors are those of :class:`AdaptivePool`.

    >>> import vernal as vn, jax.numpy as jnp
    >>> vn.nn.AdaptiveAvgPool1d(2)(jnp.arange(7.0).reshape(1, 7))
    Array([[1.5, 5. ]], dtype=float32)
    """

    def __init__(self, target_shape: Sizes) -> None:
        super().__init__(target_shape, 1, jnp.mean)


class AdaptiveAvgPool2d(AdaptivePool):
    """The averages of a given number of windows on two spatial axes.

    Takes one example ``(channels, height, width)`` to ``(channels, *target_shape)``;
    all else as :class:`AdaptiveAvgPool1d`.

    >>> import vernal as vn, jax.numpy as jnp
    >>> vn.nn.AdaptiveAvgPool2d(7)(jnp.ones((4, 32, 24))).shape
    (4, 7, 7)
    """

    def __init__(self, target_shape: Sizes) -> None:
        super().__init__(target_shape, 2, jnp.mean)


class AdaptiveAvgPool3d(AdaptivePool):
    """The averages of a given number of windows on three spatial axes.

    Takes one example ``(channels, depth, height, width)`` to ``(channels,
    *target_shape)``; all else as :class:`AdaptiveAvgPool1d`.

    >>> import vernal as vn, jax.numpy as jnp
    >>> vn.nn.AdaptiveAvgPool3d((1, 2, 2))(jnp.ones((4, 3, 8, 8))).shape
    (4, 1, 2, 2)
    """

    def __init__(self, target_shape: Sizes) -> None:
        super().__init__(target_shape, 3, jnp.mean)


class AdaptiveMaxPool1d(AdaptivePool):
    """The maxima of a given number of windows on one spatial axis.

    Takes one example ``(channels, length)`` to ``(channels, target_shape)``, of real
    numbers or integers. NaN in a window gives NaN. Entries that share the maximum share
    the gradient. (PyTorch gives all of it to one of them.) Windows, arguments and
    errors are those of :class:`AdaptivePool`.

    >>> import vernal as vn, jax.numpy as jnp
    >>> vn.nn.AdaptiveMaxPool1d(2)(jnp.arange(7.0).reshape(1, 7))
    Array([[3., 6.]], dtype=float32)
    """

    def __init__(self, target_shape: Sizes) -> None:
        super().__init__(target_shape, 1, jnp.max)


class AdaptiveMaxPool2d(AdaptivePool):
    """The maxima of a given number of windows on two spatial axes.

    Takes one example ``(channels, height, width)`` to ``(channels, *target_shape)``;
    all else as :class:`AdaptiveMaxPool1d`.

    >>> import vernal as vn, jax.numpy as jnp
    >>> vn.nn.AdaptiveMaxPool2d((7, 5))(jnp.ones((4, 32, 24))).shape
    (4, 7, 5)
    """

    def __init__(self, target_shape: Sizes) -> None:
        super().__init__(target_shape, 2, jnp.max)


class AdaptiveMaxPool3d(AdaptivePool):
    """The maxima of a given number of windows on three spatial axes.

    Takes one example ``(channels, depth, height, width)`` to ``(channels,
    *target_shape)``; all else as :class:`AdaptiveMaxPool1d`.

    >>> import vernal as vn, jax.numpy as jnp
    >>> vn.nn.AdaptiveMaxPool3d(2)(jnp.ones((4, 3, 8, 8))).shape
    (4, 2, 2, 2)
    """

    def __init__(self, target_shape: Sizes) -> None:
        super().__init__(target_shape, 3, jnp.max)


def _windows(size: int, count: int) -> _Windows:
    """The windows on an axis of ``size`` entries: there are at most two sizes."""
    edges = np.arange(count + 1)
    if count <= size:
        edges = size // count * edges + np.minimum(size % count, edges)
        start, stop = edges[:-1], edges[1:]
    else:
        start, stop = size * edges[:-1] // count, -(-size * edges[1:] // count)
    lengths = stop - start
    by_length = [
        start[lengths == n][:, None] + np.arange(n) for n in np.unique(lengths)[::-1]
    ]
    order = np.argsort(-lengths, kind="stable")
    return by_length, np.argsort(order)


def _reduce(
    layer: AdaptivePool,
    x: Array,
    windows: list[_Windows],
    shapes: tuple[tuple[int, int], ...],
) -> Array:
    """Reduces the windows, set by set: all that have the same shape are one array.

    So the program grows with the number of axes and not with that of windows.

    Arguments:
        layer: the layer.
        x: the entries of windows on the first axes, and the whole of the others.
        windows: those on each axis.
        shapes: number and size of the windows in ``x``, on the axes seen so far.
    """
    if len(shapes) == len(windows):
        return _apply(layer, x, shapes)
    by_length, place = windows[len(shapes)]
    axis = 1 + len(shapes)
    parts = [
        _reduce(layer, _take(x, index, axis), windows, (*shapes, index.shape))
        for index in by_length
    ]
    return _take(jnp.concatenate(parts, axis), place, axis)


def _apply(layer: AdaptivePool, x: Array, shapes: tuple[tuple[int, int], ...]) -> Array:
    """Reduces windows of one shape: ``(channels, *entries)`` of adjacent windows."""
    dims = len(shapes)
    x = x.reshape(x.shape[0], *[n for shape in shapes for n in shape])
    x = jnp.moveaxis(x, range(2, 2 * dims + 1, 2), range(dims + 1, 2 * dims + 1))
    lead = x.shape[: dims + 1]
    size = math.prod(x.shape[dims + 1 :])
    y = jax.vmap(layer.operation)(x.reshape(math.prod(lead), size))
    if jnp.shape(y) != (math.prod(lead),):
        fail(
            layer,
            "the operation does not reduce a window to one number",
            expected=f"an array of shape () from one of shape ({size},)",
            got=f"shape {jnp.shape(y)[1:]}",
        )
    return y.reshape(lead)


def _take(x: Array, index: np.ndarray, axis: int) -> Array:
    """Entries along an axis: a slice where it can be one."""
    first, flat = int(index.flat[0]), index.ravel()
    if np.array_equal(flat, np.arange(first, first + flat.size)):
        return lax.slice_in_dim(x, first, first + flat.size, axis=axis)
    return jnp.take(x, flat, axis, mode="clip")
