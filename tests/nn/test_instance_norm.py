"""InstanceNorm beside PyTorch and a float64 formula: outputs, averages, gradients."""

import copy
import functools
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec as P

import vernal as vn
from tests import oracles
from tests.nn.test_batch_norm import assert_close, draw
from tests.nn.test_batch_norm_devices import count_sends
from tests.nn.test_batch_norm_masks import draw_mask
from tests.world import x64
from vernal import nn
from vernal.errors import AxisNameError, HyperparameterError, InputError
from vernal.nn import GroupNorm, InstanceNorm, make_with_state

# Written by scripts/make_torch_fixtures/instance_norm.py.
FIXTURE = np.load(pathlib.Path(__file__).parents[1] / "fixtures" / "instance_norm.npz")
CASES = json.loads(str(FIXTURE["cases"]))


@functools.partial(jax.jit, static_argnames="inference")
def call(
    norm: Any, xs: Any, state: Any, mask: Any = None, inference: Any = None
) -> Any:
    """Calls the layer on a batch, perhaps with a mask for each example."""

    def one(x: Any, state: Any, mask: Any) -> Any:
        return norm(x, state, mask=mask, inference=inference)

    axes: Any = {"in_axes": (0, None, 0), "out_axes": (0, None)}
    return jax.vmap(one, axis_name="batch", **axes)(xs, state, mask)


def build(**kwargs: Any) -> Any:
    """A layer with running averages, whose parameters are not the initial ones."""
    options = {"running": True, "axis_name": "batch"} | kwargs
    norm, state = make_with_state(InstanceNorm)(3, **options)
    numbers = np.arange(1, 4)
    new = [jnp.asarray(numbers * a, norm.weight.dtype) for a in (0.5, -0.25)]
    return vn.tree_at(lambda m: (m.weight, m.bias), norm, new), state


def moments_of(xs: Any, mask: Any = None) -> list[oracles.Moments]:
    """Of each example."""
    masks = [None] * len(xs) if mask is None else np.asarray(mask)[:, None]
    pairs = zip(np.asarray(xs)[:, None], masks, strict=True)
    return [oracles.batch_moments(x, m) for x, m in pairs]


def mean_of(xs: Any, mask: Any = None) -> oracles.Moments:
    """Over the batch, each example with the weight of its values."""
    if mask is None:
        weights = np.full(len(xs), 1 / len(xs))
        rows = moments_of(xs)
    else:
        counts = np.asarray(mask).reshape(len(mask), -1).sum(1)
        enough = counts >= 2
        weights = counts[enough] / counts[enough].sum()
        rows = moments_of(np.asarray(xs)[enough], np.asarray(mask)[enough])
    return oracles.Moments(*(weights @ np.stack(a) for a in zip(*rows, strict=True)))


@pytest.mark.parametrize("i", range(len(CASES)), ids=lambda i: CASES[i]["name"])
def test_torch(i):
    """Outputs, gradients and (converted) averages equal PyTorch's over two steps."""
    case = CASES[i]
    arrays = {k[2:]: v for k, v in FIXTURE.items() if k.startswith(f"{i}.")}
    affine, running = (case.get(k, False) for k in ("affine", "track_running_stats"))
    count = int(np.prod(case["shape"][2:]))
    options: Any = {"eps": case["eps"], "momentum": 1 - case["momentum"]}
    options |= {"running": running, "axis_name": "batch" if running else None}
    with x64():
        norm, state = make_with_state(InstanceNorm)(
            case["shape"][1], channelwise_affine=affine, **options
        )
        if affine:
            params = (jnp.asarray(arrays["weight"]), jnp.asarray(arrays["bias"]))
            norm = vn.tree_at(lambda m: (m.weight, m.bias), norm, params)

        def loss(xs: Any, norm: Any, state: Any, cotangents: Any) -> Any:
            ys, state = call(norm, xs, state)
            return jnp.sum(ys * cotangents), (ys, state)

        grad = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
        for step in range(2):
            xs = arrays[f"{step}.x"]
            grads, (ys, state) = grad(xs, norm, state, arrays[f"{step}.cotangent"])
            assert_close(ys, arrays[f"{step}.y"], 1e-12)
            names = ["x", "weight", "bias"][: 3 if affine else 1]
            wanted = [arrays[f"{step}.{name}_grad"] for name in names]
            assert_close(grads, wanted, 1e-11)
            if running:
                got = oracles.Moments(*state.get(norm.batch_state_index))
                got = oracles.torch_running(got, step + 1, count, case["momentum"])
                assert_close(got, [arrays[f"{step}.{k}"] for k in got._fields], 1e-12)
        if running:
            stored = (jnp.asarray(arrays["1.mean"]), jnp.asarray(arrays["1.variance"]))
            state = state.set(norm.batch_state_index, stored)
        ys, _ = call(norm, xs, state, inference=True)
        assert_close(ys, arrays["y_inference"], 1e-12)


