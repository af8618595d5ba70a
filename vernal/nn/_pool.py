"""Reductions over sliding windows."""

import functools
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
from ..typing import ArrayLike, Key
from ._checks import check_shape, fail, is_size, require
from ._init import default_dtype
from ._numerics import compute_dtype
from ._spatial import Padding, Pairs, Sizes, per_axis, per_side, spatial_names


class Pool(Module):
    r"""Reduces each window that slides over the spatial axes to one number.

    $$y_{c, p} = \mathrm{op}(\mathrm{init}, x_{c, s p - l}, \dots,
    x_{c, s p - l + k - 1})$$

    for positions $p$ on all spatial axes, with kernel size $k$, stride $s$ and $l$
    entries of padding before the input. Padding has the value ``init``. The pools with
    a name, such as :class:`MaxPool2d` and :class:`AvgPool2d`, fix the operation.

    Takes one example ``(channels, *spatial)`` to ``(channels, *positions)`` of the same
    dtype; use ``jax.vmap`` for a batch. On an axis of ``n`` entries, with ``l`` before
    and ``r`` after it, there are ``(n + l + r - kernel) // s + 1`` positions.
    ``use_ceil`` rounds the quotient up instead, so that no entry at the end is left
    out: the last window may reach beyond the padding, where it meets ``init``. Like
    PyTorch's ``ceil_mode`` it drops a window that would start after the input.

    Reverse-mode differentiation works for ``jax.lax.add`` with init 0, and for
    ``jax.lax.max`` and ``jax.lax.min`` with init ∓∞. JAX knows no gradient of others.

    Flax's pools are functions, and have the channels last.

    Arguments:
        init: the value to start from: a number that, combined with another, leaves that
            one unchanged. It is converted to the dtype of the input; for integers, ∓∞
            stands for the least and the greatest.
        operation: an associative function of two arrays, such as ``jax.lax.max``.
        num_spatial_dims: number of spatial axes, at least 1.
        kernel_size: entries in a window, at least 1: an int for all spatial axes, or
            one for each.
        stride: distance of neighboring windows, at least 1; likewise. (PyTorch's
            default is ``kernel_size``.)
        padding: entries added at both ends of each axis, less than ``kernel_size``: an
            int ≥ 0, one for each axis, or a pair (before, after) for each axis.
        use_ceil: whether the end of the input gets a window of its own where the
            stride does not hit it.

    Attributes:
        kernel_size, stride: an int for each spatial axis.
        padding: a pair (before, after) for each spatial axis.

    Raises:
        HyperparameterError: an argument is outside its range.
        InputError: the input has another rank, or no window fits into it.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> pool = vn.nn.Pool(jnp.inf, jax.lax.min, 1, kernel_size=2, stride=2)
    >>> pool(jnp.arange(6.0).reshape(1, 6))
    Array([[0., 2., 4.]], dtype=float32)
    """

    init: int | float | complex = field(static=True, stored=True)
    operation: Callable[[Any, Any], Any] = field(static=True)
    num_spatial_dims: int = field(static=True)
    kernel_size: tuple[int, ...] = field(static=True)
    stride: tuple[int, ...] = field(static=True)
    padding: Pairs = field(static=True)
    use_ceil: bool = field(static=True)

    def __init__(
        self,
        init: ArrayLike,
        operation: Callable[[Any, Any], Any],
        num_spatial_dims: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Padding = 0,
        use_ceil: bool = False,
    ) -> None:
        name, n = type(self).__name__, num_spatial_dims
        require(_is_number(init), name, "init", "a number known in advance", init)
        is_function = callable(operation)
        require(is_function, name, "operation", "a function of two arrays", operation)
        require(is_size(n), name, "num_spatial_dims", "an int ≥ 1", n)
        kernel_size = per_axis(name, "kernel_size", kernel_size, n)
        pairs = per_side(name, padding, n)
        # A larger padding makes windows that see nothing of the input.
        small = all(max(p) < k for p, k in zip(pairs, kernel_size, strict=True))
        expected = f"less than kernel_size = {kernel_size} on each side"
        require(small, name, "padding", expected, padding)
        # A number and not an array: it must be hashable, and known while tracing.
        self.init = np.asarray(init).item()
        self.operation = operation
        self.num_spatial_dims = n
        self.kernel_size = kernel_size
        self.stride = per_axis(name, "stride", stride, n)
        self.padding = pairs
        self.use_ceil = use_ceil

    def __call__(
        self, x: Num[Array, "channels *spatial"], *, key: Key | None = None
    ) -> Num[Array, "channels *positions"]:
        """Pools one example ``(channels, *spatial)``; ``key`` is not used."""
        positions = _positions(self, x)
        return _reduce(self, jnp.asarray(x), positions)


