"""Frozen parts beside a training loop that leaves them out by hand."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import vernal as vn
from tests.strategies import Counted, Counter, refuses
from vernal import nn
from vernal.errors import ForeignStateError, StateError, TreeError

BATCHED = functools.partial(nn.batched, axis_name="batch")


class Net(vn.Module):
    """A Module of one's own: a body with state and a method, and a head."""

    body: nn.Sequential
    counter: Counter
    head: nn.Linear

    def __init__(self, key: Any) -> None:
        k1, k2, k3 = jr.split(key, 3)
        linear = nn.SpectralNorm(nn.Linear(3, 4, key=k1), "weight", key=k2)
        layers = [linear, nn.BatchNorm(4, "batch"), jnp.tanh, nn.Dropout(0.5)]
        self.body = nn.Sequential(layers)
        self.counter = Counter(0)
        self.head = nn.Linear(4, 1, key=k3)

    def __call__(self, x: Any, state: Any, *, key: Any = None) -> Any:
        y, state = self.body(x, state, key=key)
        _, state = self.counter(jnp.array(0), state)
        return self.head(y)[0], state


XS = jr.normal(jr.key(5), (16, 3))
YS = jnp.sin(3 * XS[:, 0])


def make(where: Any) -> Any:
    """A model that has seen one batch, and then was frozen."""
    model, state = nn.make_with_state(Net)(jr.key(0))
    _, state = BATCHED(model)(XS, state, key=jr.key(1))
    return model, nn.freeze(model, state, where)


def train(model: Any, state: Any, optimizer: Any, steps: int = 20) -> Any:
    """A loop that knows nothing of freezing: every leaf is trained."""

    def loss(model: Any, state: Any, key: Any) -> Any:
        predicted, state = BATCHED(model)(XS, state, key=key)
        return jnp.mean((predicted - YS) ** 2), state

    @jax.jit
    @Counted
    def step(model: Any, state: Any, opt_state: Any, key: Any) -> Any:
        gradients, state = jax.grad(loss, has_aux=True)(model, state, key)
        updates, opt_state = optimizer.update(gradients, opt_state, model)
        return optax.apply_updates(model, updates), state, opt_state

    opt_state = optimizer.init(model)
    for i in range(steps):
        with jax.numpy_dtype_promotion("standard"):  # optax needs it
            model, state, opt_state = step(model, state, opt_state, jr.key(i))
    assert step.__wrapped__.calls == 1
    return model, state


def leaves(x: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(x)]


def assert_same(x: Any, y: Any) -> None:
    for a, b in zip(leaves(x), leaves(y), strict=True):
        np.testing.assert_array_equal(a, b)


WHERE = {
    "function": lambda m: m.body,
    "name": "body",
    "several": [nn.SpectralNorm, nn.BatchNorm, nn.Dropout],
}


@pytest.mark.parametrize("where", WHERE)
def test_training_leaves_it_as_it_is(where: str) -> None:
    """Weight decay and momentum do not move what is frozen; the rest they do."""
    before, (model, state) = make(WHERE[where])
    optimizer = optax.adamw(0.1, weight_decay=0.5)
    first, counted = state, state.get(before.counter.index)
    model, state = train(nn.inference_mode(model, False), state, optimizer)
    assert int(state.get(before.counter.index)) == int(counted) + 20
    assert_same(state.substate(before.body), first.substate(before.body))
    after, end = nn.unfreeze(model, state)
    assert_same(after.body, before.body)
    heads = zip(leaves(after.head), leaves(before.head), strict=True)
    assert all(np.abs(a - b).max() > 0.01 for a, b in heads)
    assert end._layout == nn.make_with_state(Net)(jr.key(0))[1]._layout
    assert jax.tree.structure(after) == jax.tree.structure(before)


