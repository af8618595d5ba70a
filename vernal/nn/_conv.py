"""Convolutions."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jaxtyping import Array, Float

from .._module.fields import field
from .._module.module import Module
from ..typing import DTypeLike, Key
from ._checks import check_shape, fail, is_size, require
from ._init import default_dtype, uniform_fan_in
from ._spatial import Padding, Pairs, Sizes, per_axis, per_side, spatial_names

PaddingMode = Literal["ZEROS", "REFLECT", "REPLICATE", "CIRCULAR"]

_PADDINGS = ("SAME", "SAME_LOWER", "VALID")
# What each mode but ZEROS is called in `jnp.pad`.
_PAD_MODES = {"REFLECT": "reflect", "REPLICATE": "edge", "CIRCULAR": "wrap"}


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
        _check_channels(name, in_channels, out_channels, groups)
        self.num_spatial_dims = n
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = per_axis(name, "kernel_size", kernel_size, n)
        self.stride = per_axis(name, "stride", stride, n)
        self.padding = _padding(name, padding, n)
        self.dilation = per_axis(name, "dilation", dilation, n)
        self.groups = groups
        self.use_bias = use_bias
        self.padding_mode = _padding_mode(name, padding_mode)

        weight_key, bias_key = jr.split(key)
        dtype = default_dtype(dtype)
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        fan_in = math.prod(shape[1:])
        self.weight = uniform_fan_in(weight_key, shape, dtype, fan_in)
        shape = (out_channels, *[1] * n)
        self.bias = uniform_fan_in(bias_key, shape, dtype, fan_in) if use_bias else None

    def __call__(
        self, x: Float[Array, "in_channels *spatial"], *, key: Key | None = None
    ) -> Float[Array, "out_channels *positions"]:
        """Convolves one example ``(in_channels, *spatial)``; ``key`` is not used."""
        names = f"in_channels {spatial_names(self.num_spatial_dims)}"
        check_shape(self, x, names, in_channels=self.in_channels)
        x, padding = _pad(self, x)
        # The primitive wants equal dtypes; this is how `@` would make them equal.
        dtype = jnp.result_type(x, self.weight)
        y = lax.conv_general_dilated(
            jnp.asarray(x, dtype)[None],
            self.weight.astype(dtype),
            window_strides=self.stride,
            padding=padding,
            rhs_dilation=self.dilation,
            feature_group_count=self.groups,
        )[0]
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


def _check_channels(name: str, inputs: int, outputs: int, groups: int) -> None:
    require(is_size(inputs), name, "in_channels", "an int ≥ 1", inputs)
    require(is_size(outputs), name, "out_channels", "an int ≥ 1", outputs)
    ok = is_size(groups) and inputs % groups == outputs % groups == 0
    expected = f"an int ≥ 1 that divides in_channels = {inputs} and "
    expected += f"out_channels = {outputs}"
    require(ok, name, "groups", expected, groups)


def _padding(name: str, padding: str | Padding, num_axes: int) -> str | Pairs:
    words = '"SAME", "SAME_LOWER" or "VALID"'
    if not isinstance(padding, str):
        return per_side(name, padding, num_axes, or_else=f", or {words}")
    require(padding.upper() in _PADDINGS, name, "padding", words, padding)
    return padding.upper()


def _padding_mode(name: str, mode: Any) -> Any:
    ok = isinstance(mode, str) and mode.upper() in ("ZEROS", *_PAD_MODES)
    words = '"ZEROS", "REFLECT", "REPLICATE" or "CIRCULAR"'
    require(ok, name, "padding_mode", words, mode)
    return mode.upper()


def _pad(layer: Conv, x: Array) -> tuple[Array, Sequence[tuple[int, int]]]:
    """The example, and how many zeros the convolution has yet to add to it."""
    sizes = x.shape[1:]
    both = zip(layer.kernel_size, layer.dilation, strict=True)
    window = tuple(dilation * (kernel - 1) + 1 for kernel, dilation in both)
    padding = layer.padding
    if isinstance(padding, str):
        padding = tuple(lax.padtype_to_pads(sizes, window, layer.stride, padding))
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
    mode = _PAD_MODES[layer.padding_mode]
    none = [(0, 0)] * len(sizes)
    return jnp.pad(x, [(0, 0), *padding], mode=mode), none
