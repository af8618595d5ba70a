"""Choosing parts of a tree by type, name and function."""

import re

import jax.numpy as jnp
import pytest

import vernal as vn
from tests.strategies import Node, Scale, refuses
from vernal import nn
from vernal._tree.paths import path_text
from vernal._tree.select import select, walk
from vernal.errors import TreeError


class Model(vn.Module):
    body: list[Node]
    head: Scale
    norm1: nn.Identity


BODY = [Node(jnp.ones(2), Scale(jnp.zeros(3))), Node(None, Scale(1.0))]
TREE = Model(BODY, Scale(jnp.ones(1)), nn.Identity())

CHOICES = {
    "class": (Scale, ["body[0].second", "body[1].second", "head"]),
    "outermost": (Node, ["body[0]", "body[1]"]),
    "without leaves": (nn.Identity, ["norm1"]),
    "name": ("body[1]", ["body[1]"]),
    "all": ("*", [""]),
    "star": ("*.second", ["body[0].second", "body[1].second"]),
    "star inside": ("body[*].first", ["body[0].first", "body[1].first"]),
    "expression": (re.compile(r"^body\[\d\]\.f"), ["body[0].first", "body[1].first"]),
    "function": (lambda t: t.head, ["head"]),
    "function, several": (lambda t: [t.norm1, t.body[0]], ["body[0]", "norm1"]),
    "leaf": (lambda t: t.head.factor, ["head.factor"]),
    "several": ([nn.Identity, "head", Node], ["body[0]", "body[1]", "head", "norm1"]),
}


def names(found):
    return [path_text(path) for path, _ in found]


@pytest.mark.parametrize("case", CHOICES)
def test_what_is_chosen(case):
    """Each kind of `where` means these parts, in order, and nothing inside of them."""
    where, expected = CHOICES[case]
    found = select("test", TREE, where)
    assert names(found) == expected
    nodes = {path_text(path): node for path, node in walk(TREE)}
    assert all(node is nodes[path_text(path)] for path, node in found)


def test_walk():
    """All nodes and leaves come, parents first, also None; a leaf is a tree, too."""
    assert names(walk([1, None, {"a": 2}])) == ["", "[0]", "[1]", "[2]", "[2]['a']"]
    assert list(walk(3)) == [((), 3)]
    assert list(walk(None)) == [((), None)]


def test_a_tree_that_is_chosen_whole():
    """The root can be meant itself."""
    (found,) = select("test", TREE.head, Scale)
    assert found == ((), TREE.head)


@pytest.mark.parametrize("where", ["tail", nn.Linear, re.compile("tail"), []])
def test_nothing(where):
    """What means nothing is refused, with the parts that there are."""
    with refuses(TreeError, "freeze: `where` means nothing", "head"):
        select("freeze", TREE, where)


def test_not_understood():
    """A mask, say, is no way to choose."""
    with refuses(TreeError, "freeze: cannot understand", "{'head': True}"):
        select("freeze", TREE, {"head": True})


def test_a_static_field():
    """A function that returns a static field chooses nothing."""
    with refuses(TreeError, "means nothing"):
        select("freeze", Node(1, tag="x"), lambda m: m.tag)
