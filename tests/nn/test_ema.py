"""ExponentialMovingAverage beside the weighted sum in float64, and optax's."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

import vernal as vn
from tests import oracles
from tests.nn import devices
from tests.nn.devices import batched
from tests.world import x64
from vernal.errors import AxisNameError, HyperparameterError, InputError
from vernal.nn import ExponentialMovingAverage, make_with_state

make = make_with_state(ExponentialMovingAverage)


def history(steps: int, seed: int = 0) -> Any:
    """Values that wander, one for each step."""
    return np.cumsum(np.random.default_rng(seed).normal(size=(steps, 3)), axis=0)


def weighted(values: Any, decay: float) -> Any:
    """The average with weights ``decay**age``, oldest first, in float64."""
    values = oracles.to_float64(values)
    weights = np.power(float(decay), np.arange(len(values))[::-1])
    return weights @ values / weights.sum()


def run(ema: Any, state: Any, values: Any) -> Any:
    """The averages after each step, and the last state."""

    def body(state: Any, x: Any) -> Any:
        average, state = ema(x, state)
        return state, average

    state, averages = jax.jit(lambda s, v: jax.lax.scan(body, s, v))(state, values)
    return averages, state


@pytest.mark.parametrize("dtype, rtol", [("float32", 1e-4), ("float64", 1e-12)])
@pytest.mark.parametrize("decay", [0.0, 0.9, 0.999, 1.0])
def test_every_step_is_the_weighted_sum(decay, dtype, rtol):
    """From the first step to the thousandth."""
    with x64(dtype == "float64"):
        values = jnp.asarray(history(1000), dtype)
        ema, state = make(values[0], decay)
        averages, state = run(ema, state, values)
        assert averages.dtype == dtype
        np.testing.assert_array_equal(averages[0], values[0])
        for t in (2, 3, 50, 1000):
            expected = weighted(values[:t], decay)
            np.testing.assert_allclose(averages[t - 1], expected, rtol, rtol)
        assert int(state.get(ema.average_index).steps) == 1000


def test_optax():
    """It is optax's with its correction of the bias."""
    values = jnp.asarray(history(50), jnp.float32)
    averages, _ = run(*make(values[0], 0.9), values)
    theirs = optax.ema(0.9, debias=True)
    opt_state = theirs.init(values[0])
    for ours, x in zip(averages, values, strict=True):
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            expected, opt_state = theirs.update(x, opt_state)
        np.testing.assert_allclose(ours, expected, 1e-4, 1e-5)


def test_pytorch():
    """A decay of 1 is ``AveragedModel`` as it is; the other one forgets its start.

    PyTorch's exponential variant begins with the first tree and takes each new one with
    the weight 1 - decay, so the two differ by decay**(t - 1) at most, relatively.
    """
    values = history(2000)
    mean = values[0]
    exponential = values[0]
    for n, x in enumerate(values[1:], start=1):
        mean = mean + (x - mean) / (n + 1)  # avg_fn of swa_utils
        exponential = 0.99 * exponential + (1 - 0.99) * x
    for decay, expected in ((1.0, mean), (0.99, exponential)):
        averages, _ = run(*make(jnp.zeros(3), decay), jnp.asarray(values, jnp.float32))
        np.testing.assert_allclose(averages[-1], expected, 1e-4)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_accumulates_in_float32(dtype):
    """Steps too small for half precision are not lost; the dtype comes back."""
    ema, state = make(jnp.ones(3, dtype), 0.9999)
    _, state = ema(jnp.ones(3, dtype), state)
    values = jnp.full((2000, 3), 2, dtype)
    averages, state = run(ema, state, values)
    exact = weighted(np.concatenate([np.ones((1, 3)), np.full((2000, 3), 2)]), 0.9999)
    stored = state.get(ema.average_index).values["value"]
    assert (averages.dtype, stored.dtype) == (dtype, jnp.float32)
    np.testing.assert_allclose(stored, exact, 1e-5)
    np.testing.assert_allclose(oracles.to_float64(averages[-1]), exact, 0.01)


