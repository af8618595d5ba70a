"""How layers with a sliding window read sizes, strides and padding."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ._checks import is_size, require

Sizes = int | Sequence[int]
Padding = int | Sequence[int] | Sequence[tuple[int, int]]
Pairs = tuple[tuple[int, int], ...]

_INT = int | np.integer


def per_axis(layer: str, name: str, value: Sizes, num_axes: int) -> tuple[int, ...]:
    """An argument that is one int ≥ 1 for all spatial axes, or one for each."""
    sizes: Any = [value] * num_axes if isinstance(value, _INT) else value
    ok = isinstance(sizes, Sequence) and len(sizes) == num_axes
    ok = ok and all(is_size(size) for size in sizes)
    require(ok, layer, name, f"an int ≥ 1, or {num_axes} of them", value)
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
