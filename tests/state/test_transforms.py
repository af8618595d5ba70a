"""Custom state of every kind through every transformation of JAX.

Each layer is called a few times by hand; a transformation must give the same outputs
and the same final state.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

import vernal as vn
from tests.strategies import Counted
from vernal.nn import State, StateIndex, make_with_state


class Count(vn.Module):
    """The counter of the documents."""

    index: StateIndex

    def __init__(self):
        self.index = StateIndex(0)

    def __call__(self, x, state):
        n = state.get(self.index)
        return x * (n + 1).astype(x.dtype), state.set(self.index, n + 1)


class Noise(vn.Module):
    """Keeps a PRNG key, adds a number from it, and goes on with another key."""

    index: StateIndex

    def __init__(self):
        self.index = StateIndex(jax.random.key(7))

    def __call__(self, x, state):
        key = state.get(self.index)
        number = jax.random.key_data(key)[1] % 8
        next_key = jax.random.fold_in(key, 1)
        return x + number.astype(x.dtype), state.set(self.index, next_key)


class History(vn.Module):
    """Keeps a nested pytree: the last outputs, their number, a key, an empty slot."""

    index: StateIndex
    noise: Noise

    def __init__(self):
        last = {"values": (jnp.zeros(3), None), "n": 0}
        self.index = StateIndex([last, jax.random.PRNGKey(0), ()])
        self.noise = Noise()

    def __call__(self, x, state):
        last, key, empty = state.get(self.index)
        y, state = self.noise(x + 0.5 * last["values"][0].sum(), state)
        # Not y itself, which is batched under vmap: state is the same for all.
        n = (last["n"] + 1).astype(jnp.float32)
        values = jnp.roll(last["values"][0], 1).at[0].set(n)
        new = {"values": (values, None), "n": last["n"] + 1}
        return y, state.set(self.index, [new, key, empty])


LAYERS = {"counter": Count, "key": Noise, "nested": History}
X = jnp.array(2.0)


@pytest.fixture(params=LAYERS.values(), ids=LAYERS)
def made(request):
    return make_with_state(request.param)()


def by_hand(layer, state, xs):
    """Calls a layer on one input after the other; the outputs and the last state."""
    ys = []
    for x in xs:
        y, state = layer(x, state)
        ys.append(y)
    return jnp.stack(ys), state


def assert_same(x, y):
    assert jax.tree.structure(x) == jax.tree.structure(y)
    assert bool(vn.tree_equal(x, y, rtol=1e-6))


def fresh(state):
    return jax.tree.map(lambda x: x, state)


@pytest.mark.parametrize("jit", [jax.jit, vn.filter_jit])
def test_jit(made, jit):
    """Jitted calls hand the state on like plain ones, and compile once."""
    layer, state = made
    expected = by_hand(layer, fresh(state), [X] * 3)
    step = Counted(lambda layer, x, state: layer(x, state))
    jitted = jit(step)
    assert_same(by_hand(lambda x, s: jitted(layer, x, s), state, [X] * 3), expected)
    assert step.calls == 1


def test_jit_of_the_layer_itself(made):
    """`jax.jit(layer)` takes the layer as a function."""
    layer, state = made
    expected = by_hand(layer, fresh(state), [X] * 2)
    assert_same(by_hand(jax.jit(layer), state, [X] * 2), expected)


def test_grad(made):
    """The state comes out of `grad` as aux, and the gradient is that of the input."""
    layer, state = made
    _, expected = layer(X, fresh(state))
    grads, after = jax.grad(layer, has_aux=True)(X, state)
    assert float(grads) == 1.0
    assert_same(after, expected)


def test_grad_with_respect_to_state(made):
    """`filter_grad` differentiates the floating arrays of a State, and only those."""
    layer, state = made
    grads = vn.filter_grad(lambda s: layer(X, s)[0])(state)
    floats = vn.filter(state, vn.is_inexact_array)
    assert jax.tree.structure(grads) == jax.tree.structure(floats)
    if isinstance(layer, History):
        assert jax.tree.leaves(grads)[0].tolist() == [0.5] * 3


def test_vmap(made):
    """Under vmap the data is batched and the state is not."""
    layer, state = made
    xs = jnp.arange(4.0)
    expected = [layer(x, fresh(state)) for x in xs]
    for vmap in (jax.vmap, vn.filter_vmap):
        call = vmap(layer, in_axes=(0, None), out_axes=(0, None))
        ys, after = call(xs, fresh(state))
        assert_same(ys, jnp.stack([y for y, _ in expected]))
        assert_same(after, expected[0][1])


def test_vmap_over_states(made):
    """An ensemble's states are batched, and each member goes on by itself."""
    layer, state = made
    _, second = layer(X, fresh(state))
    states = jax.tree.map(lambda *xs: jnp.stack(xs), state, second)
    ys, after = jax.vmap(layer, in_axes=(None, 0))(X, states)
    for i, one in enumerate((state, second)):
        expected = layer(X, fresh(one))
        got = jax.tree.map(lambda leaf, i=i: leaf[i], (ys, after))
        assert_same(got, expected)