def test_only_floating_arrays_are_averaged():
    """Counters, keys, functions and text come from the newest; complex counts too."""

    def tree(x: float, n: int) -> Any:
        return {
            "real": np.full(2, x, np.float32),
            "complex": jnp.full(2, x * 1j, jnp.complex64),
            "count": jnp.array(n),
            "key": jr.key(n),
            "text": f"{n}",
            "number": x,
            "function": jnp.tanh,
            "none": None,
        }

    ema, state = make(tree(0.0, 0), 0.5)
    for n, x in enumerate([3.0, 0.0], start=1):
        averaged, state = ema(tree(x, n), state)
    assert set(state.get(ema.average_index).values) == {"['real']", "['complex']"}
    np.testing.assert_allclose(averaged["real"], 1.0, 1e-6)
    np.testing.assert_allclose(averaged["complex"], 1j, 1e-6)
    assert averaged["complex"].dtype == jnp.complex64
    assert int(averaged["count"]) == 2 and averaged["key"] == jr.key(2)
    rest = [averaged[k] for k in ("text", "number", "function", "none")]
    assert rest == ["2", 0.0, jnp.tanh, None]


def test_before_the_first_and_in_inference():
    """Before the first tree the average is the given one; in inference it stays."""
    x, y = jnp.arange(3.0), jnp.full(3, 7.0)
    ema, state = make(x, 0.5)
    np.testing.assert_array_equal(ema.average(x, state), x)
    frozen = vn.nn.inference_mode(ema)
    got, state = frozen(x, state)
    np.testing.assert_array_equal(got, x)
    assert int(state.get(ema.average_index).steps) == 0
    _, state = ema(x, state)
    for call in (frozen, lambda *a: ema(*a, inference=True)):
        got, state = call(y, state)
        np.testing.assert_array_equal(got, x)
        assert int(state.get(ema.average_index).steps) == 1


def test_gradients_reach_the_newest_only():
    """By the newest tree it is its weight in the average; what is stored has none."""
    ema, state = make(jnp.zeros(3), 0.5)
    _, state = ema(jnp.ones(3), state)

    def loss(x: Any) -> Any:
        average, new = ema(x, state)
        return average.sum() + new.get(ema.average_index).values["value"].sum()

    np.testing.assert_allclose(jax.grad(loss)(jnp.ones(3)), 2 / 3, 1e-6)


class Model(vn.Module):
    """A stateful model with static parts."""

    linear: vn.nn.Linear
    norm: vn.nn.BatchNorm
    dropout: vn.nn.Dropout

    def __init__(self, key: Any) -> None:
        self.linear = vn.nn.Linear(2, 2, key=key)
        self.norm = vn.nn.BatchNorm(2, "batch")
        self.dropout = vn.nn.Dropout(0.5)

    def __call__(self, x: Any, state: Any, key: Any) -> Any:
        x, state = self.norm(self.linear(x), state)
        return self.dropout(x, key=key), state


def train(steps: int) -> Any:
    """Trains under filter_jit with donation; weights and statistics of all steps."""
    model, state = make_with_state(Model)(jr.key(0))
    ema, ema_state = make((model, state), 0.9)
    traces = []

    @vn.filter_jit(donate="all")
    def step(model: Any, state: Any, ema_state: Any, xs: Any) -> Any:
        traces.append(None)

        def loss(model: Any, state: Any) -> Any:
            ys, state = vn.nn.batched(model)(xs, state, key=jr.key(1))
            return jnp.mean(ys**2 * xs), state

        grads, state = vn.filter_grad(loss, has_aux=True)(model, state)
        model = vn.apply_updates(model, jax.tree.map(jnp.negative, grads))
        _, ema_state = ema((model, state), ema_state)
        return model, state, ema_state

    seen = []
    for i in range(steps):
        xs = jr.normal(jr.key(i), (4, 2))
        model, state, ema_state = step(model, state, ema_state, xs)
        mean, _ = state.get(model.norm.batch_state_index)
        seen.append((np.asarray(model.linear.weight), np.asarray(mean)))
    assert len(traces) == 1
    return model, state, ema, ema_state, [np.stack(rows) for rows in zip(*seen)]  # noqa: B905


