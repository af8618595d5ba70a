"""Looking one level into a pytree, and proving that it is a tree at all."""

import jax
import jax.numpy as jnp
import pytest

import vernal as vn
from tests.strategies import Empty, Node, Opaque, Pair, identical, refuses
from vernal.errors import TreeError

array = jnp.ones(2)
opaque = Opaque()

ONE_LEVEL = {
    "list": ([[1, 2], 3], [[1, 2], 3]),
    "tuple": ((1, (2,)), [1, (2,)]),
    "dict": ({"b": 1, "a": [2]}, [[2], 1]),
    "namedtuple": (Pair([1], 2), [[1], 2]),
    "module": (Node([array], 2, fn=jnp.sin), [[array], 2]),
    "module without fields": (Empty(), []),
    "nothing": (None, []),
    "empty": ([], []),
    "leaf": (opaque, [opaque]),
    "array": (array, [array]),
}


@pytest.mark.parametrize("tree, children", ONE_LEVEL.values(), ids=ONE_LEVEL)
def test_flatten_one_level(tree, children):
    """Only the outermost node is taken apart, and can be put together again."""
    found, treedef = vn.tree_flatten_one_level(tree)
    assert identical(found, children)
    assert identical(treedef.unflatten(found), tree)


def test_one_level_takes_anything_back():
    """The treedef rebuilds the node from any objects."""
    _, treedef = vn.tree_flatten_one_level(Node([1, 2], 3))
    out = treedef.unflatten(["x", [0]])
    assert (type(out), out.first, out.second) == (Node, "x", [0])


def test_a_node_that_is_its_own_child():
    """A node that contains itself directly is refused."""
    tree = [1]
    tree.append(tree)
    with refuses(TreeError, "a list has itself as a child"):
        vn.tree_flatten_one_level(tree)
    with refuses(TreeError, "a list has itself as a child"):
        vn.tree_check(tree)


def test_a_node_inside_itself():
    """A node that contains itself further down is refused as such."""
    inner = {}
    inner["loop"] = [inner]
    with refuses(TreeError, "a dict appears inside itself", "copy it"):
        vn.tree_check([inner])


@pytest.mark.parametrize("shared", [[1], {"a": 1}, (1, 2), Node(array), Pair(1, 2)])
def test_a_node_at_two_places(shared):
    """A node that appears twice is refused, with its type and the way out."""
    kind = type(shared).__name__
    with refuses(TreeError, f"a {kind} appears at two places", "copy it"):
        vn.tree_check({"x": shared, "y": [shared]})


def test_leaves_and_empty_containers_may_repeat():
    """What holds nothing that could come apart may appear any number of times."""
    empty = Empty()
    leaves = [array, opaque, 1, "a", None, (), empty]
    assert vn.tree_check([leaves[:], leaves[:], empty]) is None


def test_equal_nodes_are_not_the_same():
    """Two equal nodes are no double."""
    assert vn.tree_check([[1], [1], Node(1), Node(1)]) is None


def test_what_the_check_is_for():
    """JAX takes a shared node apart into two, which the check foresees."""
    shared = [1]
    out = jax.tree.map(lambda x: x, {"a": shared, "b": shared})
    assert out["a"] is not out["b"]
