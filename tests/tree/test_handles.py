"""Handles: distinct stand-ins for the leaves and hidden fields of a tree."""

import jax
import jax.numpy as jnp
import pytest

import vernal as vn
from tests.strategies import Node, Scale, identical
from vernal._tree._handles import (
    Handle,
    restore_hidden,
    unwrap,
    visit,
    wrap_everything,
    wrap_leaves,
)


def test_a_handle_answers_like_its_value():
    """Questions of type, shape, truth, size and equality get the value's answers."""
    array = Handle(jnp.ones((2, 3)))
    assert isinstance(array, jax.Array) and vn.is_inexact_array(array)
    assert (array.shape, array.ndim, array.dtype) == ((2, 3), 2, jnp.float32)
    assert not Handle(0) and Handle("a") and len(Handle("abc")) == 3
    assert Handle(3) == 3 and Handle(3) == Handle(3) and Handle(3) != 4
    assert hash(Handle("a")) == hash("a")
    assert [5, 6, 7][Handle(1)] == 6
    assert not isinstance(Handle(1), str)


def test_handles_of_one_value_are_distinct():
    """That is what they are for."""
    a, b = Handle(1), Handle(1)
    assert a == b and a is not b


def test_unwrap_takes_all_handles_out():
    """No handle is left, neither among the leaves nor in static fields."""
    node = Node(jnp.ones(2), [1, "a"], tag="tag", fn=jnp.sin)
    tagged = wrap_everything(node, None)
    assert type(tagged.first) is Handle and type(tagged.tag) is Handle
    assert identical(unwrap(tagged), node)
    assert unwrap(Handle(3)) == 3


def test_wrap_everything():
    """Leaves, None, static values and functions get handles; nodes do not."""
    wrapped = wrap_everything(Node(1, [None, ()], "tag", Scale(1.0)), None)
    assert (type(wrapped.tag), wrapped.tag.value) == (Handle, "tag")
    assert [type(x) for x in wrapped.second] == [Handle, Handle]
    assert [x.value for x in wrapped.second] == [None, ()]
    assert type(wrapped.fn) is Scale and type(wrapped.first) is Handle
    wrapped = wrap_everything(Node(1, fn=jnp.sin), None)
    assert type(wrapped.fn) is Handle and wrapped.fn.value is jnp.sin


def test_wrap_leaves():
    """Only leaves get handles, or what `is_leaf` says; the original stays."""
    node = Node(1, None, "tag", jnp.sin)
    wrapped = wrap_leaves(node, None)
    assert type(wrapped.first) is Handle
    assert (wrapped.second, wrapped.tag, wrapped.fn) == (None, "tag", jnp.sin)
    assert type(wrap_leaves(node, lambda x: x is None).second) is Handle
    assert node.first == 1


def test_restore_swaps_each_handle():
    """Each handle in a static field is replaced by what the function returns."""
    node = wrap_everything([Node(1, tag="a"), Node(2, tag="b")], None)
    restore_hidden(node, lambda handle: (handle.value, "new"))
    assert [x.tag for x in node] == [("a", "new"), ("b", "new")]
    assert node[0].fn == (jnp.tanh, "new")


def test_visit_sees_each_node_parents_first():
    """Nodes, leaves and None are visited, each parent before its children."""
    leaf = jnp.ones(1)
    tree = {"a": [leaf, None], "b": Scale(2.0)}
    seen = []
    visit(tree, seen.append)
    expected = [tree, tree["a"], leaf, None, tree["b"], 2.0]
    assert len(seen) == len(expected)
    assert all(map(lambda a, b: a is b, seen, expected))


@pytest.mark.parametrize("value", [1, "a", None])
def test_a_handle_gives_away_its_value(value):
    """The value is reached by its own name."""
    assert Handle(value).value is value
