"""BatchNorm beside a float64 formula and PyTorch: outputs, averages and gradients.

What depends on precision, devices and wrong arguments: test_batch_norm_*.py.
"""

import functools
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import vernal as vn
from tests import oracles
from tests.world import x64
from vernal.nn import BatchNorm, make_with_state

# Written by scripts/make_torch_fixtures/batch_norm.py.
FIXTURE = np.load(pathlib.Path(__file__).parents[1] / "fixtures" / "batch_norm.npz")
CASES = json.loads(str(FIXTURE["cases"]))
SHAPES = [(8, 3), (6, 3, 4), (5, 3, 2, 4), (4, 3, 2, 3, 2)]  # examples, channels, ...
MODES = ["batch", "ema"]
MOMENTA = [0, 0.3, 0.99, 1]


@functools.partial(jax.jit, static_argnames="inference")
def call(norm: Any, xs: Any, state: Any, inference: bool | None = None) -> Any:
    """Calls the layer on a batch, as users do."""
    one = functools.partial(norm, inference=inference)
    axes: Any = {"in_axes": (0, None), "out_axes": (0, None)}
    return jax.vmap(one, axis_name="batch", **axes)(xs, state)


def build(channels: int = 3, **kwargs: Any) -> Any:
    """A layer whose weight and bias are not the initial ones, and its state."""
    norm, state = make_with_state(BatchNorm)(channels, "batch", **kwargs)
    numbers = np.arange(1, channels + 1)
    new = [jnp.asarray(numbers * a, norm.weight.dtype) for a in (0.5, -0.25)]
    return vn.tree_at(lambda m: (m.weight, m.bias), norm, new), state


def stored(norm: BatchNorm, state: Any) -> oracles.Moments:
    """The running mean and variance."""
    is_ema = norm.mode == "ema"
    return oracles.Moments(
        *state.get(norm.ema_state_index if is_ema else norm.batch_state_index)
    )


def draw(shape: tuple[int, ...], seed: int = 0) -> jax.Array:
    """A batch whose channels differ in mean and scale."""
    channel = np.arange(1.0, shape[1] + 1).reshape(-1, *[1] * (len(shape) - 2))
    noise = np.random.default_rng(seed).normal(size=shape)
    return jnp.asarray((seed + 2) * channel + channel**2 * noise, float)


def average(mode: str, history: Any, momentum: float) -> oracles.Moments:
    """The running averages that the oracle expects after these steps."""
    rule = {
        "batch": oracles.weighted_average,
        "ema": oracles.exponential_average,
    }[mode]
    return rule(history, momentum)


def assert_close(got: Any, expected: Any, rtol: float) -> None:
    """Compares trees leaf by leaf, relative to the size of the expected leaf."""
    got, expected = jax.tree.leaves(got), jax.tree.leaves(expected)
    for a, b in zip(got, expected, strict=True):
        a, b = oracles.to_float64(a), oracles.to_float64(b)
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * np.abs(b).max())


@pytest.mark.parametrize("shape", SHAPES, ids=len)
@pytest.mark.parametrize("mode", MODES)
def test_training_matches_the_formula(mode, shape):
    """Outputs and averages of each step equal the float64 formula to its rounding."""
    with x64():
        norm, state = build(mode=mode, momentum=0.7, eps=0.1)
        history = []
        for step in range(4):
            xs = draw(shape, step)
            ys, state = call(norm, xs, state)
            now = oracles.batch_moments(xs)
            history.append(now)
            expected = average(mode, history, 0.7)
            used = now if mode == "batch" else expected
            affine = (norm.weight, norm.bias)
            assert_close(ys, oracles.batch_norm(xs, used, 0.1, *affine), 1e-12)
            assert_close(stored(norm, state), expected, 1e-12)
            assert ys.dtype == stored(norm, state).variance.dtype == jnp.float64