def test_scan(made):
    """The state is the carry of a scan."""
    layer, state = made
    xs = jnp.arange(4.0)
    expected = by_hand(layer, fresh(state), xs)

    def step(state, x):
        y, state = layer(x, state)
        return state, y

    after, ys = lax.scan(step, state, xs)
    assert_same((ys, after), expected)


def test_differentiated_scan(made):
    """A scan with state in its carry can be differentiated."""
    layer, state = made

    def total(x, state):
        def step(state, _):
            y, state = layer(x, state)
            return state, y

        state, ys = lax.scan(step, state, None, length=3)
        return ys.sum(), state

    (_, after), grads = jax.value_and_grad(total, has_aux=True)(X, fresh(state))
    expected = 6.0 if isinstance(layer, Count) else 3.0
    assert float(grads) == expected
    assert_same(after, by_hand(layer, state, [X] * 3)[1])


def test_loops(made):
    """The state is carried through `while_loop` and `fori_loop`."""
    layer, state = made
    y = x = X
    expected = fresh(state)
    for _ in range(3):
        y, expected = layer(y, expected)

    def body(i, carry):
        return layer(*carry)

    out = lax.fori_loop(0, 3, body, (x, fresh(state)))
    assert_same(out, (y, expected))
    _, *out = lax.while_loop(
        lambda c: c[0] < 3, lambda c: (c[0] + 1, *layer(c[1], c[2])), (0, x, state)
    )
    assert_same(tuple(out), (y, expected))


