"""Named axes: what is a name, and where an example stands on them."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vernal import nn
from vernal.errors import AxisNameError, HyperparameterError
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
    layer = nn.RunningNorm(3, ("x", "y"))
    with pytest.raises(
        AxisNameError, match=r"RunningNorm: no axis named .'x', 'y'. is"
    ):
        _axes.count_examples(layer)


def test_examples_are_counted():
    """All named axes count; a whole batch is one."""
    layer = types.SimpleNamespace(axis_name=("a", "b"))
    count = jax.vmap(lambda _: _axes.count_examples(layer), axis_name="b")
    sizes = jax.vmap(count, axis_name="a")(jnp.zeros((2, 3)))
    np.testing.assert_array_equal(sizes, np.full((2, 3), 6))
    assert _axes.count_examples(types.SimpleNamespace(axis_name=None)) == 1


@pytest.mark.parametrize("name", [0, ("a", "a"), (), ("a", None), ["a", 1]], ids=str)
def test_what_is_no_name(name):
    """Positions, names given twice and no names at all are refused; names are kept."""
    for check in (_axes.require_axis_name, _axes.read_axis_name):
        with pytest.raises(HyperparameterError, match=r"Layer: .*axis_name"):
            check("Layer", name)
    with pytest.raises(HyperparameterError):
        _axes.require_axis_name("Layer", None)
    assert _axes.read_axis_name("Layer", ["a", "b"]) == ("a", "b")
    assert _axes.read_axis_name("Layer", "ab") == "ab"
    assert _axes.read_axis_name("Layer", None) is None
