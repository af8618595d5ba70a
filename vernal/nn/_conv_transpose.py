"""Transposed convolutions."""

import jax
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
from ._numerics import compute_dtype
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


class ConvTranspose(Module):
    r"""The transpose of a convolution, over any number of spatial axes.

    $$y_{o, q} = b_o + \sum_{c} \sum_{s p + d (K - 1 - k) - l = q}
    W_{o, c, k} \, x_{c, p}$$

    for positions $p$ and kernel offsets $k < K$ on all spatial axes, with stride $s$,
    dilation $d$, and $l$ entries of padding; $c$ runs over the input channels of the
    group of $o$. :class:`ConvTranspose1d`, :class:`ConvTranspose2d` and
    :class:`ConvTranspose3d` fix the number of axes.

    This is the transposed matrix of the linear map that :class:`Conv` is with the same
    arguments, but with the channels exchanged: it takes shapes back to where that layer
    took them from, and connects the same entries. ``padding`` is what *that* layer adds
    to its input; here it is cut off the output or, in the other padding modes, added to
    the entries that it was copied from. To get the very transpose of a ``Conv`` with
    ``groups=1``, take its weight with the first two axes exchanged and all others
    reversed: ``jnp.flip(weight, (2, 3)).swapaxes(0, 1)`` with two spatial axes.

    Takes one example ``(in_channels, *positions)`` to ``(out_channels, *spatial)``; use
    ``jax.vmap`` for a batch. An axis of ``n`` entries becomes one of
    ``(n - 1) * stride + dilation * (kernel - 1) + 1 - l - r + output_padding``, or with
    padding "SAME" or "SAME_LOWER" one of ``n * stride - output_padding``.

    Weight and bias are drawn from the uniform distribution on ±1/√fan_in, with
    ``fan_in = in_channels / groups * prod(kernel_size)``; PyTorch takes the output
    channels for that. PyTorch stores the weight as that of ``Conv``, so what is said
    above about the transpose of a ``Conv`` converts it; it has no other padding mode
    than "ZEROS" and no padding by name, and lets ``output_padding`` be as large as
    ``dilation``, too. Flax's ``padding`` is that of the dilated input.

    Arguments:
        num_spatial_dims: number of spatial axes, at least 1.
        in_channels: number of channels of the input.
        out_channels: number of channels of the output.
        kernel_size: entries that the kernel spans, at least 1: an int for all spatial
            axes, or one for each.
        stride: distance in the output of what neighbors in the input, at least 1;
            likewise.
        padding: entries cut off at both ends of each axis: an int ≥ 0, one for each
            axis, or a pair (before, after) for each axis. Or a string, in any case:
            ``"VALID"`` cuts off nothing; ``"SAME"`` makes axes ``stride`` times as
            long, and cuts an odd entry off the end; ``"SAME_LOWER"`` cuts it off the
            start.
        output_padding: with a stride, ``Conv`` takes up to ``stride`` sizes to the
            same one. This chooses among them: entries added at the end of each axis,
            or with padding "SAME" and "SAME_LOWER" removed from it; at least 0 and
            less than ``stride``; an int, or one for each axis. (Its place among the
            arguments is another in the layers with a fixed number of axes.)
        dilation: distance of neighboring entries of the kernel, at least 1; an int, or
            one for each axis.
        groups: splits the channels into that many independent convolutions; divides
            ``in_channels`` and ``out_channels``.
        use_bias: whether to add ``b``.
        padding_mode: the padding mode of the ``Conv`` that this transposes, in any
            case: ``"ZEROS"``, ``"REFLECT"``, ``"REPLICATE"`` or ``"CIRCULAR"``.
        dtype: of the parameters; by default float32 (float64 in 64-bit mode).
        key: a PRNG key for the initial parameters.

    Attributes:
        weight: ``(out_channels, in_channels // groups, *kernel_size)``.
        bias: ``(out_channels, 1, ..., 1)``, or None.
        kernel_size, stride, output_padding, dilation: an int for each spatial axis.
        padding: a pair (before, after) for each spatial axis, or an upper-case string.
        padding_mode: in upper case.

    Raises:
        HyperparameterError: an argument is outside its range.
        InputError: the input has another rank or number of channels, or the padding
            cuts off all of the output.

    Source: `A guide to convolution arithmetic for deep learning
    <https://arxiv.org/abs/1603.07285>`_ (Dumoulin and Visin, 2016), chapter 4.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> down = vn.nn.Conv(1, 3, 8, 4, stride=2, padding=1, key=jax.random.key(0))
    >>> up = vn.nn.ConvTranspose(1, 8, 3, 4, stride=2, padding=1, key=jax.random.key(1))
    >>> down(jnp.ones((3, 10))).shape, up(jnp.ones((8, 5))).shape
    ((8, 5), (3, 10))
    """

    num_spatial_dims: int = field(static=True)
    weight: Float[Array, "out_channels in_channels_per_group *kernel_size"]
    bias: Float[Array, "out_channels *ones"] | None
    in_channels: int = field(static=True)
    out_channels: int = field(static=True)
    kernel_size: tuple[int, ...] = field(static=True)
    stride: tuple[int, ...] = field(static=True)
    padding: str | Pairs = field(static=True)
    output_padding: tuple[int, ...] = field(static=True)
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
        output_padding: Sizes = 0,
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
        stride = per_axis(name, "stride", stride, n)
        extra = per_axis(name, "output_padding", output_padding, n, minimum=0)
        # Equal to the stride, it would stand for one more entry of the input.
        fits = all(e < s for e, s in zip(extra, stride, strict=True))
        expected = f"less than stride = {stride} on each axis"
        require(fits, name, "output_padding", expected, output_padding)
        self.num_spatial_dims = n
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = per_axis(name, "kernel_size", kernel_size, n)
        self.stride = stride
        self.padding = padding_of(name, padding, n)
        self.output_padding = extra
        self.dilation = per_axis(name, "dilation", dilation, n)
        self.groups = groups
        self.use_bias = use_bias
        self.padding_mode = padding_mode_of(name, padding_mode)
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        require_key(name, key)
        self.weight, self.bias = draw_kernel(key, shape, use_bias, dtype)

    def __call__(
        self, x: Float[Array, "in_channels *positions"], *, key: Key | None = None
    ) -> Float[Array, "out_channels *spatial"]:
        """Takes one example ``(in_channels, *positions)``; ``key`` is not used."""
        names = f"in_channels {spatial_names(self.num_spatial_dims)}"
        check_shape(self, x, names, in_channels=self.in_channels)
        sizes, padding = _output(self, x.shape[1:])
        if self.padding_mode == "ZEROS":
            y = _transpose(self, x, sizes, padding)
        else:
            padded = tuple(
                n + sum(pair) for n, pair in zip(sizes, padding, strict=True)
            )
            y = _transpose(self, x, padded, ((0, 0),) * len(sizes))
            y = _fold(y, sizes, padding, self.padding_mode)
        return y if self.bias is None else y + self.bias


