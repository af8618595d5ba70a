"""Putting layers in the places of others: what fold_norms and bake have in common."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

import vernal as vn
from tests.strategies import refuses
from vernal import nn
from vernal.errors import StateError, TreeError
from vernal.nn._replace import (
    Stateless,
    is_called_as,
    nodes_of,
    place_of,
    replaced,
    unaliased,
)


def model_and_state() -> Any:
    norm = nn.BatchNorm(3, "batch")
    inner = nn.Sequential([jnp.sin, norm])
    return nn.split_state({"body": inner, "list": [norm, nn.Dropout(0.5)]})


def test_stateless() -> None:
    """It is called as a layer with state or without, and passes the state on."""
    layer: Any = Stateless(nn.Lambda(jnp.sin))
    x, (_, state) = jnp.ones(3), model_and_state()
    y, same = layer(x, state, key=None, inference=True)
    assert same is state and vn.tree_equal(y, jnp.sin(x))
    assert vn.tree_equal(layer(x), jnp.sin(x))
    model = nn.Sequential([layer, jnp.cos])
    assert not model.is_stateful()
    assert vn.tree_equal(model(x), jnp.cos(jnp.sin(x)))
    assert vn.tree_equal(jax.vmap(layer, (0, None), (0, None))(x, state)[1], state)
    linear = Stateless(nn.Linear(3, 3, key=jr.key(0)))
    assert len(jax.tree.leaves(linear)) == 2


def test_unaliased() -> None:
    """One object at two places becomes two; arrays and structure stay."""
    model, state = model_and_state()
    norm = nn.Dropout(0.1)
    model = {**model, "twice": [norm, norm]}
    tree = unaliased("f", model, state)
    assert tree["twice"][0] is not tree["twice"][1]
    assert jax.tree.structure(tree) == jax.tree.structure(model)
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(model), strict=True)
    assert all(a is b for a, b in pairs)
    with refuses(StateError, "f: `state` is not a State", "dict"):
        unaliased("f", model, {})


def test_nodes_and_places() -> None:
    """All nodes are found, and the path of each can be told."""
    tree, _ = model_and_state()
    norm, dropout = tree["body"].layers[1], tree["list"][1]
    found = [id(x) for x in nodes_of(tree)]
    assert id(tree) == found[0] and {id(norm), id(dropout)} <= set(found)
    assert place_of(tree, norm) == "['body'].layers[1]"
    assert place_of(tree, dropout) == "['list'][1]"
    assert place_of(tree, nn.Dropout(0.5)) == ""


class Same(nn.Dropout):
    """Is called as its parent."""


class Other(nn.Dropout):
    """Has a call of its own."""

    def __call__(self, x: Any, **_: Any) -> Any:
        return x


@pytest.mark.parametrize(
    ("x", "expected"),
    [(nn.Dropout(0.5), True), (Same(0.5), True), (Other(0.5), False), (3, False)],
)
def test_is_called_as(x: Any, expected: bool) -> None:
    """A subclass counts as long as it has the call of its parent."""
    assert is_called_as(x, nn.Identity, nn.Dropout) is expected
    assert not is_called_as(x, nn.Identity)


def test_replaced() -> None:
    """In a Sequential a layer is plain; where code calls it, it takes the state."""
    model, state = model_and_state()
    tree = unaliased("f", model, state)
    olds = [tree["body"].layers[1], *tree["list"]]
    changes = [(old, nn.Lambda(jnp.cos)) for old in olds]
    new, rest = replaced("f", tree, state, changes)
    assert isinstance(new["body"].layers[1], nn.Lambda)
    assert isinstance(new["list"][0], Stateless)
    assert isinstance(new["list"][1], nn.Lambda)
    assert not jax.tree.leaves(rest)
    _, rest = replaced("f", tree, state, changes[:1])
    assert len(jax.tree.leaves(rest)) == 3  # the other place still has it


def test_shared_places() -> None:
    """What is inside of a Shared is not replaced."""
    linears = [nn.Linear(3, 3, key=jr.key(i)) for i in range(2)]
    where, get = lambda t: t[1].weight, lambda t: t[0].weight
    model, state = nn.split_state([nn.Shared(linears, where, get)])
    tree = unaliased("f", model, state)
    words = ("f: `[0].pytree[0]` is inside of a Shared", "Linear", "outside of")
    with refuses(TreeError, *words):
        replaced("f", tree, state, [(tree[0].pytree[0], nn.Identity())])
