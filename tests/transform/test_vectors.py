"""Tangents and cotangents: trees like another tree, with None for zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.strategies import Node, refuses
from vernal._transform.vectors import (
    check_vectors,
    is_none,
    none_to_zero,
    zero_to_none,
)
from vernal.errors import TransformError

x = jnp.ones(2)
POINTS = {"x": x, "n": 3, "f": 1.0, "none": None, "node": Node(np.ones(3), "s")}


def vectors(**changes):
    plain = {"x": x, "n": None, "f": None, "none": None, "node": Node(None)}
    return {**plain, **changes}


def test_is_none():
    """Only None is None."""
    assert is_none(None) and not is_none(0) and not is_none(x)


@pytest.mark.parametrize(
    "changes",
    [{}, {"x": None}, {"x": np.ones(2, np.float32)}, {"f": 2.0}, {"f": jnp.ones(())}],
)
def test_vectors_that_fit(changes):
    """None fits everywhere; numbers fit where shape and dtype are the same."""
    check_vectors("name", vectors(**changes), POINTS)


def test_structs_as_points():
    """Shape and dtype can be given without an array."""
    struct = jax.ShapeDtypeStruct((2,), jnp.float32)
    check_vectors("name", [x], [struct])
    with refuses(TransformError, "float32[2] at [0]", "float32[3]"):
        check_vectors("name", [jnp.ones(3)], [struct])


WRONG = {
    "shape": ({"x": jnp.ones(3)}, ["float32[2] at ['x']", "float32[3]"]),
    "dtype": ({"x": jnp.ones(2, jnp.float16)}, ["float32[2]", "float16[2]"]),
    "no tangent": ({"n": jnp.ones(())}, ["None at ['n']", "float32[]"]),
    "two integers": ({"n": 1}, ["None at ['n']", "1 of type int"]),
    "integer": ({"x": jnp.arange(2)}, ["float32[2]", "got:"]),
    "text": ({"x": "text"}, ["float32[2]", "of type str"]),
    "in a Module": ({"node": Node(x)}, ["float32[3] at ['node'].first"]),
}


@pytest.mark.parametrize("changes, words", WRONG.values(), ids=WRONG)
def test_vectors_that_do_not_fit(changes, words):
    """A vector of another shape or dtype, or where there can be none, is named."""
    points = {**POINTS, "node": Node(np.ones(3), "s")}
    with refuses(TransformError, "the caller: a leaf does not fit", *words):
        check_vectors("the caller", vectors(**changes), points)


def test_another_structure():
    """Both structures are shown."""
    with refuses(TransformError, "the caller: the structure", "expected", "got"):
        check_vectors("the caller", (x, None), [x, 1])


def test_zeros():
    """Zeros known as such become None, and None becomes such a zero."""
    for point in (x, jnp.arange(3), jax.random.key(0)):
        zero = none_to_zero(None, point)
        assert isinstance(zero, jax.custom_derivatives.SymbolicZero)
        assert zero.shape == point.shape and zero_to_none(zero) is None
    assert none_to_zero(None, "text") is None
    assert none_to_zero(x, x) is x and zero_to_none(x) is x
    assert zero_to_none(1.0) == 1.0
    assert zero_to_none(np.zeros(2, jax.dtypes.float0)) is None
