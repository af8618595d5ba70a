"""Updates that are lost, and states that are used twice, under each transformation."""

import copy

import jax
import jax.numpy as jnp
import pytest

import vernal as vn
from tests.strategies import Counter, refuses
from vernal import nn
from vernal.debug import assert_states_used_once, assert_updates_kept
from vernal.errors import ConsumedStateError, LostUpdateError, TransformError

XS = jnp.arange(12.0).reshape(4, 3)


class Net(vn.Module):
    norm: nn.BatchNorm
    counter: Counter

    def __init__(self):
        self.norm = nn.BatchNorm(3, "batch")
        self.counter = Counter(0)

    def __call__(self, x, state):
        _, state = self.counter(jnp.array(0), state)
        return self.norm(x, state)


@pytest.fixture
def net():
    return nn.make_with_state(Net)()


def plain(net, state):
    return nn.batched(net)(XS, state)


def under_grad(net, state):
    def loss(net, state):
        ys, state = nn.batched(net)(XS, state)
        return jnp.sum(ys**2), state

    (value, state), grads = jax.value_and_grad(loss, has_aux=True)(net, state)
    return (value, grads), state


def under_scan(net, state):
    def body(state, _):
        ys, state = nn.batched(net)(XS, state)
        return state, ys

    state, ys = jax.lax.scan(body, state, None, 3)
    return ys, state


def under_remat_and_jit(net, state):
    call = jax.jit(jax.checkpoint(lambda net, state: nn.batched(net)(XS, state)))

    def loss(net, state):
        ys, state = call(net, state)
        return jnp.sum(ys**2), state

    return jax.grad(loss, has_aux=True)(net, state)


def under_cond(net, state):
    call = nn.batched(net)
    ys = XS
    return jax.lax.cond(
        ys[0, 0] > 0, lambda s: call(XS, s), lambda s: call(2 * XS, s), state
    )


def by_parts(net, state):
    part = state.substate(net.norm)
    ys, part = nn.batched(net.norm)(XS, part)
    state = state.update(part)
    return ys, state.set(net.counter.index, state.get(net.counter.index) + 1)


WAYS = [plain, under_grad, under_scan, under_remat_and_jit, under_cond, by_parts]


@pytest.mark.parametrize("way", WAYS)
def test_what_is_kept_passes(net, way):
    """A function that returns the state, or something of it, passes unchanged."""
    got = jax.jit(assert_updates_kept(way))(*net)
    assert vn.tree_equal(got, jax.jit(way)(*net))


@pytest.mark.parametrize("way", WAYS)
def test_what_is_lost_is_named(net, way):
    """If the state that went in comes out, the slots and the line are named."""

    def step(net, state):
        ys, _ = way(net, copy.copy(state))
        return ys, state

    words = ("step loses", "`counter.index`", "set at ", "y, state = layer(x, state)")
    with refuses(LostUpdateError, *words):
        jax.jit(assert_updates_kept(step))(*net)


class Sum(vn.Module):
    """Stores a value of each row, through which a gradient flows."""

    total: nn.StateIndex

    def __init__(self):
        self.total = nn.StateIndex(jnp.zeros(3), per_row=True)

    def __call__(self, x, state):
        total = state.get(self.total) + x
        return jnp.sum(total**2), state.set(self.total, total)


def test_values_with_rows_and_gradients():
    """Stored values are followed where they are mapped and differentiated."""
    layer, state = nn.make_with_state(Sum)()
    state = nn.with_rows(state, 4)

    def loss(xs, state):
        ys, new = nn.batched(layer)(xs, state)
        return jnp.sum(ys), new

    for loses, way in [
        (False, lambda s: nn.batched(layer)(XS, s)),
        (True, lambda s: nn.batched(layer)(XS, s)[0]),
        (False, lambda s: jax.grad(loss, has_aux=True)(XS, s)),
        (True, lambda s: jax.grad(loss, has_aux=True)(XS, s)[0]),
    ]:
        step = jax.jit(assert_updates_kept(way))
        if loses:
            with refuses(LostUpdateError, "`total`"):
                step(copy.copy(state))
        else:
            assert len(step(copy.copy(state))) == 2


