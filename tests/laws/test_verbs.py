"""What changes states and models as a whole gives the same under each transformation.

One test is one cell of the table: a function of a state, and a transformation. The
reference is the same function, run eagerly.
"""

import copy
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import vernal as vn
from tests.laws.test_layers import assert_close
from vernal import nn

XS = jr.normal(jr.key(5), (8, 3))
Verb = Callable[[nn.State, Any], Any]


def build(key: Any) -> nn.Sequential:
    linear = nn.SpectralNorm(nn.Linear(3, 3, key=key), "weight", key=key)
    plain = nn.Linear(3, 3, key=key)
    return nn.Sequential([linear, plain, nn.BatchNorm(3, "batch")])


MODEL, INITIAL = nn.make_with_state(build)(jr.key(0))


def frozen(state: nn.State, xs: Any) -> Any:
    model, state = nn.freeze(MODEL, state, nn.BatchNorm)
    ys, state = nn.batched(model)(xs, state)
    model, state = nn.unfreeze(model, state)
    return ys, model, state


def changed(state: nn.State, xs: Any) -> Any:
    whole = nn.join_state(MODEL, state)
    whole = vn.tree_at(lambda m: m.layers[1], whole, nn.BatchNorm(3, "batch"))
    model, state = nn.split_state(whole)
    return nn.batched(model)(xs, state)


VERBS: dict[str, Verb] = {
    "recalibrate": lambda s, xs: nn.recalibrate(MODEL, s, [xs[:5], xs[5:]]),
    "reset": lambda s, xs: nn.reset(MODEL, s, INITIAL, nn.BatchNorm),
    "merge_states": lambda s, xs: nn.merge_states(
        [s, nn.batched(MODEL)(xs, copy.copy(s))[1]]
    ),
    "freeze": frozen,
    "fold_norms": lambda s, xs: nn.fold_norms(MODEL, s),
    "bake": lambda s, xs: nn.bake(MODEL, s),
    "join_state": changed,
}


def with_jit(verb: Verb, state: nn.State, xs: Any) -> Any:
    return vn.filter_jit(verb)(state, xs)


def with_vmap(verb: Verb, state: nn.State, xs: Any) -> Any:
    other = jax.tree.map(lambda x: x + 1, state)
    both = jax.tree.map(lambda a, b: jnp.stack([a, b]), state, other)
    out = vn.filter_vmap(verb, in_axes=(0, None))(both, xs)
    return jax.tree.map(lambda x: x[0], out)


def with_scan(verb: Verb, state: nn.State, xs: Any) -> Any:
    def body(_: Any, xs: Any) -> Any:
        return None, vn.filter(verb(state, xs), vn.is_array)

    _, outs = jax.lax.scan(body, None, jnp.stack([2 * xs, xs]))
    return jax.tree.map(lambda x: x[1], outs)


def with_grad(verb: Verb, state: nn.State, xs: Any) -> Any:
    def loss(xs: Any) -> Any:
        out = verb(state, xs)
        return jnp.sum(jax.tree.leaves(out)[0]).astype(float), out

    return vn.filter_grad(loss, has_aux=True)(xs)[1]


def with_sharding(verb: Verb, state: nn.State, xs: Any) -> Any:
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(AxisType.Auto,))
    xs = jax.device_put(xs, NamedSharding(mesh, PartitionSpec("rows")))
    return vn.filter_jit(verb)(state, xs)


@pytest.mark.parametrize("name", VERBS)
@pytest.mark.parametrize(
    "transform", [with_jit, with_vmap, with_scan, with_grad, with_sharding]
)
def test_verb_under_transformation(transform: Any, name: str) -> None:
    """The same results, and the state that went in stays usable."""
    _, state = nn.batched(MODEL)(XS, copy.copy(INITIAL))
    want = VERBS[name](state, XS)
    got = transform(VERBS[name], state, XS)
    arrays = [jax.tree.leaves(vn.filter(x, vn.is_array)) for x in (got, want)]
    assert_close(*arrays)
    assert len(arrays[0]) > 0 and state._values is not None
