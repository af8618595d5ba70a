"""Key paths of pytrees as text."""

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import pytest

from tests.strategies import Node, Pair, Scale
from vernal._tree.paths import path_text

PATHS = {
    "": [],
    "norm": [jtu.GetAttrKey("norm")],
    "blocks[0]['a'].norm": [
        jtu.GetAttrKey("blocks"),
        jtu.SequenceKey(0),
        jtu.DictKey("a"),
        jtu.GetAttrKey("norm"),
    ],
    "[2].x": [jtu.SequenceKey(2), jtu.GetAttrKey("x")],
    "[3]": [jtu.DictKey(3)],
    "[4]": [jtu.FlattenedIndexKey(4)],
    "[other]": ["other"],
}


@pytest.mark.parametrize("text, path", PATHS.items())
def test_path_text(text, path):
    """A path reads like the access in Python, without a leading dot."""
    assert path_text(tuple(path)) == text


def test_paths_of_a_tree_are_code():
    """The text of each leaf's path, put behind the tree's name, gives the leaf."""
    tree = Node([{"a": Scale(jnp.ones(2))}, 5], Pair(1, (2, 3)))
    for path, leaf in jtu.tree_leaves_with_path(tree):
        text = path_text(path)
        assert eval(f"tree.{text}", {"tree": tree}) is leaf


def test_a_leaf_alone_has_no_path():
    """The path of a tree that is a leaf is empty."""
    ((path, _),) = jax.tree_util.tree_leaves_with_path(3)
    assert path_text(path) == ""