class ConvTranspose1d(ConvTranspose):
    """The transpose of a convolution over one spatial axis.

    It is :class:`ConvTranspose` with ``num_spatial_dims=1``, and ``output_padding``
    before ``padding``. Takes one example ``(in_channels, length)``; all else as
    described there.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> up = vn.nn.ConvTranspose1d(8, 3, 4, 2, padding="SAME", key=jax.random.key(0))
    >>> up(jnp.ones((8, 50))).shape
    (3, 100)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        output_padding: Sizes = 0,
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
            output_padding,
            dilation,
            groups,
            use_bias,
            padding_mode,
            dtype,
            key=key,
        )


class ConvTranspose2d(ConvTranspose):
    """The transpose of a convolution over two spatial axes.

    It is :class:`ConvTranspose` with ``num_spatial_dims=2``, and ``output_padding``
    before ``padding``. Takes one example ``(in_channels, height, width)``; all else as
    described there.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> up = vn.nn.ConvTranspose2d(8, 3, 3, 2, padding=1, key=jax.random.key(0))
    >>> up(jnp.ones((8, 16, 16))).shape
    (3, 31, 31)
    >>> up = vn.nn.ConvTranspose2d(8, 3, 3, 2, 1, padding=1, key=jax.random.key(0))
    >>> jax.vmap(up)(jnp.ones((10, 8, 16, 16))).shape
    (10, 3, 32, 32)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = (1, 1),
        output_padding: Sizes = (0, 0),
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
            output_padding,
            dilation,
            groups,
            use_bias,
            padding_mode,
            dtype,
            key=key,
        )


