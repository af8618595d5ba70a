"""Adding updates to a model: ``apply_updates``."""

import jax
import jax.numpy as jnp
import optax

import vernal as vn
from tests.strategies import Node, identical

linear = vn.nn.Linear(2, 3, key=jax.random.key(0))


def test_apply_updates():
    """Updates are added leaf by leaf; where one is None nothing changes."""
    model = Node(jnp.ones(2), [linear, "text"], tag="t")
    updates = jax.tree.map(lambda _: None, model)
    updates = vn.tree_at(
        lambda m: m.first, updates, jnp.ones(2), is_leaf=lambda x: x is None
    )
    out = vn.apply_updates(model, updates)
    assert out.first.tolist() == [2.0, 2.0]
    assert identical(out.second, model.second) and out.tag == "t"


def test_apply_updates_takes_a_gap_for_a_subtree():
    """None in the place of a whole subtree leaves all of it."""
    out = vn.apply_updates([linear, 1.0], [None, 0.5])
    assert out[0] is linear and out[1] == 1.5


def test_apply_updates_as_optax_gives_them():
    """What optax returns for a model of built-in layers goes in unfiltered."""
    optimizer = optax.sgd(0.5)
    grads = jax.tree.map(jnp.ones_like, linear)
    updates, _ = optimizer.update(grads, optimizer.init(linear))
    out = vn.apply_updates(linear, updates)
    assert jnp.allclose(out.weight, linear.weight - 0.5)
    assert jnp.allclose(out.bias, linear.bias - 0.5)