@pytest.mark.parametrize("jit", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_cond(made, jit):
    """One branch may update the state and the other leave it as it is."""
    layer, state = made

    @jit
    def maybe(flag, state):
        return lax.cond(flag, layer, lambda x, s: (x, s), X, state)

    assert_same(maybe(True, fresh(state)), layer(X, fresh(state)))
    assert_same(maybe(False, fresh(state)), (X, state))


def test_switch_under_vmap(made):
    """Each example may take its own branch, where each has its own state."""
    layer, state = made
    states = jax.tree.map(lambda x: jnp.stack([x, x]), state)

    def choose(i, state):
        return lax.switch(i, [lambda s: (X, s), lambda s: layer(X, s)], state)

    ys, after = jax.vmap(choose)(jnp.array([0, 1]), states)
    assert float(ys[0]) == 2.0
    first, second = (jax.tree.map(lambda a, i=i: a[i], after) for i in (0, 1))
    assert_same(first, state)
    assert_same(second, layer(X, fresh(state))[1])


def test_checkpoint(made):
    """Recomputed in the backward pass, a layer still updates its state only once."""
    layer, state = made
    expected = layer(X, fresh(state))

    def loss(x, state):
        return jax.checkpoint(layer)(x, state)

    (y, after), grads = jax.value_and_grad(loss, has_aux=True)(X, state)
    assert_same((y, after), expected)
    assert float(grads) == 1.0


def test_eval_shape(made):
    """Shapes are computed without values, and the slots stay."""
    layer, state = made
    y, after = jax.eval_shape(layer, X, state)
    assert y.shape == () and type(after) is State
    assert jax.tree.structure(after) == jax.tree.structure(state)
    again = jax.eval_shape(layer, y, after)
    assert jax.tree.structure(again[1]) == jax.tree.structure(state)


def test_custom_vjp(made):
    """A function with its own derivative may take and return the state."""
    layer, state = made

    @jax.custom_vjp
    def call(x, state):
        return layer(x, state)

    def forward(x, state):
        return call(x, state), None

    def backward(_, cotangents):
        return 5 * cotangents[0], None

    call.defvjp(forward, backward)
    expected = layer(X, fresh(state))
    (y, after), grads = jax.value_and_grad(call, has_aux=True)(X, state)
    assert_same((y, after), expected)
    assert float(grads) == 5.0


def test_custom_jvp(made):
    """The same with a forward-mode rule, the state being closed over."""
    layer, state = made

    @jax.custom_jvp
    def call(x):
        return layer(x, fresh(state))[0]

    call.defjvp(lambda primals, tangents: (call(*primals), 7 * tangents[0]))
    assert float(jax.grad(call)(X)) == 7.0


SPECS = {"in_specs": (P("devices"), P()), "out_specs": (P("devices"), P())}


def devices():
    return Mesh(np.array(jax.devices()[:8]), ("devices",))


def test_shard_map(made):
    """Over eight devices the data is sharded and the state is replicated."""
    layer, state = made
    xs = jnp.arange(8.0)
    each = jax.vmap(layer, in_axes=(0, None), out_axes=(0, None))
    expected = each(xs, fresh(state))
    sharded = jax.jit(jax.shard_map(each, mesh=devices(), **SPECS))
    assert_same(sharded(xs, state), expected)


def test_jit_with_a_sharded_batch(made):
    """Under plain jit with sharded data, the result is that of one device."""
    layer, state = made
    xs = jnp.arange(8.0)
    each = jax.jit(jax.vmap(layer, in_axes=(0, None), out_axes=(0, None)))
    expected = each(xs, state)
    mesh = devices()
    sharded = jax.device_put(xs, NamedSharding(mesh, P("devices")))
    replicated = jax.device_put(state, NamedSharding(mesh, P()))
    assert_same(each(sharded, replicated), expected)


def test_layers_on_a_scan_axis():
    """A stack of layers built under vmap runs in a scan over layers and states."""
    layers, state = make_with_state(lambda: vn.filter_vmap(Count, axis_size=3)())()
    arrays, static = vn.partition(layers, vn.is_array)

    def step(x, slices):
        arrays, state = slices
        return vn.combine(arrays, static)(x, state)

    y, state = lax.scan(step, X, (arrays, state))
    y, state = lax.scan(step, y, (arrays, state))
    assert float(y) == 2.0 * 1 * 2**3
    assert state.get(layers.index).tolist() == [2, 2, 2]


def test_all_together():
    """Jit of scan of grad of checkpoint of vmap, with a substate inside."""

    class Net(vn.Module):
        count: Count
        each: Count
        weight: object

        def __init__(self):
            self.count = Count()
            self.each = vn.filter_vmap(Count, axis_size=2)()
            self.weight = jnp.ones(2)

        def __call__(self, x, state):
            x, state = self.count(x, state)
            sub = state.substate(self.each)
            x, sub = vn.filter_vmap(self.each)(self.weight * x, sub)
            return x.sum(), state.update(sub)

    model, state = make_with_state(Net)()

    def loss(model, state, xs):
        call = jax.vmap(model, in_axes=(0, None), out_axes=(0, None))
        ys, state = jax.checkpoint(call)(xs, state)
        return ys.mean(), state

    @jax.jit
    def train(model, state, xs):
        def step(carry, _):
            model, state = carry
            grads, state = jax.grad(loss, has_aux=True)(model, state, xs)
            return (vn.apply_updates(model, grads), state), grads.weight

        return lax.scan(step, (model, state), None, length=3)

    (model, state), grads = train(model, state, jnp.ones(4))
    assert grads.tolist() == [[1.0, 1.0], [4.0, 4.0], [9.0, 9.0]]
    assert int(state.get(model.count.index)) == 3
    assert state.get(model.each.index).tolist() == [3, 3]
