"""Named axes: what is a name, and where an example stands on them."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vernal import nn
from vernal.errors import AxisNameError
from vernal.nn import _axes


def test_names():
    """None stands for no name, one name for itself."""
    assert _axes.names_of(None) == ()
    assert _axes.names_of("a") == ("a",)
    assert _axes.names_of(["a", "b"]) == ("a", "b")


def test_positions():
    """On two axes they count like rows of a matrix; without a name all are first."""

    def at(names):
        layer = types.SimpleNamespace(axis_name=names)
        one = lambda x: x + _axes.position(layer)  # noqa: E731
        inner = jax.vmap(one, axis_name="b")
        return jax.vmap(inner, axis_name="a")(jnp.zeros((2, 3), jnp.int32))

    np.testing.assert_array_equal(at(("a", "b")), [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(at(("b", "a")), [[0, 2, 4], [1, 3, 5]])
    np.testing.assert_array_equal(at("a"), [[0, 0, 0], [1, 1, 1]])
    np.testing.assert_array_equal(at(None), np.zeros((2, 3)))


def test_an_axis_out_of_scope():
    """The message names the axis and the way out."""
    layer = nn.Identity()
    with pytest.raises(AxisNameError, match="Identity: no axis named 'x' is in scope"):
        _axes.require_bound(layer, ("x",))
    size = jax.vmap(lambda _: _axes.require_bound(layer, ("x",)), axis_name="x")
    np.testing.assert_array_equal(size(jnp.zeros(3)), 3)