@pytest.mark.parametrize("shape", SHAPES[::2], ids=len)
@pytest.mark.parametrize("mode", MODES)
def test_inference_matches_the_formula(mode, shape):
    """Inference normalizes by the averages, leaves the state, and needs no axis."""
    norm, state = build(mode=mode, momentum=0.5)
    history = [oracles.batch_moments(draw(shape, step)) for step in range(3)]
    for step in range(3):
        _, state = call(norm, draw(shape, step), state)
    xs = draw(shape, 9)
    expected = average(mode, history, 0.5)
    expected = oracles.batch_norm(xs, expected, 1e-5, norm.weight, norm.bias)
    inference = vn.nn.inference_mode(norm)
    ys, after = jax.vmap(inference, in_axes=(0, None), out_axes=(0, None))(xs, state)
    assert_close(ys, expected, 1e-6)
    assert vn.tree_equal(after, state)
    ys, _ = call(norm, xs, state, inference=True)  # overrides the field
    assert_close(ys, expected, 1e-6)
    _, after = call(inference, xs, state, inference=False)
    assert not vn.tree_equal(stored(norm, after), stored(norm, state))


@pytest.mark.parametrize("mode", MODES)
def test_before_any_step_inference_is_the_identity(mode):
    """Without a step the averages are 0 and 1: the output is the input up to eps."""
    norm, state = make_with_state(BatchNorm)(3, "batch", mode=mode)
    xs = draw((5, 3, 4))
    ys, _ = call(norm, xs, state, inference=True)
    assert_close(ys, oracles.to_float64(xs) / np.sqrt(1 + 1e-5), 1e-6)


@pytest.mark.parametrize(
    "i, unbiased", [*((i, False) for i in range(len(CASES))), (0, True), (2, True)]
)
def test_torch(i, unbiased):
    """Outputs, gradients and (converted) averages equal PyTorch's over three steps.

    With ``unbiased=True`` the variance needs no conversion but that of its start.
    """
    case = CASES[i]
    arrays = {k[2:]: v for k, v in FIXTURE.items() if k.startswith(f"{i}.")}
    torch_momentum, shape = case["momentum"], case["shape"]
    momentum = 1 if torch_momentum is None else 1 - torch_momentum
    count = int(np.prod(shape)) // shape[1]
    affine = case.get("affine", True)
    options = {"eps": case["eps"], "momentum": momentum, "channelwise_affine": affine}
    options |= {"unbiased": unbiased}
    with x64():
        norm, state = make_with_state(BatchNorm)(shape[1], "batch", **options)
        params = (arrays["weight"], arrays["bias"]) if affine else ()
        if affine:
            norm = vn.tree_at(lambda m: (m.weight, m.bias), norm, params)

        def loss(xs: Any, norm: Any, state: Any, cotangents: Any) -> Any:
            ys, state = call(norm, xs, state)
            return jnp.sum(ys * cotangents), (ys, state)

        grad = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
        for step in range(3):
            xs, cotangents = arrays[f"{step}.x"], arrays[f"{step}.cotangent"]
            grads, (ys, state) = grad(xs, norm, state, cotangents)
            assert_close(ys, arrays[f"{step}.y"], 1e-12)
            names = ["x", "weight", "bias"][: 3 if affine else 1]
            wanted = [arrays[f"{step}.{name}_grad"] for name in names]
            assert_close(grads, wanted, 1e-12)
            got = stored(norm, state)
            if unbiased:  # the conversion is from the biased one
                got = got._replace(variance=got.variance * (count - 1) / count)
            got = oracles.torch_running(got, step + 1, count, torch_momentum)
            assert_close(got, [arrays[f"{step}.{k}"] for k in got._fields], 1e-12)

        running = (jnp.asarray(arrays["2.mean"]), jnp.asarray(arrays["2.variance"]))
        state = state.set(norm.batch_state_index, running)
        ys, _ = call(norm, xs, state, inference=True)
        assert_close(ys, arrays["y_inference"], 1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=len)
