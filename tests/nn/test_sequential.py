"""Sequential: order, keys, states, indexing, and what it refuses."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

import vernal as vn
from tests.strategies import Counter, refuses
from vernal import nn
from vernal.errors import HyperparameterError, InputError


class Recorder(vn.Module):
    """Returns its input, and writes down the keys that it gets."""

    seen: list[Any] = vn.field(static=True, default_factory=list)

    def __call__(self, x: Any, *, key: Any = None) -> Any:
        self.seen.append(key)
        return x


class CounterLayer(nn.StatefulLayer):
    """A stateful layer that counts its calls, and says what it is told to say."""

    counter: Counter
    says: bool = vn.field(static=True, default=True)

    def is_stateful(self) -> bool:
        return self.says

    def __call__(self, x: Any, state: Any = None, *, key: Any = None) -> Any:
        return self.counter(x, state) if self.says else 2 * x


def test_order() -> None:
    """Layers are applied from first to last; plain functions may stand among them."""
    model = nn.Sequential([lambda x: x + "b", nn.Identity(), lambda x: x + "c"])
    assert model("a") == "abc"
    assert isinstance(model[0], nn.Lambda)
    assert nn.Sequential([])("a") == "a"


@pytest.mark.relaxed
def test_equinox() -> None:
    """The same layers and keys give the output of Equinox.

    Relaxed, as Equinox's Dropout lets other dtypes meet.
    """

    def make(m: Any) -> Any:
        layers = [m.nn.Linear(3, 4, key=jr.key(0)), m.nn.Lambda(jnp.tanh)]
        layers += [m.nn.Dropout(0.5), m.nn.Linear(4, 2, key=jr.key(1))]
        return m.nn.Sequential(layers)

    x = jnp.arange(3.0)
    ours, theirs = (make(m)(x, key=jr.key(2)) for m in (vn, eqx))
    assert jnp.allclose(ours, theirs, rtol=1e-6)


def test_keys() -> None:
    """Each layer gets a key of its own, or None."""
    layers = [Recorder() for _ in range(3)]
    model = nn.Sequential(layers)
    model(1)
    model(1, key=jr.key(0))
    keys = [layer.seen for layer in layers]
    assert [k[0] for k in keys] == [None] * 3
    data = [tuple(jr.key_data(k[1]).tolist()) for k in keys]
    assert data == [tuple(row) for row in jr.key_data(jr.split(jr.key(0), 3)).tolist()]
    assert nn.Sequential([])(1, key=jr.key(0)) == 1


def test_the_state_goes_to_stateful_layers() -> None:
    """Only layers that say so get the state; it comes back as second result."""

    def make() -> nn.Sequential:
        layers = [CounterLayer(Counter(0)), nn.Identity(), CounterLayer(Counter(10))]
        return nn.Sequential([*layers, CounterLayer(Counter(0), says=False)])

    model, state = nn.make_with_state(make)()
    assert model.is_stateful()
    y, state = model(jnp.array(1), state)
    assert int(y) == 2 * (1 + 0 + 10)
    y, state = model(jnp.array(1), state)
    assert int(y) == 2 * (1 + 1 + 11)
    assert int(state.get(model[3].counter.index)) == 0


def test_a_state_passes_through_stateless_layers() -> None:
    """Given a state, a result of two comes back, whatever the layers are."""
    _, state = nn.make_with_state(Counter)()
    model = nn.Sequential([nn.Identity()])
    assert not model.is_stateful()
    y, same = model(3, state)
    assert y == 3 and same is state
    assert model(3) == 3


def test_nesting() -> None:
    """A Sequential in another gets the state if one of its own layers is stateful."""

    def make() -> nn.Sequential:
        inner = nn.Sequential([CounterLayer(Counter(5)), jnp.negative])
        return nn.Sequential([inner, nn.Sequential([nn.Identity()]), jnp.square])

    model, state = nn.make_with_state(make)()
    y, state = model(jnp.array(1), state)
    assert int(y) == 36
    assert int(state.get(model[0][0].counter.index)) == 6


def test_a_container_protocol() -> None:
    """It has a length, items, slices that are Sequentials, and can be iterated over."""
    layers = [nn.Identity(), nn.Dropout(0.5), nn.Lambda(jnp.tanh)]
    model = nn.Sequential(layers)
    assert len(model) == 3 and list(model) == layers
    assert model[0] is layers[0] and model[-1] is layers[2]
    assert model[1:] == nn.Sequential(layers[1:])
    assert isinstance(model.layers, tuple)
    with pytest.raises(IndexError):
        model[3]


def test_a_learned_function_is_no_lambda() -> None:
    """A layer that may hold arrays is kept as it is."""
    linear = nn.Linear(2, 2, key=jr.key(0))
    model = nn.Sequential([linear, vn.Partial(jnp.add, jnp.ones(2))])
    assert model[0] is linear
    assert isinstance(model[1], vn.Partial)


def test_gradients() -> None:
    """All leaves are arrays, so plain jax.grad differentiates the whole."""
    layers = [nn.Linear(2, 3, key=jr.key(0)), jnp.tanh, nn.Linear(3, 1, key=jr.key(1))]
    model = nn.Sequential(layers)
    grads = jax.grad(lambda m: m(jnp.ones(2))[0])(model)
    assert jax.tree.structure(grads) == jax.tree.structure(model)
    assert all(bool(jnp.any(g != 0)) for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("layer", [None, 3, "relu", [nn.Identity()]])
def test_bad_arguments(layer: Any) -> None:
    """What cannot be called is no layer."""
    with refuses(HyperparameterError, "Sequential", "`layers`"):
        nn.Sequential([nn.Identity(), layer])


def test_a_missing_state() -> None:
    """A stateful layer without a state is named, with the call that is right."""
    model, _ = nn.make_with_state(
        lambda: nn.Sequential([nn.Identity(), nn.BatchNorm(3, "batch")])
    )()
    with refuses(InputError, "layers[1]", "BatchNorm", "model(x, state)"):
        model(jnp.ones(3))


@pytest.mark.parametrize("state", [3, jnp.ones(2)])
def test_what_is_no_state(state: Any) -> None:
    """The second argument must be a State, also where no layer needs it."""
    for layer in (nn.Identity(), nn.BatchNorm(3, "batch")):
        with refuses(InputError, "Sequential", "State", type(state).__name__):
            nn.Sequential([layer])(jnp.ones(3), state)


def test_none_for_a_state() -> None:
    """It is passed on; layers that can do without a state take it, others refuse."""
    x = jnp.ones((2, 3))
    causal = nn.RNN(nn.GRUCell(3, 3, key=jr.key(0)))
    model, _ = nn.make_with_state(nn.Sequential)([causal, nn.Identity(), causal])
    want, _ = causal(causal(x, None)[0], None)
    got, none = model(x, None)
    assert none is None and jnp.array_equal(got, want)
    norm = nn.Sequential([nn.Identity(), nn.BatchNorm(3, "batch")])
    with refuses(InputError, "BatchNorm at `layers[1]`", "not a State"):
        norm(jnp.ones(3), None)
    model, state = nn.make_with_state(lambda: nn.Sequential([Forgets()]))()
    with refuses(InputError, "did not return its state"):
        model(x, state)


class Forgets(nn.StatefulLayer):
    """Takes a state, and returns None."""

    def __call__(self, x: Any, state: Any, *, key: Any = None) -> Any:
        return x, None


class Plain(vn.Module):
    """As in the README: it has state, takes no key, and derives from Module only."""

    index: nn.StateIndex

    def __init__(self) -> None:
        self.index = nn.StateIndex(jnp.array(0))

    def __call__(self, x: Any, state: nn.State) -> tuple[Any, nn.State]:
        return x, state.set(self.index, state.get(self.index) + 1)


def test_layers_of_ones_own() -> None:
    """Whoever has a slot gets the state; a key goes to those only that accept one."""
    model, state = nn.make_with_state(
        lambda: nn.Sequential([Plain(), nn.Dropout(0.5), Plain(), jnp.sin])
    )()
    x = jnp.ones(3)
    y, state = model(x, state, key=jr.key(0))
    assert [int(state.get(model[i].index)) for i in (0, 2)] == [1, 1]
    assert jnp.array_equal(
        y, jnp.sin(nn.Dropout(0.5)(x, key=jr.split(jr.key(0), 4)[1]))
    )


def test_the_state_is_passed_by_name() -> None:
    """A layer may take it by keyword only."""

    class Named(Plain):
        def __call__(self, x: Any, *, state: nn.State, key: Any) -> Any:
            return super().__call__(x, state)

    model, state = nn.make_with_state(lambda: nn.Sequential([Named()]))()
    _, state = model(jnp.ones(3), state)
    assert int(state.get(model[0].index)) == 1


def test_a_layer_that_returns_no_state() -> None:
    """The error names the layer, and what it should return."""

    class Forgetful(Plain):
        def __call__(self, x: Any, state: nn.State) -> Any:
            return x

    model, state = nn.make_with_state(lambda: nn.Sequential([Forgetful()]))()
    with refuses(InputError, "Sequential", "layers[0], Forgetful", "return y, state"):
        model(jnp.ones(3), state)
