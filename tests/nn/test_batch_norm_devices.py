"""BatchNorm over several axes and several devices, and what it sends between them."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P

import vernal as vn
from tests import oracles
from vernal.nn import BatchNorm, make_with_state

MODES = ["batch", "ema"]
EXAMPLES, CHANNELS = 16, 3
SHAPE = (EXAMPLES, CHANNELS, 2, 2)


def build(axis_name: Any, **kwargs: Any) -> Any:
    """A layer whose weight and bias are not the initial ones, and its state."""
    norm, state = make_with_state(BatchNorm)(CHANNELS, axis_name, **kwargs)
    new = (jnp.arange(1.0, 4.0), jnp.arange(3.0))
    return vn.tree_at(lambda m: (m.weight, m.bias), norm, new), state


def draw(seed: int) -> jax.Array:
    """A batch in which examples and channels differ in mean."""
    noise = np.random.default_rng(seed).normal(size=SHAPE)
    shift = np.arange(EXAMPLES).reshape(-1, 1, 1, 1) + np.arange(3.0).reshape(3, 1, 1)
    return jnp.asarray(noise + shift, float)


def over(axis_name: str, fun: Callable[..., Any]) -> Callable[..., Any]:
    """Maps over examples, not over the state."""
    axes: Any = {"in_axes": (0, None), "out_axes": (0, None)}
    return jax.vmap(fun, axis_name=axis_name, **axes)


def train(call: Callable[..., Any], norm: Any, state: Any, n: int = EXAMPLES) -> Any:
    """Outputs, gradients and state of three steps of ``call(norm, xs, state)``."""

    @jax.jit
    def step(norm: Any, xs: Any, state: Any) -> Any:
        def loss(norm: Any, xs: Any) -> Any:
            ys, new = call(norm, xs, state)
            return jnp.mean(jnp.sin(ys) * jnp.cos(xs)), (ys, new)

        return jax.grad(loss, (0, 1), has_aux=True)(norm, xs)

    results = []
    for i in range(3):
        grads, (ys, state) = step(norm, draw(i)[:n], state)
        results.append(jax.tree.leaves((ys, grads, state)))
    return results


def assert_equal(got: Any, expected: Any) -> None:
    """Compares leaf by leaf, to the rounding of float32 sums in another order."""
    got, expected = jax.tree.leaves(got), jax.tree.leaves(expected)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def on_one_device(norm: Any, xs: Any, state: Any) -> Any:
    return over("batch", norm)(xs, state)


@functools.cache
def reference(mode: str = "batch", n: int = EXAMPLES) -> Any:
    """The same steps on one device."""
    return train(on_one_device, *build("batch", mode=mode), n)


def mesh(*sizes: int, types: AxisType = AxisType.Auto) -> Mesh:
    """A mesh of all eight devices, with the axes "d" and perhaps "e"."""
    devices = np.array(jax.devices()).reshape(sizes)
    names = ("d", "e")[: len(sizes)]
    return Mesh(devices, names, axis_types=(types,) * len(sizes))


def sharded(
    one: Callable[..., Any], *sizes: int, check: bool = True
) -> Callable[..., Any]:
    """Splits examples over all devices; gives the layer and the state to each."""
    split = P(("d", "e")[: len(sizes)])
    in_specs, out_specs = (P(), split, P()), (split, P())
    return jax.shard_map(
        one,
        mesh=mesh(*sizes),
        in_specs=in_specs,
        out_specs=out_specs,
        check_vma=check,
    )


SHARDED = {
    "vmap in shard_map": ((8,), ("batch", "d"), True),
    "two device axes": ((4, 2), ["e", "batch", "d"], True),
    "unchecked": ((8,), ("batch", "d"), False),
    "two device axes, unchecked": ((2, 4), ("batch", "d", "e"), False),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sizes, names, check", SHARDED.values(), ids=SHARDED)
def test_shard_map(sizes, names, check, mode):
    """Outputs, state and gradients over eight devices equal those on one."""
    norm, state = build(names, mode=mode)
    call = sharded(on_one_device, *sizes, check=check)
    assert_equal(train(call, norm, state), reference(mode))


@pytest.mark.parametrize("check", [True, False])
def test_one_example_per_device(check):
    """The name of a device axis alone will do, without vmap."""

    def one(norm: Any, xs: Any, state: Any) -> Any:
        y, state = norm(xs[0], state)
        return y[None], state

    norm, state = build("d")
    call = sharded(one, 8, check=check)
    assert_equal(train(call, norm, state, 8), reference(n=8))


@pytest.mark.parametrize("check", [True, False])
def test_gradients_taken_inside_of_shard_map(check):
    """The usual data-parallel step, in both of its forms, gives the same gradients.

    Also of what comes before the layer, and so acts through the statistics.
    """
    norm, state = build(("batch", "d"))
    mixing = jnp.arange(9.0).reshape(3, 3)

    def gradients(norm: Any, xs: Any, state: Any, across: Any) -> Any:
        def loss(params: Any) -> Any:
            norm, mixing = params
            mixed = jnp.einsum("ij,nj...->ni...", mixing, xs)
            ys, new = on_one_device(norm, mixed, state)
            return across(jnp.mean(jnp.sin(ys) * jnp.cos(xs))), (ys, new)

        grads, (ys, new) = jax.grad(loss, has_aux=True)((norm, mixing))
        return ys, (grads, new)

    def mean(x: Any) -> Any:
        return jax.lax.pmean(x, "d")

    def step(norm: Any, xs: Any, state: Any) -> Any:
        if check:  # JAX adds up the gradients of what all devices have
            return gradients(norm, xs, state, mean)
        ys, (grads, new) = gradients(norm, xs, state, lambda x: x)
        return ys, (mean(grads), new)

    plain, plain_state = build("batch")
    expected = jax.jit(lambda *args: gradients(*args, lambda x: x))
    call = jax.jit(sharded(step, 8, check=check))
    for i in range(2):
        ys, (grads, plain_state) = expected(plain, draw(i), plain_state)
        got, (got_grads, state) = call(norm, draw(i), state)
        assert_equal((got, got_grads, state), (ys, grads, plain_state))


@pytest.mark.parametrize("types", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("mode", MODES)
def test_jit_over_a_sharded_batch(mode, types):
    """Under jit a batch that lies on eight devices is normalized as a whole."""
    place = NamedSharding(mesh(8, types=types), P("d"))
    everywhere = NamedSharding(mesh(8, types=types), P())
    norm, state = jax.device_put(build("batch", mode=mode), everywhere)

    def call(norm: Any, xs: Any, state: Any) -> Any:
        return on_one_device(norm, xs, state)

    step = jax.jit(lambda norm, xs, state: call(norm, xs, state))
    for i, (expected, _, _, _, *new) in enumerate(reference(mode)):
        ys, state = step(norm, jax.device_put(draw(i), place), state)
        assert ys.sharding.is_equivalent_to(place, ys.ndim)
        assert_equal((ys, state), (expected, new))


def test_each_device_by_itself():
    """Without the device axis among the names, each device has its own statistics."""
    norm, state = build("batch")

    def one(norm: Any, xs: Any, state: Any) -> Any:
        ys, state = on_one_device(norm, xs, state)
        running = state.get(norm.batch_state_index)
        running = jax.lax.pmean(running, "d")  # as the user must, for one state
        return ys, state.set(norm.batch_state_index, running)

    ys, after = jax.jit(sharded(one, 8))(norm, draw(0), state)
    parts = np.split(oracles.to_float64(draw(0)), 8)
    moments = [oracles.batch_moments(part) for part in parts]
    affine = {"weight": norm.weight, "bias": norm.bias}
    pairs = zip(parts, moments, strict=True)
    expected = [oracles.batch_norm(part, now, **affine) for part, now in pairs]
    assert_equal(ys, np.concatenate(expected))
    running = after.get(norm.batch_state_index)
    assert_equal(running, [np.mean(rows, 0) for rows in zip(*moments, strict=True)])


def test_an_ensemble_on_devices():
    """Members on one device axis, the batch on the other: each equals one alone."""
    made = [build("d") for _ in range(2)]
    for i, (norm, state) in enumerate(made):
        made[i] = jax.tree.map(lambda p, i=i: (1.0 + i) * p, norm), state
    norms, states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *made)

    def one(norms: Any, xs: Any, states: Any) -> Any:
        norm, state = jax.tree.map(lambda a: a[0], (norms, states))
        y, state = norm(xs[0], state)
        return y[None, None], jax.tree.map(lambda a: a[None], state)

    call = jax.shard_map(
        one,
        mesh=mesh(4, 2),
        in_specs=(P("e"), P("d"), P("e")),
        out_specs=(P("e", "d"), P("e")),
    )
    xs = draw(0)[:4]
    for _ in range(2):
        ys, states = jax.jit(call)(norms, xs, states)
        for i, (norm, state) in enumerate(made):
            expected, state = over("d", norm)(xs, state)
            made[i] = norm, state
            assert_equal(ys[i], expected)
            assert_equal(jax.tree.map(lambda a, i=i: a[i], states), state)


@pytest.mark.parametrize("mode", MODES)
def test_scan_over_steps_inside_of_shard_map(mode):
    """The state keeps its type, so that steps can be scanned where the data is."""
    norm, state = build(("batch", "d"), mode=mode)

    def one(norm: Any, batches: Any, state: Any) -> Any:
        def body(state: Any, xs: Any) -> Any:
            ys, state = on_one_device(norm, xs, state)
            return state, ys

        state, ys = jax.lax.scan(body, state, batches)
        return ys, state

    specs = {"in_specs": (P(), P(None, "d"), P()), "out_specs": (P(None, "d"), P())}
    call = jax.jit(jax.shard_map(one, mesh=mesh(8), **specs))
    ys, state = call(norm, jnp.stack([draw(i) for i in range(3)]), state)
    expected = reference(mode)
    assert_equal(list(ys), [y for y, *_ in expected])
    assert_equal(state, expected[-1][4:])


@pytest.mark.parametrize("names", [("rows", "columns"), ["columns", "rows"]])
def test_several_axes_of_vmap(names):
    """A batch on two nested axes, named by a tuple or a list, is one batch."""
    norm, state = build(names)
    call = over("rows", over("columns", norm))
    got, after = call(draw(0).reshape(4, 4, *SHAPE[1:]), state)
    plain, state = build("batch")
    expected, state = on_one_device(plain, draw(0), state)
    assert_equal((got.reshape(SHAPE), after), (expected, state))
    assert type(norm.axis_name) is tuple


def count_sends(fun: Callable[..., Any], *args: Any) -> tuple[int, int]:
    """How many collectives a call always runs, and how many in loops."""
    hlo = jax.jit(fun).lower(*args).compile().as_text()
    _, _, main = hlo.partition("\nENTRY ")
    always = main.count(" all-reduce(")
    return always, hlo.count(" all-reduce(") - always


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_one_collective(mode, check):
    """A call sends once; and once more for each further pass, after a bad guess."""
    norm, state = build(("batch", "d"), mode=mode)
    run = sharded(on_one_device, 8, check=check)
    assert count_sends(run, norm, draw(0), state) == (1, 1)
    inference = vn.nn.inference_mode(norm)
    assert count_sends(run, inference, draw(0), state) == (0, 0)


def test_one_collective_under_jit():
    """Over a sharded batch the compiler, too, sends once, and once in the loop."""
    norm, state = build("batch")
    xs = jax.device_put(draw(0), NamedSharding(mesh(8), P("d")))
    assert count_sends(on_one_device, norm, xs, state) == (1, 1)
