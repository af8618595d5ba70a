"""Recording the state: the numbers, their cost, and what is told of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vernal as vn
from tests.strategies import Counted, refuses
from vernal._state.recorder import curve
from vernal.errors import StateError
from vernal.nn import StateIndex, StateRecorder


def state_of(**values):
    return vn.nn.split_state({k: StateIndex(v) for k, v in values.items()})[1]


def recorded(values, **options):
    """A recorder that has seen these values of one slot."""
    recorder = StateRecorder(**options)
    for step, value in enumerate(values):
        recorder.record(step, state_of(x=value))
    return recorder


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
def test_statistics(dtype):
    """Mean, deviation, range and movement are those of NumPy in double precision."""
    series = np.random.default_rng(0).normal(3, 2, (5, 4, 6)).astype(dtype)
    found = recorded(map(jnp.asarray, series))["['x']"]
    exact = series.astype(np.float64)
    axes = (1, 2)
    moved = np.sqrt(np.mean(np.diff(exact, axis=0) ** 2, axes))
    expected = [getattr(exact, name)(axes) for name in ("mean", "std", "min", "max")]
    rtol = 1e-5 if dtype == jnp.float32 else 1e-2
    np.testing.assert_allclose(found[:4], expected, rtol)
    np.testing.assert_allclose(found.moved, [0, *moved], rtol)
    np.testing.assert_allclose(found.size, np.sqrt(np.mean(exact**2, axes)), rtol)


def test_large_numbers():
    """Squares of large numbers do not overflow."""
    found = recorded([jnp.array([-1e30, 1e30]), jnp.array([1e30, -1e30])])["['x']"]
    np.testing.assert_allclose([found.std[0], found.moved[1]], [1e30, 2e30], 1e-6)


def test_all_kinds_of_slots():
    """Arrays have the names of their slots; keys and empty arrays are left out."""
    state = state_of(
        a=(jnp.array(3), {"w": jnp.ones(2)}),
        b=jax.random.key(0),
        c=jnp.zeros((0, 2)),
        d=jnp.array([3 + 4j, 0]),
        e=jnp.array([True, False]),
    )
    recorder = StateRecorder()
    recorder.record(10, state)
    assert recorder.names == ("['a'][0]", "['a'][1]['w']", "['d']", "['e']")
    means = [recorder[name].mean[0] for name in recorder.names]
    np.testing.assert_allclose(means, [3, 1, 2.5, 0.5])
    assert recorder.steps.tolist() == [10] and recorder.sick == {}


def test_donation():
    """The state may be given away at once; what was recorded is right all the same."""
    step = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    state, recorder = state_of(x=jnp.zeros(3)), StateRecorder()
    for i in range(6):
        recorder.record(i, state)
        state = step(state)
    assert recorder["['x']"].mean.tolist() == list(range(6))
    assert recorder["['x']"].moved.tolist() == [0, 1, 1, 1, 1, 1]


def test_memory_is_bounded():
    """It keeps the first record and even spacing, and at most so many."""
    recorder = StateRecorder(capacity=32)
    most = 0
    for step in range(1000):
        recorder.record(step, state_of(x=jnp.array(float(step))))
        most = max(most, len(recorder.steps))
    steps = recorder.steps
    assert most <= 32 and len(steps) >= 16 and steps[0] == 0
    assert set(np.diff(steps)) == {64} and steps[-1] == 960
    assert recorder["['x']"].mean.tolist() == steps.tolist()


def test_it_does_not_wait():
    """Nothing is fetched until somebody looks."""
    recorder = recorded([jnp.ones(2), jnp.zeros(2)])
    assert all(isinstance(row, jax.Array) for row in recorder._rows)
    assert recorder["['x']"].mean.tolist() == [1, 0]
    assert not any(isinstance(row, jax.Array) for row in recorder._rows)


def test_one_compilation(monkeypatch):
    """All records of a model but the first share one compiled function."""
    module = __import__("vernal._state.recorder", fromlist=["_summarize"])
    counted = Counted(module._summarize_all)
    monkeypatch.setattr(module, "_summarize", jax.jit(counted))
    recorded([jnp.full(3, float(i)) for i in range(9)])
    assert counted.calls == 2  # the first record has none before it


def test_what_is_sick():
    """A statistic that does not settle is named; counters are not judged."""
    recorder = StateRecorder()
    for i in range(100):
        good, bad = jnp.ones(4), jnp.full(4, 1.1**i)
        recorder.record(i, state_of(bad=bad, count=jnp.array(i), good=good))
    assert list(recorder.sick) == ["['bad']"]
    assert recorder.sick["['bad']"].startswith("exploding")
    lines = str(recorder).splitlines()
    assert lines[0] == "100 records, steps 0 to 99: 1 of 2 look sick"
    bad, count, good = lines[3:]
    assert "‼ exploding" in bad and "‼" not in good and count.split()[1] == "99"
    assert "▁▁▁" in bad and "█" in bad
    assert recorder._repr_html_().count("font-weight:bold") == 5
    assert repr(recorder) == str(recorder)


def test_nan():
    """NaN is told from the first record on, and marked in the curve."""
    recorder = recorded([jnp.ones(3), jnp.array([1, jnp.nan, 2])])
    assert recorder.sick == {"['x']": "not finite"} and "×" in str(recorder)


def test_curves():
    """From the least to the largest value, thinned out; of nothing there is none."""
    assert curve(np.arange(8.0)) == "▁▂▃▄▅▆▇█"
    assert curve(np.ones(3)) == "▅▅▅" and curve(np.full(2, np.nan)) == ""
    assert len(curve(np.arange(1000.0))) == 24


def test_before_the_first_record():
    """An empty recorder is no error."""
    recorder = StateRecorder()
    assert (recorder.names, recorder.sick, len(recorder.steps)) == ((), {}, 0)
    assert str(recorder).startswith("0 records")


def test_it_leaves_the_state_alone():
    """A recorded state can be used as before; a copy is what is kept."""
    state = state_of(x=jnp.ones(3))
    StateRecorder().record(0, state)
    assert jax.tree.leaves(state)[0].tolist() == [1, 1, 1]


def test_a_sharded_state():
    """Statistics are of the whole array, however it is spread."""
    mesh = jax.sharding.Mesh(jax.devices(), "i")
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("i"))
    x = jax.device_put(jnp.arange(16.0), sharding)
    found = recorded([x, x + 1])["['x']"]
    assert (found.mean.tolist(), found.max.tolist()) == ([7.5, 8.5], [15, 16])


def test_bad_arguments():
    """A traced state, a state of another model and a small capacity are refused."""
    recorder = recorded([jnp.ones(3)])
    with refuses(StateError, "StateRecorder", "['y']", "a recorder for each model"):
        recorder.record(1, state_of(y=jnp.ones(3)))
    with refuses(StateError, "is being traced", "the jitted step"):
        jax.jit(lambda state: StateRecorder().record(0, state))(state_of(x=jnp.ones(3)))
    with refuses(StateError, "capacity", "≥ 32", "8"):
        StateRecorder(8)
