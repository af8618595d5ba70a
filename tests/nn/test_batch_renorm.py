"""BatchRenorm beside a float64 formula: outputs, averages, gradients, and BatchNorm."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec as P

import vernal as vn
from tests import oracles
from tests.nn.test_batch_norm import assert_close, draw
from tests.nn.test_batch_norm_masks import draw_mask
from tests.world import x64
from vernal.errors import AxisNameError, HyperparameterError, InputError
from vernal.nn import BatchNorm, BatchRenorm, make_with_state


@functools.partial(jax.jit, static_argnames="inference")
def call(
    norm: Any, xs: Any, state: Any, mask: Any = None, inference: Any = None
) -> Any:
    """Calls the layer on a batch, perhaps with a mask for each example."""

    def one(x: Any, state: Any, mask: Any) -> Any:
        return norm(x, state, mask=mask, inference=inference)

    axes: Any = {"in_axes": (0, None, 0), "out_axes": (0, None)}
    return jax.vmap(one, axis_name="batch", **axes)(xs, state, mask)


def build(layer: Any = BatchRenorm, **kwargs: Any) -> Any:
    """A layer whose weight and bias are not the initial ones, and its state."""
    norm, state = make_with_state(layer)(3, "batch", **kwargs)
    numbers = np.arange(1, 4)
    new = [jnp.asarray(numbers * a, norm.weight.dtype) for a in (0.5, -0.25)]
    return vn.tree_at(lambda m: (m.weight, m.bias), norm, new), state


def corrections(now: Any, before: Any, eps: float, r_max: float, d_max: float) -> Any:
    """The paper's r and d, from the moments of the batch and the averages before."""
    deviation = np.sqrt(before.variance + eps)
    r = np.clip(np.sqrt(now.variance + eps) / deviation, 1 / r_max, r_max)
    return r, np.clip((now.mean - before.mean) / deviation, -d_max, d_max)


def renormalize(xs: Any, now: Any, r: Any, d: Any, eps: float, weight: Any, bias: Any):
    """The paper's formula, in float64."""
    weight, bias = oracles.to_float64(weight), oracles.to_float64(bias)
    return oracles.batch_norm(xs, now, eps, r * weight, d * weight + bias)


@pytest.mark.parametrize("r_max, d_max", [(1.5, 0.5), (1e9, 1e9), (3.0, 5.0)])
@pytest.mark.parametrize("shape, has_mask", [((8, 3), False), ((5, 3, 4), True)])
def test_matches_the_formula(shape, r_max, d_max, has_mask):
    """Outputs, gradients and averages of each step, with r and d held fixed."""
    eps = 0.1
    with x64():
        norm, state = build(momentum=0.7, eps=eps, r_max=r_max, d_max=d_max)
        cotangents, history = draw(shape, 9), []
        affine = (norm.weight, norm.bias)

        def loss(xs: Any, norm: Any, state: Any, mask: Any) -> Any:
            ys, new = call(norm, xs, state, mask)
            return jnp.sum(ys * cotangents), (ys, new)

        grad = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
        bounds = set()
        for step in (1, 3, 0, 2):  # the mean goes up and down
            xs = draw(shape, step)
            mask = draw_mask(shape, step) if has_mask else None
            (xs_grad, grads), (ys, state) = grad(xs, norm, state, mask)
            now = oracles.batch_moments(xs, mask)
            before = oracles.weighted_average(history, 0.7) if history else now
            r, d = corrections(now, before, eps, r_max, d_max)
            assert_close(ys, renormalize(xs, now, r, d, eps, *affine), 1e-12)
            expected = oracles.batch_norm_gradients(
                xs, cotangents, r * np.asarray(norm.weight), eps, mask
            )
            assert_close(xs_grad, expected.xs, 1e-11)
            assert_close(grads.weight, r * expected.weight + d * expected.bias, 1e-11)
            assert_close(grads.bias, expected.bias, 1e-12)
            history.append(now)
            running = state.get(norm.batch_state_index)
            assert_close(running, oracles.weighted_average(history, 0.7), 1e-12)
            bounds |= {*np.isin(r, [r_max, 1 / r_max]), *np.isin(np.abs(d), [d_max])}
        # The narrow limits were reached, and the wide ones not.
        assert bounds == ({True, False} if r_max == 1.5 else {False})


def test_within_the_limits_it_is_what_inference_computes():
    """Training normalizes by the averages of before the step."""
    norm, state = build(r_max=1e9, d_max=1e9)
    _, state = call(norm, draw((8, 3)), state)
    xs = draw((8, 3), 1)
    expected, _ = call(norm, xs, state, inference=True)
    ys, _ = call(norm, xs, state)
    assert_close(ys, expected, 1e-5)


def test_without_room_it_is_batch_norm():
    """With r = 1 and d = 0, outputs, gradients and state are BatchNorm's."""
    layers = [build(r_max=1, d_max=0), build(BatchNorm)]
    results = []
    for norm, state in layers:

        def loss(norm: Any, xs: Any, state: Any) -> Any:
            ys, new = call(norm, xs, state)
            return jnp.sum(jnp.sin(ys)), (ys, new)

        for step in range(3):
            args = (norm, draw((8, 3), step), state)
            grads, (ys, state) = jax.grad(loss, (0, 1), has_aux=True)(*args)
        inference, _ = call(norm, draw((8, 3), 7), state, inference=True)
        results.append(jax.tree.leaves((grads, ys, state, inference)))
    assert_close(*results, 1e-6)


