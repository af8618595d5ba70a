"""What layers with a sliding window share: sizes, strides, padding, kernels."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax

from ..typing import Array, DTypeLike, Key
from ._checks import is_size, require
from ._init import default_dtype, uniform_fan_in

Sizes = int | Sequence[int]
Padding = int | Sequence[int] | Sequence[tuple[int, int]]
Pairs = tuple[tuple[int, int], ...]
PaddingMode = Literal["ZEROS", "REFLECT", "REPLICATE", "CIRCULAR"]

# What each mode but ZEROS is called in `jnp.pad`.
PAD_MODES = {"REFLECT": "reflect", "REPLICATE": "edge", "CIRCULAR": "wrap"}

_INT = int | np.integer


def per_axis(
    layer: str, name: str, value: Sizes, num_axes: int, minimum: int = 1
) -> tuple[int, ...]:
    """An argument that is one int ≥ minimum for all spatial axes, or one for each."""
    sizes: Any = [value] * num_axes if isinstance(value, _INT) else value
    ok = isinstance(sizes, Sequence) and len(sizes) == num_axes
    ok = ok and all(is_size(size, minimum) for size in sizes)
    require(ok, layer, name, f"an int ≥ {minimum}, or {num_axes} of them", value)
    return tuple(int(size) for size in sizes)


def per_side(
    layer: str, padding: Padding, num_axes: int, *, or_else: str = ""
) -> Pairs:
    """The argument ``padding`` as a pair (before, after) for each spatial axis.

    Arguments:
        layer: the class of the layer, for the message.
        padding: an int ≥ 0, one for each axis, or pairs of them.
        num_axes: number of spatial axes.
        or_else: what else would be welcome, for the message.
    """
    given: Any = [padding] * num_axes if isinstance(padding, _INT) else padding
    given = given if isinstance(given, Sequence) else ()
    pairs = [(side, side) if isinstance(side, _INT) else side for side in given]
    ok = len(pairs) == num_axes and all(map(_is_pair, pairs))
    expected = f"an int ≥ 0, {num_axes} of them or of pairs (before, after){or_else}"
    require(ok, layer, "padding", expected, padding)
    return tuple((int(before), int(after)) for before, after in pairs)


def _is_pair(x: Any) -> bool:
    is_two = isinstance(x, Sequence) and len(x) == 2
    return is_two and all(is_size(side, minimum=0) for side in x)


def spatial_names(num_axes: int) -> str:
    """Names of the spatial axes, for the messages of ``check_shape``."""
    usual = {1: "length", 2: "height width", 3: "depth height width"}
    numbered = " ".join(f"dim_{i + 1}" for i in range(num_axes))
    return usual.get(num_axes, numbered)


def padding_of(layer: str, padding: str | Padding, num_axes: int) -> str | Pairs:
    """The argument ``padding`` as an upper-case word, or as ``per_side`` reads it."""
    words = '"SAME", "SAME_LOWER" or "VALID"'
    if not isinstance(padding, str):
        return per_side(layer, padding, num_axes, or_else=f", or {words}")
    word = padding.upper()
    is_known = word in ("SAME", "SAME_LOWER", "VALID")
    require(is_known, layer, "padding", words, padding)
    return word


def padding_mode_of(layer: str, mode: Any) -> Any:
    """The argument ``padding_mode`` in upper case."""
    ok = isinstance(mode, str) and mode.upper() in ("ZEROS", *PAD_MODES)
    words = '"ZEROS", "REFLECT", "REPLICATE" or "CIRCULAR"'
    require(ok, layer, "padding_mode", words, mode)
    return mode.upper()


def check_channels(layer: str, inputs: int, outputs: int, groups: int) -> None:
    """Refuses channels that are no sizes, or that the groups do not divide."""
    require(is_size(inputs), layer, "in_channels", "an int ≥ 1", inputs)
    require(is_size(outputs), layer, "out_channels", "an int ≥ 1", outputs)
    ok = is_size(groups) and inputs % groups == outputs % groups == 0
    expected = f"an int ≥ 1 that divides in_channels = {inputs} and "
    expected += f"out_channels = {outputs}"
    require(ok, layer, "groups", expected, groups)


def kernel_span(kernel_size: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...]:
    """How many entries of the input a kernel spans, on each axis."""
    both = zip(kernel_size, dilation, strict=True)
    return tuple(d * (k - 1) + 1 for k, d in both)


def named_padding(
    word: str, sizes: Sequence[int], window: Sequence[int], stride: Sequence[int]
) -> Pairs:
    """The padding that a word stands for, in front of a convolution."""
    return tuple(lax.padtype_to_pads(sizes, window, stride, word))


def draw_kernel(
    key: Key, shape: tuple[int, ...], use_bias: bool, dtype: DTypeLike | None
) -> tuple[Array, Array | None]:
    """Weight ``(out_channels, in_channels // groups, *kernel_size)``, and bias."""
    weight_key, bias_key = jr.split(key)
    dtype = default_dtype(dtype)
    fan_in = math.prod(shape[1:])
    weight = uniform_fan_in(weight_key, shape, dtype, fan_in)
    if not use_bias:
        return weight, None
    bias_shape = (shape[0], *[1] * len(shape[2:]))
    return weight, uniform_fan_in(bias_key, bias_shape, dtype, fan_in)


def convolve(x: Array, weight: Array, **options: Any) -> Array:
    """``lax.conv_general_dilated`` of one example."""
    # The primitive wants equal dtypes; this is how `@` would make them equal.
    dtype = jnp.result_type(x, weight)
    x = jnp.asarray(x, dtype)
    return lax.conv_general_dilated(x[None], weight.astype(dtype), **options)[0]