class ConvTranspose3d(ConvTranspose):
    """The transpose of a convolution over three spatial axes.

    It is :class:`ConvTranspose` with ``num_spatial_dims=3``, and ``output_padding``
    before ``padding``. Takes one example ``(in_channels, depth, height, width)``; all
    else as described there.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> up = vn.nn.ConvTranspose3d(2, 1, (1, 2, 2), (1, 2, 2), key=jax.random.key(0))
    >>> up(jnp.ones((2, 4, 8, 8))).shape
    (1, 4, 16, 16)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = (1, 1, 1),
        output_padding: Sizes = (0, 0, 0),
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
            output_padding,
            dilation,
            groups,
            use_bias,
            padding_mode,
            dtype,
            key=key,
        )


def _output(
    layer: ConvTranspose, sizes: tuple[int, ...]
) -> tuple[tuple[int, ...], Pairs]:
    """Spatial sizes of the output, and the padding of the convolution that takes it."""
    window = kernel_span(layer.kernel_size, layer.dilation)
    stride, extra, padding = layer.stride, layer.output_padding, layer.padding
    if padding in ("SAME", "SAME_LOWER"):
        axes = zip(sizes, stride, extra, strict=True)
        outputs = tuple(n * s - e for n, s, e in axes)
        pairs = named_padding(str(padding), outputs, window, stride)
    else:
        none = ((0, 0),) * len(sizes)
        pairs = none if isinstance(padding, str) else padding
        every = zip(sizes, stride, window, pairs, extra, strict=True)
        outputs = tuple((n - 1) * s + w - sum(p) + e for n, s, w, p, e in every)
    if min(sizes) < 1 or min(outputs) < 1:
        fail(
            layer,
            "nothing of the output is left",
            expected=f"positive sizes, before and after padding {padding}",
            got=f"{tuple(sizes)}, which becomes {outputs}",
        )
    return outputs, pairs


def _transpose(
    layer: ConvTranspose, x: Array, outputs: tuple[int, ...], padding: Pairs
) -> Array:
    """The transpose of a convolution of ``outputs`` padded with zeros."""
    window = kernel_span(layer.kernel_size, layer.dilation)
    axes = zip(x.shape[1:], outputs, window, layer.stride, padding, strict=True)
    # Negative numbers, where there is more padding than kernel, cut something off.
    pads = [
        (w - 1 - before, m + before - 1 - (n - 1) * s)
        for n, m, w, s, (before, _) in axes
    ]
    return convolve(
        x,
        layer.weight,
        window_strides=(1,) * len(outputs),
        padding=pads,
        lhs_dilation=layer.stride,
        rhs_dilation=layer.dilation,
        feature_group_count=layer.groups,
    )


def _fold(y: Array, sizes: tuple[int, ...], padding: Pairs, mode: str) -> Array:
    """The transpose of ``jnp.pad``: adds each entry of a border to its original."""

    def pad(z: Array) -> Array:
        return jnp.pad(z, [(0, 0), *padding], mode=PAD_MODES[mode])

    is_inexact = jnp.issubdtype(y.dtype, jnp.inexact)
    wide = compute_dtype(y.dtype) if is_inexact else y.dtype
    unpadded = jax.ShapeDtypeStruct((y.shape[0], *sizes), wide)
    (folded,) = jax.linear_transpose(pad, unpadded)(y.astype(wide))
    return folded.astype(y.dtype)