class _AvgPool(Pool):
    """What the average pools share: a sum, divided by the size of the window."""

    def __init__(
        self,
        num_spatial_dims: int,
        kernel_size: Sizes,
        stride: Sizes,
        padding: Padding,
        use_ceil: bool,
    ) -> None:
        n = num_spatial_dims
        super().__init__(0, lax.add, n, kernel_size, stride, padding, use_ceil)

    def __call__(
        self, x: Num[Array, "channels *spatial"], *, key: Key | None = None
    ) -> Num[Array, "channels *positions"]:
        """Averages one example ``(channels, *spatial)``; ``key`` is not used."""
        positions = _positions(self, x)
        x = jnp.asarray(x)
        is_exact = not jnp.issubdtype(x.dtype, jnp.inexact)
        dtype = default_dtype(None) if is_exact else x.dtype
        # Sums of half precision would lose what an average need not lose.
        wide = compute_dtype(dtype)
        sums = _reduce(self, x.astype(wide), positions)
        counts: int | Array = math.prod(self.kernel_size)
        if self.use_ceil:
            counts = jnp.asarray(_window_sizes(self, x.shape[1:], positions), wide)
        return (sums / counts).astype(dtype)


class AvgPool1d(_AvgPool):
    """The average of each window on one spatial axis.

    Takes one example ``(channels, length)``. Padding counts as zeros; what the last
    window covers beyond the padding, with ``use_ceil``, does not count. This is what
    PyTorch does by default (``count_include_pad=True``). Integers have floating-point
    averages; half precision is summed in float32. Windows, arguments and errors are
    those of :class:`Pool`.

    >>> import vernal as vn, jax.numpy as jnp
    >>> vn.nn.AvgPool1d(2, stride=2)(jnp.arange(6.0).reshape(1, 6))
    Array([[0.5, 2.5, 4.5]], dtype=float32)
    >>> vn.nn.AvgPool1d(2, stride=2, use_ceil=True)(jnp.arange(5.0).reshape(1, 5))
    Array([[0.5, 2.5, 4. ]], dtype=float32)
    """

    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Padding = 0,
        use_ceil: bool = False,
    ) -> None:
        super().__init__(1, kernel_size, stride, padding, use_ceil)


class AvgPool2d(_AvgPool):
    """The average of each window on two spatial axes.

    Takes one example ``(channels, height, width)``; all else as :class:`AvgPool1d`.

    >>> import vernal as vn, jax.numpy as jnp
    >>> vn.nn.AvgPool2d(3, stride=2, padding=1)(jnp.ones((4, 32, 32))).shape
    (4, 16, 16)
    """

    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Padding = 0,
        use_ceil: bool = False,
    ) -> None:
        super().__init__(2, kernel_size, stride, padding, use_ceil)


class AvgPool3d(_AvgPool):
    """The average of each window on three spatial axes.

    Takes one example ``(channels, depth, height, width)``; all else as
    :class:`AvgPool1d`.

    >>> import vernal as vn, jax.numpy as jnp
    >>> vn.nn.AvgPool3d((1, 2, 2), stride=(1, 2, 2))(jnp.ones((4, 3, 32, 32))).shape
    (4, 3, 16, 16)
    """

    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Padding = 0,
        use_ceil: bool = False,
    ) -> None:
        super().__init__(3, kernel_size, stride, padding, use_ceil)


class MaxPool1d(Pool):
    """The maximum of each window on one spatial axis.

    Takes one example ``(channels, length)``, of real numbers or integers. Padding never
    wins. NaN in a window gives NaN. The gradient goes to the first entry that attains
    the maximum. All this is as in PyTorch. Windows, arguments and errors are those of
    :class:`Pool`.

    >>> import vernal as vn, jax.numpy as jnp
    >>> vn.nn.MaxPool1d(2, stride=2)(jnp.arange(6.0).reshape(1, 6))
    Array([[1., 3., 5.]], dtype=float32)
    """

    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Padding = 0,
        use_ceil: bool = False,
    ) -> None:
        super().__init__(-math.inf, lax.max, 1, kernel_size, stride, padding, use_ceil)