@pytest.mark.parametrize("shape", [(3, 4), (3, 2, 4), (3, 2, 3, 2)], ids=len)
def test_is_group_norm_with_a_group_for_each_channel(shape):
    """Without state it is called without; the numbers are GroupNorm's."""
    norm, group = InstanceNorm(3, eps=0.1), GroupNorm(3, 3, eps=0.1)
    x = draw((1, *shape))[0]
    np.testing.assert_allclose(norm(x), group(x), rtol=1e-6, atol=1e-6)
    assert not norm.is_stateful()


@pytest.mark.parametrize("shape", [(4, 3, 5), (3, 3, 2, 4)], ids=len)
def test_masks_match_the_formula(shape):
    """Outputs, averages and gradients are those of the values that count."""
    with x64():
        norm, state = build(momentum=0.7, eps=0.1)
        cotangents, history = draw(shape, 9), []
        for step in range(3):
            xs = draw(shape, step)
            mask = np.random.default_rng(step).random((shape[0], *shape[2:])) > 0.4
            mask[..., :2] = True
            mask[1] = False
            old = state.get(norm.batch_state_index)

            def loss(xs: Any, state: Any, mask: Any = mask) -> Any:
                ys, new = call(norm, xs, state, mask)
                return jnp.sum(ys * cotangents), (ys, new)

            grads, (ys, state) = jax.grad(loss, has_aux=True)(xs, state)
            affine = (norm.weight, norm.bias)
            for i in {*range(shape[0])} - {1}:
                one = slice(i, i + 1)
                used = oracles.batch_moments(xs[one], mask[one])
                expected = oracles.batch_norm(xs[one], used, 0.1, *affine)
                assert_close(ys[one], expected, 1e-12)
                expected = oracles.batch_norm_gradients(
                    xs[one], cotangents[one], norm.weight, 0.1, mask[one]
                ).xs
                assert_close(grads[one], expected, 1e-11)
            # The example of nothing is normalized by the running averages.
            used = oracles.Moments(*old)
            assert_close(
                ys[1:2], oracles.batch_norm(xs[1:2], used, 0.1, *affine), 1e-12
            )
            history.append(mean_of(xs, mask))
            expected = oracles.weighted_average(history, 0.7)
            assert_close(state.get(norm.batch_state_index), expected, 1e-12)


@pytest.mark.parametrize("left", [0, 1])
def test_nothing_counts(left):
    """The state keeps every bit; without one, 0 and 1 are used; gradients too."""
    norm, state = build()
    _, state = call(norm, draw((4, 3, 5)), state)
    mask = np.broadcast_to(np.arange(5) < left, (4, 5))
    xs = draw((4, 3, 5), 1)
    ys, after = call(norm, xs, state, mask)
    assert vn.tree_equal(after, state)
    used = oracles.Moments(*state.get(norm.batch_state_index))
    affine = (norm.weight, norm.bias)
    assert_close(ys, oracles.batch_norm(xs, used, 1e-5, *affine), 1e-6)
    plain = InstanceNorm(3)
    scale = 1 / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(plain(xs[0], mask=mask[0]), xs[0] * scale, rtol=1e-6)
    gradient = jax.grad(lambda x: plain(x, mask=mask[0]).sum())(xs[0])
    np.testing.assert_allclose(gradient, scale, rtol=1e-6)


def test_a_mask_of_true_is_no_mask():
    """And what does not count leaves no trace, whatever it is."""
    norm, state = build()
    xs = draw((4, 3, 6))
    got = call(norm, xs, state, np.full((4, 6), True))
    assert_close(got, call(norm, xs, state), 1e-6)
    mask = np.arange(6) < 4
    got, after = call(norm, xs.at[..., 4:].set(np.nan), state, np.tile(mask, (4, 1)))
    expected, wanted = call(norm, xs[..., :4], state)
    assert_close((got[..., :4], after), (expected, wanted), 1e-6)


@pytest.mark.parametrize("check", [True, False])
def test_devices(check):
    """Averages are over the examples of all devices, by one collective."""
    mesh = Mesh(np.array(jax.devices()), ("d",))
    specs: Any = {"in_specs": (P(), P("d"), P(), P("d")), "out_specs": (P("d"), P())}
    run = jax.shard_map(call, mesh=mesh, check_vma=check, **specs)
    norm, state = build()
    norm = vn.tree_at(lambda m: m.axis_name, norm, ("batch", "d"))
    mask = draw_mask((16, 3, 4))
    mask[4:6] = False
    got = jax.jit(run)(norm, draw((16, 3, 4)), state, mask)
    expected = mean_of(draw((16, 3, 4)), mask)
    assert_close(got[1].get(norm.batch_state_index), expected, 1e-5)
    assert count_sends(run, norm, draw((16, 3, 4)), state, mask) == (1, 0)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision(dtype):
    """Statistics are float32, at the edge of float16 too; the output is a half."""
    norm, state = build()
    signs = np.sign(np.random.default_rng(0).normal(size=(4, 3, 64)))
    xs = jnp.asarray(6e4 * signs, dtype)
    ys, state = call(norm, xs, state, np.full((4, 64), True))
    mean, variance = state.get(norm.batch_state_index)
    assert ys.dtype == dtype and mean.dtype == variance.dtype == jnp.float32
    np.testing.assert_allclose(variance, mean_of(xs).variance, rtol=1e-5)
    assert jnp.all(jnp.isfinite(ys))