def test_a_part_that_is_lost(net):
    """Only what is lost is named: here a second update by another line."""

    def step(net, state):
        ys, state = nn.batched(net.norm)(XS, state)
        net.counter(jnp.array(0), copy.copy(state))
        return ys, state

    with refuses(LostUpdateError, "`counter.index`.", "test_states.py") as _:
        vn.filter_jit(assert_updates_kept(step))(*net)


def test_what_flows_into_another_result(net):
    """What is stored and read again is no loss if a result depends on it."""

    @jax.jit
    @assert_updates_kept
    def step(net, state):
        _, state = net.counter(jnp.array(0), state)
        return state.get(net.counter.index)

    assert int(step(*net)) == 1


def test_inference_stores_nothing(net):
    """In inference there is nothing to lose."""
    norm, state = nn.make_with_state(nn.BatchNorm)(3, "batch")

    @jax.jit
    @assert_updates_kept
    def predict(norm, state):
        return nn.batched(nn.inference_mode(norm))(XS, state)[0]

    assert predict(norm, state).shape == XS.shape


def test_nothing_stays_behind(net):
    """After the check functions trace as they do without it, also after an error."""
    model, state = net
    before = str(jax.make_jaxpr(plain)(model, state))
    jax.jit(assert_updates_kept(plain))(model, copy.copy(state))
    with refuses(LostUpdateError, "loses"):
        assert_updates_kept(lambda m, s: plain(m, s)[0])(model, copy.copy(state))
    assert str(jax.make_jaxpr(plain)(model, state)) == before
    assert "state_set" not in before


def test_on_eight_devices(net):
    """What is stored inside of `shard_map` is followed, too."""
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    norm, state = nn.make_with_state(nn.BatchNorm)(3, "batch")
    spec, xs = jax.sharding.PartitionSpec, jnp.ones((8, 3))

    def one(xs, state):
        y, state = norm(xs[0], state)
        return y[None], state

    specs = {"in_specs": (spec("batch"), spec()), "out_specs": (spec("batch"), spec())}
    call = jax.shard_map(one, mesh=mesh, **specs)
    ys, _ = jax.jit(assert_updates_kept(call))(xs, state)
    assert ys.shape == (8, 3)
    with refuses(LostUpdateError, "batch_state_index"):
        jax.jit(assert_updates_kept(lambda xs, s: call(xs, s)[0]))(xs, state)


@pytest.mark.parametrize("compile", [jax.jit, vn.filter_jit])
def test_a_state_is_used_once(net, compile):
    """What a step has replaced cannot be used again, in vernal or in another call."""
    step = assert_states_used_once(compile(plain))
    model, state = net
    kept = copy.copy(state)
    _, new = step(model, state)
    with refuses(ConsumedStateError, "State.get", "replaced by `plain`"):
        state.get(model.counter.index)
    with refuses(ConsumedStateError, "State.flatten", "replaced by `plain`"):
        step(model, state)
    _, new = step(model, new)
    assert int(new.get(model.counter.index)) == 2
    step(model, kept)


def test_states_that_stay(net):
    """A state stays usable where none of its slots comes back, or the call fails."""
    model, state = net
    read = assert_states_used_once(jax.jit(lambda s: s.get(model.counter.index)))
    assert int(read(state)) == int(read(state)) == 0
    same = assert_states_used_once(lambda s: s)
    assert same(same(state)) is state

    def fail(state):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        assert_states_used_once(fail)(state)
    assert int(read(state)) == 0


def test_what_is_no_function():
    """Only functions can be checked."""
    for decorator in (assert_updates_kept, assert_states_used_once):
        with refuses(TransformError, decorator.__name__, "not callable"):
            decorator(3)
