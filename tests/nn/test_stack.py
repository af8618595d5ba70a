"""Stacks beside the loop over their layers."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import vernal as vn
from tests.strategies import refuses
from tests.world import x64
from vernal import nn
from vernal.errors import HyperparameterError, InputError

DEPTH = 5
AXES = {"in_axes": (0, None), "out_axes": (0, None), "axis_name": "batch"}


def block(key: Any) -> nn.Sequential:
    """A layer with parameters, running statistics and power iteration."""
    k1, k2 = jr.split(key)
    linear = nn.SpectralNorm(nn.Linear(4, 4, key=k1), "weight", key=k2)
    return nn.Sequential([linear, nn.BatchNorm(4, "batch"), jnp.tanh])


def plain(key: Any) -> nn.Linear:
    return nn.Linear(4, 4, key=key)


def make(**options: Any) -> tuple[nn.Stack[Any], nn.State]:
    return nn.make_with_state(nn.Stack)(block, DEPTH, key=jr.key(0), **options)


def loop(layers: list[Any], states: list[nn.State], xs: Any) -> Any:
    """The layers one after the other, each with a state of its own."""
    new = []
    for layer, state in zip(layers, states, strict=True):
        xs, state = jax.vmap(layer, **AXES)(xs, state)
        new.append(state)
    return xs, new


def batch(seed: int = 1) -> Any:
    return jr.normal(jr.key(seed), (8, 4))


def close(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "remat": {"remat": True},
    "policy": {"remat": jax.checkpoint_policies.dots_saveable},
    "unroll": {"unroll": 2},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_it_is_the_loop(name: str) -> None:
    """Output, gradients and states after some steps are those of the loop."""
    with x64():  # else the gradient of a bias before BatchNorm, 0, is all rounding
        assert_like_loop(OPTIONS[name])


def assert_like_loop(options: Any) -> None:
    stack, state = make(**options)
    layers, states = zip(*map(nn.split_state, stack.unstack(state)), strict=True)

    def close(a: Any, b: Any) -> None:
        assert vn.tree_equal(a, b, rtol=1e-9, atol=1e-12)

    def loss_of_stack(stack: Any, state: Any, xs: Any) -> Any:
        y, state = jax.vmap(stack, **AXES)(xs, state)
        return jnp.sum(jnp.sin(y) * xs), (y, state)

    def loss_of_loop(layers: Any, states: Any, xs: Any) -> Any:
        y, states = loop(layers, states, xs)
        return jnp.sum(jnp.sin(y) * xs), (y, states)

    run = jax.jit(jax.value_and_grad(loss_of_stack, has_aux=True))
    want = jax.jit(jax.value_and_grad(loss_of_loop, has_aux=True))
    for seed in range(3):
        (_, (y, state)), grads = run(stack, state, batch(seed))
        (_, (y_loop, states)), loop_grads = want(layers, states, batch(seed))
        close(y, y_loop)
        stacked = jax.tree.map(lambda *a: jnp.stack(a), *map(jax.tree.leaves, states))
        close(jax.tree.leaves(state), stacked)
        rows = jax.tree.map(lambda *a: jnp.stack(a), *map(jax.tree.leaves, loop_grads))
        close(jax.tree.leaves(grads), rows)


def test_stateless_layers() -> None:
    """Without state it is a function of the input alone; a state passes through."""
    stack = nn.Stack(plain, DEPTH, key=jr.key(0))
    x = batch()[0]
    y = x
    for layer in stack.unstack():
        y = layer(y)
    close(stack(x), y)
    _, state = nn.make_with_state(nn.BatchNorm)(3, "batch")
    got, same = stack(x, state)
    close(got, y)
    assert same is state and not stack.is_stateful()


def test_the_layers_differ() -> None:
    """Each layer has parameters of its own, drawn from its key."""
    stack = nn.Stack(plain, DEPTH, key=jr.key(0))
    for i, key in enumerate(jr.split(jr.key(0), DEPTH)):
        assert vn.tree_equal(stack[i], plain(key), rtol=1e-6)
    assert vn.tree_equal(stack[-1], stack[DEPTH - 1]) and len(stack) == DEPTH
    for i in (DEPTH, -DEPTH - 1, 0.5):
        with pytest.raises(IndexError, match=f"layers 0 to {DEPTH - 1}"):
            stack[i]  # type: ignore[index]


def test_one_trace() -> None:
    """The layer is traced once per compilation, whatever the depth."""
    for depth in (2, 20):
        count = []

        class Noisy(vn.Module):
            inner: nn.Linear

            def __call__(self, x: Any) -> Any:
                count.append(None)  # noqa: B023
                return self.inner(x)

        stack = nn.Stack(lambda key: Noisy(plain(key)), depth, key=jr.key(0))
        jax.jit(lambda s, x: s(x))(stack, jnp.ones(4))
        assert len(count) == 1


def test_the_program_does_not_grow() -> None:
    """The jaxpr has the same size at any depth."""

    def size(depth: int) -> int:
        make = nn.make_with_state(nn.Stack)
        stack, state = make(block, depth, key=jr.key(0))
        call = jax.vmap(stack, **AXES)
        return len(str(jax.make_jaxpr(call)(batch(), state)).splitlines())

    assert size(3) == size(30)


def test_keys() -> None:
    """Each layer gets a key of its own; without a key none is passed."""
    stack = nn.Stack(lambda key: nn.Dropout(0.5), DEPTH, key=jr.key(0))
    x = jnp.ones(1000)
    want = x
    for key in jr.split(jr.key(3), DEPTH):
        want = nn.Dropout(0.5)(want, key=key)
    close(stack(x, key=jr.key(3)), want)
    with refuses(InputError, "Dropout", "key=None"):
        stack(x)


def test_inference_mode() -> None:
    """The mode of all layers is switched as in any model; the state then stays."""
    stack, state = make()
    _, state = jax.vmap(stack, **AXES)(batch(), state)
    inference = nn.inference_mode(stack)
    y, same = jax.vmap(inference, **AXES)(batch(2), state)
    assert vn.tree_equal(same, state)
    for _ in range(2):  # the state can be used again, as nothing replaced it
        one, same = inference(batch(2)[0], state)
        close(one, y[0])
    assert same is state


def test_from_layers() -> None:
    """It undoes unstack, with values and state; and takes layers made one by one."""
    stack, state = make()
    _, state = jax.vmap(stack, **AXES)(batch(), state)
    again, again_state = nn.split_state(nn.Stack.from_layers(stack.unstack(state)))
    close(jax.tree.leaves((again, again_state)), jax.tree.leaves((stack, state)))
    y, _ = jax.vmap(stack, **AXES)(batch(2), state)
    y_again, _ = jax.vmap(again, **AXES)(batch(2), again_state)
    close(y, y_again)
    made = nn.Stack.from_layers([plain(k) for k in jr.split(jr.key(0), DEPTH)])
    close(made.layers, nn.Stack(plain, DEPTH, key=jr.key(0)).layers)


def test_unstacked_layers_are_apart() -> None:
    """Their slots are distinct when they become parts of one model."""
    stack, state = make()
    _, whole = nn.split_state(stack.unstack(state))
    assert len(jax.tree.leaves(whole)) == DEPTH * len(jax.tree.leaves(state))


def test_a_shared_slot_stays_shared() -> None:
    """A layer used twice in each block has one slot in each."""

    class Twice(nn.StatefulLayer):
        a: nn.BatchNorm
        b: nn.BatchNorm

        def __init__(self, key: Any) -> None:
            self.a = self.b = nn.BatchNorm(4, "batch")

        def __call__(self, x: Any, state: Any) -> Any:
            x, state = self.a(x, state)
            return self.b(x, state)

    layers = [Twice(jr.key(i)) for i in range(2)]
    _, state = nn.split_state(nn.Stack.from_layers(layers))
    assert len(jax.tree.leaves(state)) == 3  # a counter, a mean and a variance


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"make_layer": 3}, "make_layer"),
        ({"make_layer": lambda key: 3}, "make_layer"),
        *(({"depth": x}, "depth") for x in (0, -1, 2.0, True, None)),
        *(({"unroll": x}, "unroll") for x in (0, 1.5)),
        *(({"remat": x}, "remat") for x in (None, "all", 1)),
    ],
)
def test_bad_arguments(options: Any, name: str) -> None:
    """What is outside its range is refused, by name."""
    with refuses(HyperparameterError, "Stack", f"`{name}`"):
        nn.Stack(**{"make_layer": plain, "depth": 2, **options}, key=jr.key(0))


def test_a_layer_that_changes_shape() -> None:
    """Layers whose output is no input for the next are refused, with both forms."""
    stack = nn.Stack(lambda key: nn.Linear(4, 3, key=key), 2, key=jr.key(0))
    with refuses(InputError, "Stack", "f32[4]", "f32[3]", "before or after"):
        stack(jnp.ones(4))


def test_a_missing_state() -> None:
    """A stateful stack asks for its state, and takes no other."""
    stack, state = make()
    with refuses(InputError, "Stack", "State", "NoneType"):
        stack(jnp.ones(4))
    _, foreign = nn.make_with_state(nn.BatchNorm)(4, "batch")
    with pytest.raises(vn.errors.ForeignStateError, match="Stack"):
        jax.vmap(stack, **AXES)(batch(), foreign)
    assert stack.is_stateful() and vn.tree_equal(state, state)


def test_layers_that_do_not_fit() -> None:
    """Layers of different kinds, and none at all, are refused."""
    with refuses(HyperparameterError, "Stack.from_layers", "`weight`"):
        other = nn.Linear(3, 4, use_bias=True, key=jr.key(0))
        nn.Stack.from_layers(
            [
                plain(jr.key(0)),
                vn.tree_at(lambda m: m.weight, plain(jr.key(0)), other.weight),
            ]
        )
    with refuses(HyperparameterError, "at least one"):
        nn.Stack.from_layers([])
