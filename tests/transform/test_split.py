"""Splitting a call into arrays, which are traced, and the rest, which is hashed."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from tests.strategies import Node, Opaque, Scale, identical, refuses, trees
from vernal._transform.split import (
    ARRAY,
    Hidden,
    hide,
    layout_of,
    merge,
    reveal,
    split,
    unhashable,
)
from vernal.errors import TransformError

array = jnp.ones(2)


@given(trees)
def test_merge_undoes_split(tree):
    """Any tree is split into arrays and the rest, and rebuilt from them."""
    arrays, treedef, static = split(tree)
    assert identical(merge(arrays, treedef, static), tree)


@given(trees)
def test_reveal_undoes_hide(tree):
    """Any tree is split into arrays and metadata, and rebuilt from them."""
    arrays, hidden = hide(tree)
    assert identical(reveal(arrays, hidden), tree)
    assert jax.tree.leaves(hidden) == []


@pytest.mark.parametrize(
    "leaf", [array, np.ones(2), np.float32(1), np.float64(1), jax.random.key(0)]
)
def test_arrays_are_taken_out(leaf):
    """JAX and NumPy arrays, NumPy scalars and keys are arrays, at every call."""
    for _ in range(2):
        arrays, _, static = split(["a", leaf, 1])
        assert len(arrays) == 1 and arrays[0] is leaf
        assert static == ("a", ARRAY, 1)


@pytest.mark.parametrize("leaf", [1, 1.0, True, "a", len, None, Opaque()])
def test_other_leaves_stay(leaf):
    """Everything else is left in its place."""
    arrays, _, static = split([array, [leaf], array])
    assert arrays == [array, array]
    assert static is None if leaf is None else static == (ARRAY, leaf, ARRAY)


def test_a_tree_of_arrays_needs_no_list():
    """Where all leaves are arrays, nothing is kept beside the treedef."""
    arrays, treedef, static = split({"a": array, "b": [np.ones(1)]})
    assert static is None and len(arrays) == 2
    assert treedef == jax.tree.structure({"a": 0, "b": [0]})


def test_tracers_are_arrays():
    """Tracers of any kind are taken out too."""

    def check(x):
        assert split([x, 1])[0] == [x]
        return x

    jax.jit(jax.vmap(jax.grad(check)))(jnp.ones(3))


def layout(tree):
    return layout_of(*split(tree)[1:])


def test_equal_layouts():
    """Calls that differ only in their arrays have equal layouts, and one hash."""
    a, b = layout([array, "x", 1]), layout([np.zeros(3), "x", 1])
    assert a == b and hash(a) == hash(b)
    assert layout(array) == layout(jnp.zeros(5))


OTHERS = [
    [array, "y", 1],
    [array, "x", 1.0],
    [array, "x", True],
    [array, "x", 2],
    ["x", array, 1],
    (array, "x", 1),
    [array, "x", array],
    [array, "x", 1, None],
    [array, "x", None],
]


@pytest.mark.parametrize("other", OTHERS, ids=repr)
def test_different_layouts(other):
    """Another value, type, place or structure is another layout."""
    assert layout([array, "x", 1]) != layout(other)


def test_static_fields_are_part_of_the_layout():
    """Modules with other metadata have other layouts."""
    assert layout(Node(array, tag="a")) == layout(Node(array, tag="a"))
    assert layout(Node(array, tag="a")) != layout(Node(array, tag="b"))
    assert layout(Node(array, fn=jnp.sin)) != layout(Node(array, fn=jnp.cos))


def test_a_layout_is_no_other_thing():
    """A layout is unequal to whatever is none."""
    assert layout([1]) != "text"


def test_a_layout_of_what_cannot_be_hashed():
    """A leaf that cannot be hashed is noticed when the layout is made."""
    with pytest.raises(TypeError):
        layout([array, {1}])


def test_the_unhashable_leaf_is_named():
    """The error says where the leaf is, and of what type."""
    tree = {"a": [array, Scale([1, {2}])]}
    with refuses(TransformError, "neither an array nor hashable", "set at ['a'][1]."):
        raise unhashable(tree)


def test_hidden_values_are_metadata():
    """What is hidden is compared as part of the structure, and comes back as it is."""
    assert jax.tree.structure(Hidden("a")) == jax.tree.structure(Hidden("a"))
    assert jax.tree.structure(Hidden("a")) != jax.tree.structure(Hidden("b"))
    assert jax.tree.map(lambda x: x, Hidden(len)).values is len


def test_the_marker_prints_as_what_it_is():
    """In error texts and debuggers the marker reads as an array."""
    assert repr(ARRAY) == "<array>"


def test_many_threads_split():
    """New types of arrays may be met by several threads at once."""
    results = []

    def work(i):
        tree = [array, np.ones(i), np.int8(i), str(i)]
        results.append(identical(merge(*split(tree)), tree))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 8
