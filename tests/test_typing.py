"""The names for the kinds of values in signatures."""

import typing

import jax
import jaxtyping

from vernal import typing as names


def test_the_namespace_is_what_it_lists():
    """Every listed name exists, and the list is sorted."""
    assert names.__all__ == sorted(names.__all__)
    assert all(hasattr(names, name) for name in names.__all__)


def test_arrays_and_trees_are_the_common_ones():
    """Array is JAX's, and Key and PyTree are jaxtyping's, under short names."""
    assert names.Array is jax.Array
    assert names.Key is jaxtyping.PRNGKeyArray
    assert names.PyTree is jaxtyping.PyTree


def test_axes_and_leaves_may_be_absent():
    """An axis specification and an `is_leaf` may be None."""
    assert type(None) in typing.get_args(names.AxisSpec)
    assert type(None) in typing.get_args(names.IsLeaf)