def test_gradients_match_the_formula(shape):
    """Gradients by input, weight and bias equal the closed form, in float32 too."""
    norm, state = build(eps=0.1)
    xs, cotangents = draw(shape), draw(shape, 5)

    def loss(xs: Any, norm: Any) -> Any:
        return jnp.sum(call(norm, xs, state)[0] * cotangents)

    xs_grad, norm_grad = jax.grad(loss, argnums=(0, 1))(xs, norm)
    got = (xs_grad, norm_grad.weight, norm_grad.bias)
    expected = oracles.batch_norm_gradients(xs, cotangents, norm.weight, 0.1)
    assert_close(got, tuple(expected), 1e-5)


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_gradients_match_finite_differences(mode, inference):
    """Forward and reverse derivatives are those of the outputs, also after steps."""
    with x64():
        norm, state = build(mode=mode, momentum=0.6, eps=0.1)
        _, state = call(norm, draw((5, 3, 2), 1), state)

        def outputs(xs: Any, norm: Any) -> Any:
            return call(norm, xs, state, inference=inference)[0]

        check_grads(outputs, (draw((5, 3, 2)), norm), 1, rtol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_what_is_stored_has_no_gradient(mode):
    """The new state depends on data, parameters and old state without derivative."""
    norm, state = build(mode=mode)
    xs = draw((5, 3, 4))
    _, state = call(norm, xs, state)
    old = stored(norm, state)

    def new(xs: Any, norm: Any, old: Any) -> Any:
        index = norm.ema_state_index if mode == "ema" else norm.batch_state_index
        _, after = call(norm, xs, state.substate(norm).set(index, tuple(old)))
        return stored(norm, after)

    args = (xs, norm, old)
    values, tangents = jax.jit(lambda *args: jax.jvp(new, args, args))(*args)
    assert not any(np.any(x) for x in jax.tree.leaves(tangents))
    gradients = jax.jit(lambda *args: jax.vjp(new, *args)[1](values))(*args)
    assert not any(np.any(x) for x in jax.tree.leaves(gradients))
    # Nothing is kept for a backward pass either.
    residuals = jax.make_jaxpr(lambda *args: jax.vjp(new, *args)[1])(*args)
    assert residuals.out_avals == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("momentum", MOMENTA)
def test_exact_on_a_fixed_batch(momentum, mode):
    """After 1, 2, 10 and 1,000 steps the averages are the batch's, to rounding.

    Small variances too: they do not drown in the rounding of the initial 1.
    """
    norm, state = build(momentum=momentum, mode=mode)
    xs = draw((16, 3)) * jnp.array([[1e-4, 1.0, 1e4]])
    expected = oracles.batch_moments(xs)
    step = jax.jit(lambda state: call(norm, xs, state)[1])
    for i in range(1000):
        state = step(state)
        if i + 1 in (1, 2, 10, 1000):
            for got, wanted in zip(stored(norm, state), expected, strict=True):
                np.testing.assert_allclose(got, wanted, rtol=5e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("momentum", MOMENTA)
def test_averages_over_varying_batches(momentum, mode):
    """At each of 50 steps the averages are the weighted mean of all batches so far."""
    norm, state = build(momentum=momentum, mode=mode)
    batches = jnp.stack([draw((8, 3), step) for step in range(50)])

    def body(state: Any, xs: Any) -> Any:
        _, state = call(norm, xs, state)
        return state, stored(norm, state)

    _, got = jax.jit(lambda state: jax.lax.scan(body, state, batches))(state)
    history = [oracles.batch_moments(xs) for xs in batches]
    for i in range(50):
        expected = average(mode, history[: i + 1], momentum)
        assert_close([got.mean[i], got.variance[i]], expected, 1e-5)


def test_the_default_mode_is_batch():
    """No mode, "legacy" and "batch" are the same layer, and none of them warns."""
    modes = [{}, {"mode": "legacy"}, {"mode": "batch"}]
    made = [make_with_state(BatchNorm)(3, "batch", **kwargs) for kwargs in modes]
    assert all(vn.tree_equal(made[0], other) for other in made[1:])
    assert {norm.mode for norm, _ in made} == {"batch"}
    ema, _ = make_with_state(BatchNorm)(3, "batch", mode="ema")
    assert ema.batch_state_index is None and made[0][0].ema_state_index is None


def test_without_affine_there_are_no_parameters():
    """The output is the plain normalized batch, and the layer has no leaves."""
    norm, state = make_with_state(BatchNorm)(3, "batch", channelwise_affine=False)
    assert norm.weight is None and norm.bias is None and not jax.tree.leaves(norm)
    xs = draw((8, 3))
    ys, _ = call(norm, xs, state)
    assert_close(ys, oracles.batch_norm(xs, oracles.batch_moments(xs)), 1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_ensembles(mode):
    """An ensemble, by vmap over model and state, equals its members one by one."""
    made = [build(mode=mode) for _ in range(3)]
    for i, (norm, state) in enumerate(made):
        made[i] = jax.tree.map(lambda p, i=i: (1.0 + i) * p, norm), state
    norms, states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *made)
    for step in range(2):
        batches = jnp.stack([draw((6, 3, 2), 3 * step + i) for i in range(3)])
        ys, states = jax.vmap(call)(norms, batches, states)
        for i, (norm, state) in enumerate(made):
            y, state = call(norm, batches[i], state)
            made[i] = (norm, state)
            assert_close(ys[i], y, 1e-6)
            assert_close(jax.tree.map(lambda a, i=i: a[i], states), state, 1e-6)


def test_a_training_loop_compiles_once():
    """The state that comes back has the types of the state that went in."""
    norm, state = build()
    traces = 0

    @jax.jit
    def step(norm: Any, xs: Any, state: Any) -> Any:
        nonlocal traces
        traces += 1

        def loss(norm: Any) -> Any:
            ys, new = call(norm, xs, state)
            return jnp.sum(ys), new

        grads, state = jax.grad(loss, has_aux=True)(norm)
        return jax.tree.map(lambda p, g: p - 0.1 * g, norm, grads), state

    for i in range(4):
        norm, state = step(norm, draw((6, 3), i), state)
    assert traces == 1


def test_half_precision_parameters_keep_float32_averages():
    """With dtype=bfloat16 only weight and bias are bfloat16."""
    norm, state = build(dtype=jnp.bfloat16)
    assert norm.weight.dtype == norm.bias.dtype == jnp.bfloat16
    xs = draw((8, 3)).astype(jnp.bfloat16)
    ys, state = call(norm, xs, state)
    assert ys.dtype == jnp.bfloat16
    assert {x.dtype for x in stored(norm, state)} == {jnp.dtype(jnp.float32)}
    assert_close(stored(norm, state), oracles.batch_moments(xs), 1e-6)


# The operations but those that stack arrays, in which versions of JAX differ: of the
# forward pass, and of it with the gradient.
OPERATIONS = {"batch": (95, 121), "ema": (90, 126)}
STACKING = {
    "broadcast_in_dim",
    "concatenate",
    "jit",
    "pjit",
    "reduce_sum",
    "stack",
    "transpose",
}


def count_operations(jaxpr: Any) -> int:
    total = 0
    for eqn in jaxpr.eqns:
        total += eqn.primitive.name not in STACKING
        inner = jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        )
        parts = [x for x in inner if hasattr(x, "eqns")]
        total += sum(count_operations(getattr(x, "jaxpr", x)) for x in parts)
    return total


@pytest.mark.parametrize("mode", MODES)
def test_options_cost_nothing_unless_used(mode):
    """The plain layer has as many operations as before it knew any of its options."""
    norm, state = make_with_state(BatchNorm)(3, "batch", mode=mode)

    def forward(norm: Any, xs: Any, state: Any) -> Any:
        axes: Any = {"in_axes": (0, None), "out_axes": (0, None)}
        return jax.vmap(norm, axis_name="batch", **axes)(xs, state)

    def loss(norm: Any, xs: Any, state: Any) -> Any:
        return jnp.sum(forward(norm, xs, state)[0])

    args = (norm, jnp.ones((4, 3)), state)
    jaxprs = [jax.make_jaxpr(f)(*args) for f in (forward, jax.grad(loss, (0, 1)))]
    assert tuple(count_operations(x.jaxpr) for x in jaxprs) == OPERATIONS[mode]
