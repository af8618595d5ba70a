"""What leaves are called in a file; renaming and selecting."""

import re
from typing import Any

import jax.numpy as jnp
import jax.tree_util as jtu
import optax
import pytest

import vernal as vn
from tests.strategies import Node, Pair, refuses
from vernal.checkpoint._names import is_under, named_leaves, rename_all, selection
from vernal.errors import ModelFileError, TreeError


def test_names_read_like_paths() -> None:
    """Keys of dictionaries and slots of a State look like attributes."""
    make = vn.nn.make_with_state(lambda: {"norm1": vn.nn.BatchNorm(2, "batch")})
    _, state = make()
    model = Node([{"a": 1}, Pair(2, (3,))])
    opt_state = optax.adam(1.0).init({"w": jnp.ones(1)})
    tree = {"model": model, "state": state, "opt": opt_state, "two words": 4, 5: 6}
    assert set(named_leaves({str(k): v for k, v in tree.items()})) == {
        "model.first[0].a",
        "model.first[1].left",
        "model.first[1].right[0]",
        "state['norm1'].batch_counter",
        "state['norm1'].batch_state_index[0]",
        "state['norm1'].batch_state_index[1]",
        "opt[0].count",
        "opt[0].mu.w",
        "opt[0].nu.w",
        "['two words']",
        "['5']",
    }
    assert list(named_leaves({5: 1, 6: 2})) == ["[5]", "[6]"]


def test_slots_of_a_module_read_like_attributes() -> None:
    """The path of the layer follows the name of the State."""
    model = vn.nn.Sequential([vn.nn.BatchNorm(2, "batch")])
    _, state = vn.nn.split_state(model)
    assert "state.layers[0].batch_counter" in named_leaves({"state": state})
    assert "layers[0].batch_counter" in named_leaves(state)


def test_a_leaf_alone_has_a_name() -> None:
    """A tree that is a leaf is called `value`; an empty tree has no names."""
    assert named_leaves(3) == {"value": 3}
    assert named_leaves({}) == {}


def test_names_that_would_be_the_same_are_quoted() -> None:
    """Each leaf keeps a name of its own; so does one that the format reserves."""
    tree = {"a.b": 1, "a": {"b": 2}, "__metadata__": 3, "c": 4}
    assert named_leaves(tree) == {
        "['a.b']": 1,
        "['a']['b']": 2,
        "['__metadata__']": 3,
        "c": 4,
    }


def test_two_leaves_of_one_name_are_refused() -> None:
    """Where quoting does not help, the names are an error."""

    class Twice:
        """A node whose children have the same key."""

    key = jtu.GetAttrKey("x")
    jtu.register_pytree_with_keys(
        Twice, lambda _: (((key, 1), (key, 2)), None), lambda *_: Twice()
    )
    with refuses(TreeError, "both called `[0].x`"):
        named_leaves([Twice()])


@pytest.mark.parametrize(
    "name, prefix, expected",
    [
        ("norm.a", "norm", True),
        ("norm[0]", "norm", True),
        ("norm", "norm", True),
        ("norm1.a", "norm", False),
        ("a.norm", "norm", False),
        ("norm", "norm.a", False),
        ("anything", "", True),
    ],
)
def test_is_under(name: str, prefix: str, expected: bool) -> None:
    """A prefix ends where a step of the path ends."""
    assert is_under(name, prefix) is expected


@pytest.mark.parametrize(
    "rename, expected",
    [
        (None, ["enc.a", "enc.b[0]", "head"]),
        ({"enc": "body"}, ["body.a", "body.b[0]", "head"]),
        ({"enc": "body", "enc.b": "x"}, ["body.a", "x[0]", "head"]),
        ({"enc.b": "enc.c", "head": "layers[2]"}, ["enc.a", "enc.c[0]", "layers[2]"]),
        ({"": "model"}, ["model.enc.a", "model.enc.b[0]", "model.head"]),
        ({"enc": ""}, ["a", "b[0]", "head"]),
        ({"en": "x"}, ["enc.a", "enc.b[0]", "head"]),
        (lambda name: name.upper(), ["ENC.A", "ENC.B[0]", "HEAD"]),
        (lambda name: None if "b" in name else name, ["enc.a", "head"]),
    ],
)
def test_rename_all(rename: Any, expected: list[str]) -> None:
    """Whole prefixes change, the longest one first; a function says it all."""
    old = ["enc.a", "enc.b[0]", "head"]
    found = rename_all(old, rename)
    assert list(found) == expected
    assert list(found.values()) == [x for x in old if x in found.values()]


def test_renaming_two_to_one_is_refused() -> None:
    """No name may take the place of another."""
    with refuses(ModelFileError, "`a` and `b` -> `b`"):
        rename_all(["a", "b"], {"a": "b"})


@pytest.mark.parametrize(
    "only, expected",
    [
        (None, ["a.x", "a.y", "b"]),
        ("a", ["a.x", "a.y"]),
        (["a.x", "b"], ["a.x", "b"]),
        (re.compile(r"\.y|b"), ["a.y", "b"]),
        (lambda name: name.endswith("x"), ["a.x"]),
        (("b", re.compile("x")), ["a.x", "b"]),
    ],
)
def test_selection(only: Any, expected: list[str]) -> None:
    """A subtree, a pattern, a function, or any of several."""
    names = ["a.x", "a.y", "b"]
    assert [name for name in names if selection(only, names)(name)] == expected


@pytest.mark.parametrize("only", ["c", ["a", "c"], re.compile("c"), lambda name: False])
def test_a_selection_of_nothing_is_refused(only: Any) -> None:
    """A part that was misspelled does not go unseen."""
    with refuses(ModelFileError, "`only` matches no name"):
        selection(only, ["a.x", "b"])