def test_the_first_step_is_batch_norm():
    """There are no averages yet: the initial 0 and 1 correct nothing."""
    norm, state = build()
    plain, plain_state = build(BatchNorm)
    got = call(norm, 100 + draw((8, 3)), state)
    assert_close(got[0], call(plain, 100 + draw((8, 3)), plain_state)[0], 1e-6)


def test_schedules():
    """Limits may be functions of the number of steps, equal by what they do."""

    def make(steps: int) -> Any:
        return build(
            momentum=0.9,
            r_max=lambda step: jnp.where(step < steps, 1.0, 1e9),
            d_max=lambda step: jnp.where(step < steps, 0.0, 1e9),
        )

    norm, state = make(2)
    assert jax.tree.structure(norm) == jax.tree.structure(make(2)[0])
    for step in range(4):
        xs = draw((8, 3), step)
        own, expected = oracles.batch_moments(xs), state.get(norm.batch_state_index)
        used = own if step < 2 else oracles.Moments(*expected)
        affine = (norm.weight, norm.bias)
        ys, state = call(norm, xs, state)
        assert_close(ys, oracles.batch_norm(xs, used, 1e-5, *affine), 1e-5)


@pytest.mark.parametrize("left", [0, 1])
def test_nothing_counts(left):
    """The running averages are used and stay as they are, in every bit."""
    norm, state = build()
    _, state = call(norm, draw((6, 3)), state)
    xs = draw((6, 3), 1)
    ys, after = call(norm, xs, state, np.arange(6) < left)
    assert vn.tree_equal(after, state)
    assert_close(ys, call(norm, xs, state, inference=True)[0], 1e-6)


def test_a_whole_batch():
    """With axis_name=None the numbers are those of vmap."""
    norm, state = build()
    whole = vn.tree_at(lambda m: m.axis_name, norm, None)
    states = [state, state]
    for step in range(2):
        xs, mask = draw((5, 3, 4), step), draw_mask((5, 3, 4), step)
        ys, states[0] = call(norm, xs, states[0], mask)
        got, states[1] = jax.jit(whole)(xs, states[1], mask=mask)
        assert_close((got, states[1]), (ys, states[0]), 1e-5)


def test_devices():
    """Eight devices make one batch."""
    norm, state = build(momentum=0.5)
    both = vn.tree_at(lambda m: m.axis_name, norm, ("batch", "d"))
    specs: Any = {"in_specs": (P(), P("d"), P()), "out_specs": (P("d"), P())}
    run = jax.jit(jax.shard_map(call, mesh=Mesh(jax.devices(), ("d",)), **specs))
    other = state
    for step in range(2):
        ys, state = call(norm, draw((16, 3), step), state)
        got, other = run(both, draw((16, 3), step), other)
        assert_close((got, other), (ys, state), 1e-5)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision(dtype):
    """Statistics, r and d are float32; the output has the input's dtype."""
    norm, state = build(dtype=dtype)
    for step in range(2):
        xs = (1e4 * draw((16, 3), step) / 40).astype(dtype)
        ys, state = call(norm, xs, state)
        assert ys.dtype == dtype and jnp.all(jnp.isfinite(ys))
    assert {x.dtype for x in state.get(norm.batch_state_index)} == {
        jnp.dtype("float32")
    }


def test_without_affine():
    """There are no parameters, and the output is ``z r + d``."""
    norm, state = make_with_state(BatchRenorm)(3, "batch", channelwise_affine=False)
    assert not jax.tree.leaves(norm)
    _, state = call(norm, draw((8, 3)), state)
    before = oracles.Moments(
        *map(oracles.to_float64, state.get(norm.batch_state_index))
    )
    xs = draw((8, 3), 1)
    now = oracles.batch_moments(xs)
    r, d = corrections(now, before, 1e-5, 3, 5)
    ys, _ = call(norm, xs, state)
    assert_close(ys, oracles.batch_norm(xs, now, 1e-5, r, d), 1e-5)


BAD_ARGUMENTS = [
    {"input_size": 0},
    {"axis_name": 0},
    {"eps": -1.0},
    {"channelwise_affine": 1},
    {"momentum": None},
    {"momentum": 2},
    {"dtype": jnp.int32},
    {"r_max": 0.9},
    {"r_max": None},
    {"d_max": -1},
    {"d_max": "5"},
]


@pytest.mark.parametrize("arguments", BAD_ARGUMENTS, ids=str)
def test_bad_arguments(arguments):
    """Refused when the layer is built; the message names the argument."""
    with pytest.raises(HyperparameterError) as caught:
        BatchRenorm(**{"input_size": 3, "axis_name": "batch"} | arguments)
    (wrong,) = arguments
    assert f"BatchRenorm: bad argument `{wrong}`" in str(caught.value)


def test_wrong_calls():
    """Wrong inputs are told in the name of this layer."""
    norm, state = build()
    with pytest.raises(AxisNameError, match="BatchRenorm"):
        norm(jnp.ones(3), state)
    for shape, mask in [((4, 2), None), ((1, 3), None), ((4, 3), np.ones(4))]:
        with pytest.raises(InputError, match="BatchRenorm"):
            call(norm, jnp.ones(shape), state, mask)