def test_what_is_stored_has_no_gradient():
    """Neither by the data nor by the old averages."""
    norm, state = build()

    def new(xs: Any, old: Any) -> Any:
        state_index = norm.batch_state_index
        return call(norm, xs, state.substate(norm).set(state_index, old))[1].get(
            state_index
        )

    args = (draw((4, 3, 5)), state.get(norm.batch_state_index))
    _, tangents = jax.jvp(new, args, args)
    assert not any(np.any(x) for x in tangents)


BAD_ARGUMENTS = [
    ("input_size", {"input_size": 0}),
    ("eps", {"eps": -1.0}),
    ("channelwise_affine", {"channelwise_affine": 1}),
    ("dtype", {"dtype": jnp.int32}),
    ("running", {"running": 1}),
    ("momentum", {"momentum": 1.5}),
    ("momentum", {"momentum": None}),
    ("axis_name", {"axis_name": "batch"}),
    ("axis_name", {"running": True}),
    ("axis_name", {"running": True, "axis_name": 0}),
]


@pytest.mark.parametrize("wrong, arguments", BAD_ARGUMENTS, ids=str)
def test_bad_arguments(wrong, arguments):
    """Refused when the layer is built; the message names the argument."""
    with pytest.raises(HyperparameterError) as caught:
        InstanceNorm(**{"input_size": 3} | arguments)
    assert f"InstanceNorm: bad argument `{wrong}`" in str(caught.value)


def test_wrong_calls():
    """Shapes, one value, a missing state, mask and axis: each in the user's words."""
    norm = InstanceNorm(3)
    running, state = build()
    cases: Any = [
        (lambda: norm(jnp.ones((2, 4))), InputError, "input_size = 3"),
        (lambda: norm(jnp.ones(3)), InputError, "fewer than two values"),
        (lambda: norm(jnp.ones((3, 1))), InputError, "fewer than two values"),
        (lambda: norm(jnp.ones((3, 4), int)), InputError, "floating"),
        (lambda: norm(jnp.ones((3, 4)), mask=np.ones(4)), InputError, "mask != 0"),
        (lambda: norm(jnp.ones((3, 4)), None), InputError, "State"),
        (lambda: running(jnp.ones((3, 4))), InputError, "State"),
        (lambda: running(jnp.ones((3, 4)), state), AxisNameError, "'batch'"),
    ]
    for make, error, text in cases:
        with pytest.raises(error, match="InstanceNorm") as caught:
            make()
        assert text in str(caught.value)
        assert len(str(caught.value).splitlines()) <= 6


def test_in_place_of_batch_norm():
    """Without running averages it passes the state on, which stays usable."""
    _, state = build()
    y, after = InstanceNorm(3)(draw((1, 3, 5))[0], state)
    assert y.shape == (3, 5) and after is state


def test_within_sequential():
    """The state goes to the layer that has one."""

    def make() -> Any:
        return vn.nn.Sequential(
            [InstanceNorm(3), InstanceNorm(3, running=True, axis_name="batch")]
        )

    model, state = make_with_state(make)()
    ys, after = vn.nn.batched(model)(draw((4, 3, 5)), state)
    assert ys.shape == (4, 3, 5)
    assert int(after.get(model.layers[1].batch_counter)) == 1


def test_merged_states() -> None:
    """Merged are means over examples, of means and of variances within them."""
    make = nn.make_with_state(nn.InstanceNorm)
    norm, state = make(2, running=True, axis_name="batch", momentum=1.0)
    xs = np.random.default_rng(3).normal(1, 2, (8, 2, 5)).astype(np.float32)
    xs[:4] += 10
    halves = [
        nn.batched(norm)(jnp.asarray(part), copy.copy(state))[1]
        for part in (xs[:4], xs[4:])
    ]
    mean, variance = nn.merge_states(halves).get(norm.batch_state_index)
    wide = xs.astype(np.float64)
    np.testing.assert_allclose(mean, wide.mean(2).mean(0), rtol=1e-6)
    np.testing.assert_allclose(variance, wide.var(2).mean(0), rtol=1e-6)