def test_as_by_hand() -> None:
    """The trained parts are those of a loop over the other parameters by hand."""
    _, (model, state) = make(lambda m: m.body)
    optimizer = optax.sgd(0.1, momentum=0.9)
    model, _ = train(model, state, optimizer, 5)
    _, by_hand = make("head")
    still, hand_state = nn.unfreeze(*by_hand)
    still = vn.tree_at(lambda m: m.body, still, replace_fn=nn.inference_mode)
    head, opt_state = still.head, optimizer.init(still.head)

    def loss(head: Any, state: Any) -> Any:
        full = vn.tree_at(lambda m: m.head, still, head)
        predicted, state = BATCHED(full)(XS, state)
        return jnp.mean((predicted - YS) ** 2), state

    for _ in range(5):
        gradients, hand_state = jax.grad(loss, has_aux=True)(head, hand_state)
        updates, opt_state = optimizer.update(gradients, opt_state)
        head = optax.apply_updates(head, updates)
    for a, b in zip(leaves(model.model.head), leaves(head), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_calls() -> None:
    """The output is that of the model in inference where it is frozen, in any mode."""
    before, (model, state) = make(lambda m: m.body)
    whole = vn.tree_at(lambda m: m.body, before, replace_fn=nn.inference_mode)
    _, rest = nn.unfreeze(model, state)
    want, _ = BATCHED(whole)(XS, rest)
    for flag in (False, True):
        got, _ = BATCHED(nn.inference_mode(model, flag))(XS, state)
        np.testing.assert_allclose(got, want, rtol=1e-6)
    y, new = model(XS[0], state=state)  # also by name
    assert y.shape == () and int(new.get(before.counter.index)) == 2


def test_a_layer_without_a_flag() -> None:
    """What a stateful layer of one's own stores is not kept while it is frozen."""
    model, (frozen, state) = make([Counter, "head.weight"])
    for _ in range(3):
        _, state = BATCHED(frozen)(XS, state, key=jr.key(1))
    assert int(state.get(model.counter.index)) == 1
    assert frozen.model.head.weight is None and frozen.model.head.bias is not None


def test_a_model_without_state() -> None:
    """A plain model is called with the state, too, and gives it back."""
    mlp, state = nn.make_with_state(nn.MLP)(3, 1, 4, 2, key=jr.key(0))
    want = jax.vmap(mlp)(XS)
    frozen, state = nn.freeze(mlp, state, "layers[0]")
    assert len(jax.tree.leaves(frozen)) == len(jax.tree.leaves(mlp)) - 2
    got, state = nn.batched(frozen)(XS, state)
    np.testing.assert_array_equal(got, want)
    again, empty = nn.unfreeze(frozen, state)
    assert_same(again, mlp)
    assert not jax.tree.leaves(empty)


def test_freezing_more_and_all() -> None:
    """What was frozen stays so when more is frozen; everything can be."""
    before, (model, state) = make(lambda m: m.body)
    model, state = nn.freeze(model, state, "head.weight")
    assert [x.shape for x in jax.tree.leaves(model)] == [(1,)]
    assert model.names == ("body", "head.weight")
    model, state = nn.freeze(model, state, "*")
    assert not jax.tree.leaves(model)
    assert_same(nn.unfreeze(model, state)[0], before)


def test_in_a_new_model(tmp_path: Any) -> None:
    """A frozen body goes into a new model, is stored, and thaws in there."""
    before, (body, state) = make("*")
    body = nn.join_state(body, state)
    net, state = nn.split_state({"body": body, "head": nn.Linear(1, 2, key=jr.key(3))})
    assert [x.shape for x in jax.tree.leaves(net)] == [(2, 1), (2,)]
    assert any(name.startswith("['body'].frozen") for name in state._layout.names)
    vn.save(tmp_path / "net", (net, state))
    net, state = vn.load(tmp_path / "net", (net, state))

    def call(x: Any, state: Any) -> Any:
        y, state = net["body"](x, state)
        return net["head"](y[None]), state

    ys, state = BATCHED(call)(XS, state)
    assert ys.shape == (16, 2)
    net, state = nn.unfreeze(net, state)
    assert_same(net["body"], before)
    twice, state = nn.freeze(*nn.freeze(net, state, "*head*"), "*body*")
    assert not jax.tree.leaves(twice)


def test_frozen_inside_of_frozen() -> None:
    """A part with frozen parts can be frozen as a whole, and thaws at once."""
    before, (body, state) = make(lambda m: m.body)
    net, state = nn.split_state({"body": nn.join_state(body, state)})
    outer, state = nn.freeze(net, state, "*")
    assert not jax.tree.leaves(outer)
    whole, state = nn.unfreeze(outer, state)
    assert_same(whole["body"], before)
    assert len(state._layout.names) == 4


def test_half_precision_and_whole_numbers() -> None:
    """Dtypes stay; what is no parameter stays where it is."""
    tree = {"w": jnp.ones(2, jnp.bfloat16), "n": jnp.arange(3), "name": "x"}
    _, state = nn.split_state(tree)
    frozen, state = nn.freeze(tree, state, "*")
    assert frozen.model["n"] is tree["n"] and frozen.model["name"] == "x"
    assert nn.unfreeze(frozen, state)[0]["w"].dtype == jnp.bfloat16


def test_refused() -> None:
    """A call without the state, and wrong arguments, are refused with the way out."""
    model, state = nn.make_with_state(Net)(jr.key(0))
    frozen, _ = nn.freeze(model, state, lambda m: m.body)
    with refuses(StateError, "Frozen", "y, state = model(x, state)"):
        frozen(XS[0])
    with refuses(ForeignStateError, "frozen"):
        frozen(XS[0], state)
    with refuses(StateError, "unfreeze: nothing in this Net is frozen"):
        nn.unfreeze(model, state)
    with refuses(TreeError, "freeze: `where` means nothing", "head"):
        nn.freeze(model, state, "tail")
    with refuses(StateError, "freeze: `state` is not a State", "tuple"):
        nn.freeze(model, (), "head")
    _, other = nn.make_with_state(Counter)(0)
    with refuses(ForeignStateError, "body"):
        nn.freeze(model, other, "head")