def test_a_training_loop_and_a_checkpoint(tmp_path: pathlib.Path):
    """Model and state are averaged in a jitted step, saved, and come back."""
    model, state, ema, ema_state, (weights, means) = train(20)
    pair = (vn.nn.inference_mode(model), state)  # another mode, the same arrays
    averaged, averaged_state = ema.average(pair, ema_state)
    assert averaged.dropout.inference and isinstance(averaged_state, vn.nn.State)
    flat = [a.reshape(20, -1) for a in (weights, means)]
    expected = [weighted(a, 0.9) for a in flat]
    np.testing.assert_allclose(averaged.linear.weight.ravel(), expected[0], 1e-5, 1e-6)
    mean, _ = averaged_state.get(model.norm.batch_state_index)
    np.testing.assert_allclose(mean, expected[1], 1e-5, 1e-6)
    assert int(averaged_state.get(model.norm.batch_counter)) == 20

    vn.save(tmp_path / "ema", ema_state)
    names = vn.checkpoint.inspect(tmp_path / "ema")
    assert "linear.weight" in str(names)
    _, like = vn.filter_eval_shape(lambda: make(pair, 0.9))
    loaded = vn.load(tmp_path / "ema", like)
    again, _ = ema.average(pair, loaded)
    np.testing.assert_array_equal(again.linear.weight, averaged.linear.weight)


def test_shard_map():
    """With names of axes, what differs over a batch on eight devices is averaged."""
    ema, state = make(jnp.zeros(3), 0.5, axis_name=["batch", "d"])
    assert type(ema.axis_name) is tuple
    batches = jnp.asarray(history(48).reshape(3, 16, 3), jnp.float32)
    for check in (True, False):
        call = devices.on_devices(batched, check)
        new = state
        for xs in batches:
            ys, new = call(ema, xs, new)
        expected = weighted(batches.mean(1), 0.5)
        np.testing.assert_allclose(ys, np.tile(expected, (16, 1)), 1e-5)


@pytest.mark.parametrize("types", [AxisType.Auto, AxisType.Explicit])
def test_parameters_spread_over_devices(types):
    """The average of a sharded array is sharded alike."""
    x = devices.spread(jnp.arange(8.0), types)
    ema, state = make(x, 0.5)
    step = jax.jit(lambda x, state: ema(x, state))
    for i in range(2):
        average, state = step((1.0 + i) * x, state)
    assert average.sharding.is_equivalent_to(x.sharding, 1)
    np.testing.assert_allclose(average, 5 / 3 * np.arange(8), 1e-6)


def test_a_batch_makes_one_state():
    """Without a name of the axis, trees that differ over a batch are refused."""
    ema, state = make(jnp.zeros(3))
    with pytest.raises(vn.errors.StateValueError, match="differs between examples"):
        vn.nn.batched(ema)(jnp.ones((4, 3)), state)


BAD_ARGUMENTS = [
    ("tree", {"n": jnp.arange(3)}),
    ("decay", -0.1),
    ("decay", 1.1),
    ("decay", "0.9"),
    ("axis_name", 0),
    ("axis_name", ()),
]


@pytest.mark.parametrize("name, value", BAD_ARGUMENTS, ids=str)
def test_bad_arguments(name, value):
    """Refused when it is built; the message names the argument."""
    arguments = {"tree": jnp.ones(3), name: value}
    text = f"ExponentialMovingAverage: bad argument `{name}`"
    with pytest.raises(HyperparameterError, match=text):
        ExponentialMovingAverage(**arguments)


def test_misuse_at_the_call():
    """Trees with other arrays, by name; no state; an axis that is not in scope."""
    tree = {"a": jnp.ones(3), "b": jnp.ones(2)}
    ema, state = make(tree)
    with pytest.raises(InputError, match=r"`\['b'\]`: \(2,\)\n.*no floating array"):
        ema({"a": jnp.ones(3)}, state)
    with pytest.raises(InputError, match=r"`\['a'\]`: \(3,\)\n +got: +\(4,\)"):
        ema.average({"a": jnp.ones(4), "b": jnp.ones(2)}, state)
    with pytest.raises(InputError, match=r"in 1 array.*\n.*`\['c'\]`: no floating"):
        ema({**tree, "c": jnp.ones(3)}, state)
    with pytest.raises(InputError, match="the second argument is not a State"):
        ema(tree, None)
    mapped, state = make(jnp.ones(3), axis_name="batch")
    with pytest.raises(AxisNameError, match="no axis named 'batch'"):
        mapped(jnp.ones(3), state)
