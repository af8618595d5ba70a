"""Which axis of which leaf is mapped: what `filter_vmap` and `filter_pmap` share."""

import jax
import jax.numpy as jnp
import numpy as np

import vernal as vn
from tests.strategies import Node, refuses
from vernal._transform.axes import if_array, per_argument, per_leaf
from vernal.errors import TransformError

x3 = jnp.arange(3.0)


def test_if_array():
    """It is a value that gives its axis for arrays and None for other leaves."""
    assert if_array(2) == if_array(axis=2) != if_array(1)
    assert hash(if_array(2)) == hash(if_array(2))
    for array in (x3, np.ones(2), np.float32(1), jax.random.key(0)):
        assert if_array(2)(array) == 2
    assert if_array(2)(1.0) is None and if_array(2).axis == 2
    assert vn.if_array is if_array


def test_per_argument():
    """Axes by name become axes by position; what is not named has the default."""

    def f(a, b, c=None):
        pass

    assert per_argument("name", f, {"b": None}, (1, 2)) == (if_array(0), None)
    assert per_argument("name", f, [0, None], (1, 2)) == (0, None)
    assert per_argument("name", f, 1, (1, 2)) == 1
    with refuses(TransformError, "the caller", "['a', 'b']", "['c']"):
        per_argument("the caller", f, {"c": 0}, (1, 2))


def test_per_leaf():
    """A prefix of axes, None and functions becomes one axis for each leaf."""
    tree = {"a": [x3, 1], "b": Node(x3, "s")}
    assert per_leaf("name", 1, tree)["a"] == [1, 1]
    got = per_leaf("name", {"a": None, "b": if_array(2)}, tree)
    assert got["a"] == [None, None] and (got["b"].first, got["b"].second) == (2, None)


def test_per_leaf_of_what_does_not_fit():
    """No axis, a function that gives none, and another structure are refused."""
    for wrong in ("a", 1.5, lambda leaf: "a"):
        with refuses(TransformError, "the caller", "is no axis", "of type"):
            per_leaf("the caller", wrong, [x3])
    with refuses(TransformError, "the caller", "structure"):
        per_leaf("the caller", [0, 0], [x3])
