"""Convolutions."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._module.fields import field
from .._module.module import Module
from ..typing import DTypeLike, Key
from ._checks import (
    check_shape,
    fail,
    is_size,
    require,
    require_key,
)
from ._spatial import (
    PAD_MODES,
    Padding,
    PaddingMode,
    Pairs,
    Sizes,
    check_channels,
    convolve,
    draw_kernel,
    kernel_span,
    named_padding,
    padding_mode_of,
    padding_of,
    per_axis,
    spatial_names,
)


class Conv(Module):
    r"""A convolution over any number of spatial axes.

    $$y_{o, p} = b_o + \sum_{c, k} W_{o, c, k} \, x_{c, s p + d k - l}$$

    for positions $p$ and kernel offsets $k$ on all spatial axes, with stride $s$,
    dilation $d$, and $l$ entries of padding before the input; $c$ runs over the input
    channels of the group of $o$. (As in all libraries for neural networks, the kernel
    is not flipped.) :class:`Conv1d`, :class:`Conv2d` and :class:`Conv3d` fix the number
    of axes.

    Takes one example ``(in_channels, *spatial)`` to ``(out_channels, *positions)``; use
    ``jax.vmap`` for a batch. On an axis of ``n`` entries, ``l`` before and ``r`` after
    it, there are ``(n + l + r - d * (kernel - 1) - 1) // s + 1`` positions.

    Weight and bias are drawn from the uniform distribution on ±1/√fan_in, with
    ``fan_in = in_channels / groups * prod(kernel_size)``, as in PyTorch (Flax draws a
    truncated normal and zero bias, and puts channels last). Where padding is wider
    than the input, "REFLECT" and "CIRCULAR" go on bouncing and wrapping, which PyTorch
    refuses. PyTorch takes "SAME" with stride 1 only.

    Arguments:
        num_spatial_dims: number of spatial axes, at least 1.
        in_channels: number of channels of the input.
        out_channels: number of channels of the output.
        kernel_size: entries that the kernel spans, at least 1: an int for all spatial
            axes, or one for each.
        stride: distance of neighboring positions, at least 1; likewise.
        padding: entries added at both ends of each axis: an int ≥ 0, one for each axis,
            or a pair (before, after) for each axis. Or a string, in any case:
            ``"VALID"`` adds nothing; ``"SAME"`` adds what makes ``ceil(n / stride)``
            positions, an odd entry at the end; ``"SAME_LOWER"`` puts that at the start.
        dilation: distance of neighboring entries under the kernel, at least 1; an int,
            or one for each axis.
        groups: splits the channels into that many independent convolutions; divides
            ``in_channels`` and ``out_channels``.
        use_bias: whether to add ``b``.
        padding_mode: what is added to ``1 2 3``, here with padding 2, in any case:
            ``"ZEROS"`` gives ``0 0 1 2 3 0 0``, ``"REFLECT"`` ``3 2 1 2 3 2 1``,
            ``"REPLICATE"`` ``1 1 1 2 3 3 3``, ``"CIRCULAR"`` ``2 3 1 2 3 1 2``.
        dtype: of the parameters; by default float32 (float64 in 64-bit mode).
        key: a PRNG key for the initial parameters.

    Attributes:
        weight: ``(out_channels, in_channels // groups, *kernel_size)``.
        bias: ``(out_channels, 1, ..., 1)``, or None.
        kernel_size, stride, dilation: an int for each spatial axis.
        padding: a pair (before, after) for each spatial axis, or an upper-case string.
        padding_mode: in upper case.

    Raises:
        HyperparameterError: an argument is outside its range.
        InputError: the input has another rank or number of channels, or the kernel
            does not fit into it.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> conv = vn.nn.Conv(4, 3, 8, 2, stride=2, key=jax.random.key(0))
    >>> conv(jnp.ones((3, 6, 6, 4, 4))).shape
    (8, 3, 3, 2, 2)
    """

    num_spatial_dims: int = field(static=True)
    weight: Float[Array, "out_channels in_channels_per_group *kernel_size"]
    bias: Float[Array, "out_channels *ones"] | None
    in_channels: int = field(static=True)
    out_channels: int = field(static=True)
    kernel_size: tuple[int, ...] = field(static=True)
    stride: tuple[int, ...] = field(static=True)
    padding: str | Pairs = field(static=True)
    dilation: tuple[int, ...] = field(static=True)
    groups: int = field(static=True)
    use_bias: bool = field(static=True)
    padding_mode: PaddingMode = field(static=True)

    def __init__(
        self,
        num_spatial_dims: int,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: str | Padding = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        use_bias: bool = True,
        padding_mode: str = "ZEROS",
        dtype: DTypeLike | None = None,
        *,
        key: Key,
    ) -> None:
        name, n = type(self).__name__, num_spatial_dims
        require(is_size(n), name, "num_spatial_dims", "an int ≥ 1", n)
        check_channels(name, in_channels, out_channels, groups)
        self.num_spatial_dims = n
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = per_axis(name, "kernel_size", kernel_size, n)
        self.stride = per_axis(name, "stride", stride, n)
        self.padding = padding_of(name, padding, n)
        self.dilation = per_axis(name, "dilation", dilation, n)
        self.groups = groups
        self.use_bias = use_bias
        self.padding_mode = padding_mode_of(name, padding_mode)

        shape = (out_channels, in_channels // groups, *self.kernel_size)
        require_key(name, key)
        self.weight, self.bias = draw_kernel(key, shape, use_bias, dtype)

    def __call__(
        self, x: Float[Array, "in_channels *spatial"], *, key: Key | None = None
    ) -> Float[Array, "out_channels *positions"]:
        """Convolves one example ``(in_channels, *spatial)``; ``key`` is not used."""
        names = f"in_channels {spatial_names(self.num_spatial_dims)}"
        check_shape(self, x, names, in_channels=self.in_channels)
        x, padding = _pad(self, x)
        y = convolve(
            x,
            self.weight,
            window_strides=self.stride,
            padding=padding,
            rhs_dilation=self.dilation,
            feature_group_count=self.groups,
        )
        return y if self.bias is None else y + self.bias


class Conv1d(Conv):
    """A convolution over one spatial axis: :class:`Conv` with ``num_spatial_dims=1``.

    Takes one example ``(in_channels, length)``; all else as described there.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> conv = vn.nn.Conv1d(3, 8, kernel_size=5, padding="SAME", key=jax.random.key(0))
    >>> conv(jnp.ones((3, 100))).shape
    (8, 100)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: str | Padding = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        use_bias: bool = True,
        padding_mode: str = "ZEROS",
        dtype: DTypeLike | None = None,
        *,
        key: Key,
    ) -> None:
        super().__init__(
            1,
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            use_bias,
            padding_mode,
            dtype,
            key=key,
        )


