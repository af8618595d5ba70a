"""Sizes and padding of layers with a window are read the same way everywhere."""

from typing import Any

import numpy as np
import pytest

import vernal as vn
from vernal.nn._spatial import per_axis, per_side, spatial_names


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
