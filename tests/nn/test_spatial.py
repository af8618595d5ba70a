"""Sizes and padding of layers with a window are read the same way everywhere."""

from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import vernal as vn
from vernal.nn._spatial import (
    check_channels,
    convolve,
    draw_kernel,
    kernel_span,
    named_padding,
    padding_mode_of,
    padding_of,
    per_axis,
    per_side,
    spatial_names,
)


@pytest.mark.parametrize(
    ("given", "stored"),
    [(2, (2, 2)), ((2, 3), (2, 3)), ([2, 3], (2, 3)), (np.int64(2), (2, 2))],
)
def test_per_axis(given: Any, stored: tuple[int, int]) -> None:
    """One size serves all axes; several are kept; all become plain ints."""
    sizes = per_axis("Layer", "stride", given, 2)
    assert sizes == stored
    assert all(type(size) is int for size in sizes)


@pytest.mark.parametrize("given", [0, -1, True, 1.0, (1,), (1, 2, 3), (1, 0), "ab"])
def test_per_axis_refuses(given: Any) -> None:
    """What is no size ≥ 1, or not one for each axis, is refused by name."""
    with pytest.raises(vn.errors.HyperparameterError, match="`stride`"):
        per_axis("Layer", "stride", given, 2)


def test_per_axis_from_zero() -> None:
    """Another minimum is taken, and named in the message."""
    assert per_axis("Layer", "output_padding", (0, 1), 2, minimum=0) == (0, 1)
    with pytest.raises(vn.errors.HyperparameterError, match="an int ≥ 0, or 2 of them"):
        per_axis("Layer", "output_padding", -1, 2, minimum=0)


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (1, ((1, 1), (1, 1))),
        ((1, 2), ((1, 1), (2, 2))),
        (((0, 1), (2, 3)), ((0, 1), (2, 3))),
        ([1, (2, 3)], ((1, 1), (2, 3))),
    ],
)
def test_per_side(given: Any, stored: Any) -> None:
    """Padding becomes a pair (before, after) for each axis."""
    assert per_side("Layer", given, 2) == stored


@pytest.mark.parametrize("given", [-1, (1,), ((1, 2, 3), 1), ((-1, 0), 0), None, 0.5])
def test_per_side_refuses(given: Any) -> None:
    """What is no padding is refused by name."""
    with pytest.raises(vn.errors.HyperparameterError, match="`padding`"):
        per_side("Layer", given, 2)


def test_spatial_names() -> None:
    """Up to three axes have their usual names."""
    assert spatial_names(2) == "height width"
    assert spatial_names(4) == "dim_1 dim_2 dim_3 dim_4"


def test_words() -> None:
    """Padding by name and padding modes are read in any case; other words are not."""
    assert padding_of("Layer", "same_lower", 2) == "SAME_LOWER"
    assert padding_of("Layer", (1, 2), 2) == ((1, 1), (2, 2))
    assert padding_mode_of("Layer", "Circular") == "CIRCULAR"
    for name, read in [
        ("padding", lambda word: padding_of("Layer", word, 2)),
        ("padding_mode", lambda word: padding_mode_of("Layer", word)),
    ]:
        for word in ("FULL", "", None):
            with pytest.raises(vn.errors.HyperparameterError, match=f"`{name}`"):
                read(word)


@pytest.mark.parametrize(
    ("numbers", "name"),
    [
        ((0, 2, 1), "in_channels"),
        ((2, 1.0, 1), "out_channels"),
        ((4, 6, 4), "groups"),
        ((4, 6, 0), "groups"),
        ((4, 6, True), "groups"),
    ],
)
def test_channels(numbers: Any, name: str) -> None:
    """Channels are sizes, and the groups divide both of them."""
    check_channels("Layer", 4, 6, 2)
    with pytest.raises(vn.errors.HyperparameterError, match=f"`{name}`"):
        check_channels("Layer", *numbers)


def test_spans_and_named_padding() -> None:
    """A dilated kernel spans more; SAME pads for ``ceil(n / stride)`` positions."""
    window = kernel_span((3, 1, 2), (2, 5, 1))
    assert window == (5, 1, 2)
    assert named_padding("SAME", (9, 3, 3), window, (2, 1, 1)) == (
        (2, 2),
        (0, 0),
        (0, 1),
    )
    assert named_padding("SAME_LOWER", (3,), (2,), (1,)) == ((1, 0),)
    assert named_padding("VALID", (3,), (2,), (1,)) == ((0, 0),)


def test_draw_kernel() -> None:
    """Weight and bias share the limit 1/√fan_in; no bias leaves the weight the same."""
    weight, bias = draw_kernel(jr.key(0), (64, 4, 3, 3), True, jnp.float16)
    assert bias is not None and bias.shape == (64, 1, 1)
    assert weight.dtype == bias.dtype == jnp.float16
    for array in (weight, bias):
        assert 0.9 / 6 < jnp.abs(array).max() <= 1 / 6 + 1e-3
    alone, none = draw_kernel(jr.key(0), (64, 4, 3, 3), False, jnp.float16)
    assert none is None and jnp.array_equal(alone, weight)


@pytest.mark.relaxed
def test_convolve() -> None:
    """One example is convolved, in the dtype that ``@`` would compute in."""
    x, weight = jnp.array([[1, 2, 3]], jnp.int32), jnp.array([[[1.0, 10.0]]])
    y = convolve(x, weight, window_strides=(1,), padding="VALID")
    assert y.dtype == (weight[0] @ x[:, :2].T).dtype
    assert y.tolist() == [[21, 32]]