class Conv2d(Conv):
    """A convolution over two spatial axes: :class:`Conv` with ``num_spatial_dims=2``.

    Takes one example ``(in_channels, height, width)``; all else as described there.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> conv = vn.nn.Conv2d(3, 8, kernel_size=3, stride=2, key=jax.random.key(0))
    >>> conv(jnp.ones((3, 32, 32))).shape
    (8, 15, 15)
    >>> jax.vmap(conv)(jnp.ones((10, 3, 32, 32))).shape
    (10, 8, 15, 15)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = (1, 1),
        padding: str | Padding = (0, 0),
        dilation: Sizes = (1, 1),
        groups: int = 1,
        use_bias: bool = True,
        padding_mode: str = "ZEROS",
        dtype: DTypeLike | None = None,
        *,
        key: Key,
    ) -> None:
        super().__init__(
            2,
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            use_bias,
            padding_mode,
            dtype,
            key=key,
        )


class Conv3d(Conv):
    """A convolution over three spatial axes: :class:`Conv` with ``num_spatial_dims=3``.

    Takes one example ``(in_channels, depth, height, width)``; all else as described
    there.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> conv = vn.nn.Conv3d(1, 2, (1, 3, 3), padding=(0, 1, 1), key=jax.random.key(0))
    >>> conv(jnp.ones((1, 4, 8, 8))).shape
    (2, 4, 8, 8)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = (1, 1, 1),
        padding: str | Padding = (0, 0, 0),
        dilation: Sizes = (1, 1, 1),
        groups: int = 1,
        use_bias: bool = True,
        padding_mode: str = "ZEROS",
        dtype: DTypeLike | None = None,
        *,
        key: Key,
    ) -> None:
        super().__init__(
            3,
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            use_bias,
            padding_mode,
            dtype,
            key=key,
        )


def _pad(layer: Conv, x: Array) -> tuple[Array, Sequence[tuple[int, int]]]:
    """The example, and how many zeros the convolution has yet to add to it."""
    sizes = x.shape[1:]
    window = kernel_span(layer.kernel_size, layer.dilation)
    padding = layer.padding
    if isinstance(padding, str):
        padding = named_padding(padding, sizes, window, layer.stride)
    padded = tuple(n + sum(pair) for n, pair in zip(sizes, padding, strict=True))
    if any(n < span for n, span in zip(padded, window, strict=True)):
        fail(
            layer,
            "the kernel does not fit into the input",
            expected=f"spatial sizes of at least {window} after padding",
            got=f"{padded}",
        )
    if layer.padding_mode == "ZEROS":
        return x, padding
    mode = PAD_MODES[layer.padding_mode]
    none = [(0, 0)] * len(sizes)
    return jnp.pad(x, [(0, 0), *padding], mode=mode), none
