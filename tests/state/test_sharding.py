"""State over eight devices: reduced by collectives, or split among the devices."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec as P

import vernal as vn
from tests.strategies import refuses
from vernal.errors import StateValueError
from vernal.nn import StateIndex, make_with_state


def devices():
    return Mesh(np.array(jax.devices()[:8]), ("devices",))


def specs(state):
    """The data is split among the devices, and the state as given."""
    both = P("devices"), state
    return {"in_specs": both, "out_specs": both}


class Average(vn.Module):
    """Keeps the running sum of the mean over all examples on all devices."""

    index: StateIndex

    def __init__(self):
        self.index = StateIndex({"sum": 0.0, "n": 0})

    def __call__(self, xs, state):
        mean = lax.pmean(xs.mean(), "devices")
        old = state.get(self.index)
        new = {"sum": old["sum"] + mean, "n": old["n"] + 1}
        return xs - mean, state.set(self.index, new)


def test_collectives_over_devices():
    """What is reduced over the devices may go into the replicated state."""
    layer, state = make_with_state(Average)()
    call = jax.jit(jax.shard_map(layer, mesh=devices(), **specs(P())))
    xs = jnp.arange(16.0)
    for n in (1, 2):
        ys, state = call(xs, state)
        assert float(ys.sum()) == 0.0
        value = state.get(layer.index)
        assert (float(value["sum"]), int(value["n"])) == (7.5 * n, n)


def test_a_sharded_state():
    """Each device may have its own part of a state, with as many axes."""
    layer, state = make_with_state(lambda: Offset())()
    call = jax.jit(jax.shard_map(layer, mesh=devices(), **specs(P("devices"))))
    xs = jnp.zeros(8)
    for n in (0, 1, 2):
        ys, state = call(xs, state)
        assert ys.tolist() == [float(i + n) for i in range(8)]


class Offset(vn.Module):
    index: StateIndex

    def __init__(self):
        self.index = StateIndex(jnp.arange(8.0))

    def __call__(self, x, state):
        offset = state.get(self.index)
        return x + offset, state.set(self.index, offset + 1)


def test_a_gained_axis_within_shard_map():
    """There too, a value with more axes than it was made with is refused."""
    layer, state = make_with_state(Offset)()
    state = jax.tree.map(lambda x: x[:, None], state)
    call = jax.shard_map(layer, mesh=devices(), **specs(P("devices")))
    with refuses(StateValueError, "`index` gained an axis"):
        call(jnp.zeros(8), state)


def test_a_part_of_a_value():
    """Outside of `shard_map`, a part of the value is no value."""
    layer, state = make_with_state(Offset)()
    state = jax.tree.map(lambda x: x[:1], state)
    with refuses(StateValueError, "`index` has another shape"):
        layer(jnp.zeros(1), state)