class MaxPool2d(Pool):
    """The maximum of each window on two spatial axes.

    Takes one example ``(channels, height, width)``; all else as :class:`MaxPool1d`.

    >>> import vernal as vn, jax.numpy as jnp
    >>> vn.nn.MaxPool2d(3, stride=2, padding=1)(jnp.ones((4, 32, 32))).shape
    (4, 16, 16)
    """

    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Padding = 0,
        use_ceil: bool = False,
    ) -> None:
        super().__init__(-math.inf, lax.max, 2, kernel_size, stride, padding, use_ceil)


class MaxPool3d(Pool):
    """The maximum of each window on three spatial axes.

    Takes one example ``(channels, depth, height, width)``; all else as
    :class:`MaxPool1d`.

    >>> import vernal as vn, jax.numpy as jnp
    >>> vn.nn.MaxPool3d(2, stride=2)(jnp.ones((4, 4, 32, 32))).shape
    (4, 2, 16, 16)
    """

    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Padding = 0,
        use_ceil: bool = False,
    ) -> None:
        super().__init__(-math.inf, lax.max, 3, kernel_size, stride, padding, use_ceil)


def _is_number(x: Any) -> bool:
    kinds = int | float | complex | np.generic | np.ndarray | jax.Array
    known = isinstance(x, kinds) and not isinstance(x, jax.core.Tracer)
    return known and jnp.ndim(x) == 0


def _positions(layer: Pool, x: Array) -> tuple[int, ...]:
    """How many windows there are on each spatial axis; refuses misfits."""
    check_shape(layer, x, f"channels {spatial_names(layer.num_spatial_dims)}")

    def count(size: int, pair: tuple[int, int], kernel: int, stride: int) -> int:
        before, after = pair
        room = size + before + after - kernel
        if not layer.use_ceil:
            return room // stride + 1
        last_inside = (size + before - 1) // stride
        return min(-(-room // stride), last_inside) + 1

    sizes = x.shape[1:]
    axes = zip(sizes, layer.padding, layer.kernel_size, layer.stride, strict=True)
    counts = tuple(count(*axis) for axis in axes)
    if min(sizes) < 1 or min(counts) < 1:
        fail(
            layer,
            "no window fits into the input",
            expected=f"windows of {layer.kernel_size} with padding {layer.padding}",
            got=f"spatial sizes {tuple(sizes)}",
        )
    return counts


def _reduce(layer: Pool, x: Array, positions: tuple[int, ...]) -> Array:
    """Applies the operation to each window."""

    def reach(
        size: int, pair: tuple[int, int], kernel: int, stride: int, count: int
    ) -> tuple[int, int]:
        before, after = pair
        needed = (count - 1) * stride + kernel - size - before
        return before, max(after, needed)

    kernel, stride = layer.kernel_size, layer.stride
    axes = zip(x.shape[1:], layer.padding, kernel, stride, positions, strict=True)
    return lax.reduce_window(
        x,
        _initial(layer.init, x.dtype),
        layer.operation,
        window_dimensions=(1, *kernel),
        window_strides=(1, *stride),
        padding=((0, 0), *[reach(*axis) for axis in axes]),
    )


def _initial(init: complex, dtype: jnp.dtype) -> np.ndarray:
    """The initial value as NumPy holds it, in which JAX recognizes an identity."""
    if not np.isinf(init) or jnp.issubdtype(dtype, jnp.inexact):
        return np.asarray(init, dtype)
    if dtype == np.bool_:
        return np.asarray(init == math.inf)
    bounds = jnp.iinfo(dtype)  # type: ignore[no-untyped-call]
    return np.asarray(bounds.max if init == math.inf else bounds.min, dtype)


def _window_sizes(
    layer: Pool, sizes: tuple[int, ...], positions: tuple[int, ...]
) -> np.ndarray:
    """How many entries each window covers, ``(1, *positions)``, with padding."""

    def covered(
        size: int, pair: tuple[int, int], kernel: int, stride: int, count: int
    ) -> np.ndarray:
        start = np.arange(count) * stride
        return np.minimum(start + kernel, size + sum(pair)) - start

    kernel, stride = layer.kernel_size, layer.stride
    axes = zip(sizes, layer.padding, kernel, stride, positions, strict=True)
    return functools.reduce(np.multiply.outer, [covered(*axis) for axis in axes])[None]
