"""SpectralNorm beside the SVD, a float64 power iteration, and PyTorch."""

import copy
import functools
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.test_util import check_grads

import vernal as vn
from tests import oracles
from tests.world import x64
from vernal.errors import HyperparameterError, InputError
from vernal.nn import Conv2d, Linear, SpectralNorm, make_with_state

# Written by scripts/make_torch_fixtures/spectral_norm.py.
FIXTURE = np.load(pathlib.Path(__file__).parents[1] / "fixtures" / "spectral_norm.npz")
CASES = json.loads(str(FIXTURE["cases"]))
SHAPES = [(4, 6), (6, 4), (5, 1), (1, 5), (3, 2, 4), (4, 3, 2, 2)]
HALVES = [jnp.float16, jnp.bfloat16]


class Weight(vn.Module):
    """A layer of which the output is the weight, times the input."""

    weight: Any

    def __call__(self, x: Any) -> Any:
        return self.weight * x


@functools.partial(jax.jit, static_argnames="inference")
def call(layer: Any, x: Any, state: Any, inference: bool | None = None) -> Any:
    return layer(x, state, inference=inference)


def normal(shape: tuple[int, ...], seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape)


def build(weight: Any, dtype: Any = float, **kwargs: Any) -> Any:
    """A normalized :class:`Weight`, its state, and an input of 1."""
    inner = Weight(jnp.asarray(weight, dtype))
    options = {"weight_name": "weight", "key": jr.key(1), **kwargs}
    layer, state = make_with_state(SpectralNorm)(inner, **options)
    return layer, state, jnp.ones((), inner.weight.dtype)


def with_vectors(layer: Any, state: Any, u: Any, v: Any) -> Any:
    """The state with other vectors u and v."""
    old, _ = state.get(layer.uv_index)
    new = (jnp.asarray(u, old.dtype), jnp.asarray(v, old.dtype))
    return state.set(layer.uv_index, new)


def assert_close(got: Any, expected: Any, rtol: float) -> None:
    """Compares trees leaf by leaf, relative to the size of the expected leaf."""
    got, expected = jax.tree.leaves(got), jax.tree.leaves(expected)
    for a, b in zip(got, expected, strict=True):
        a, b = oracles.to_float64(a), oracles.to_float64(b)
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * np.abs(b).max())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_converges_to_the_largest_singular_value(shape):
    """Over many calls σ becomes the SVD's, so that the normalized weight has norm 1."""
    layer, state, x = build(10 * normal(shape))
    step = lambda _, state: layer(x, state)[1]  # noqa: E731
    state = jax.jit(lambda state: jax.lax.fori_loop(0, 300, step, state))(state)
    normalized, state = call(layer, x, state)
    weight = oracles.to_float64(layer.layer.weight)
    assert_close(normalized, weight / oracles.spectral_norm(weight), 1e-5)
    np.testing.assert_allclose(oracles.spectral_norm(normalized), 1, rtol=1e-5)
    u, v = (oracles.to_float64(a) for a in state.get(layer.uv_index))
    assert u.shape == (shape[0],) and v.shape == (np.prod(shape[1:]),)
    np.testing.assert_allclose([u @ u, v @ v], 1, rtol=1e-5)


def test_is_converged_when_built():
    """Fifteen iterations at construction make σ right before the first call."""
    orthogonal, _ = np.linalg.qr(normal((4, 4)))
    layer, state, x = build(orthogonal @ np.diag([5.0, 2.0, 2.0, 1.0]))
    normalized, _ = call(layer, x, state, inference=True)
    np.testing.assert_allclose(oracles.spectral_norm(normalized), 1, rtol=1e-5)


@pytest.mark.parametrize("iterations", [0, 1, 3])
@pytest.mark.parametrize("shape", SHAPES[::2], ids=str)
def test_iterations_match_the_formula(shape, iterations):
    """A training call takes that many steps of the power iteration, v before u."""
    layer, state, x = build(normal(shape), num_power_iterations=iterations)
    weight = layer.layer.weight
    u, v = normal((shape[0],), 1), normal((int(np.prod(shape[1:])),), 2)
    u, v = u / np.linalg.norm(u), v / np.linalg.norm(v)
    normalized, state = call(layer, x, with_vectors(layer, state, u, v))
    u, v = oracles.power_iteration(weight, u, v, iterations)
    assert_close(state.get(layer.uv_index), (u, v), 1e-5)
    assert_close(normalized, oracles.spectral_normalize(weight, u, v), 1e-5)


@pytest.mark.parametrize("i", range(len(CASES)), ids=lambda i: str(CASES[i]["shape"]))
def test_torch(i):
    """Outputs, vectors and gradients equal PyTorch's in training and in inference."""
    arrays = {k[2:]: v for k, v in FIXTURE.items() if k.startswith(f"{i}.")}
    weight, x, cotangent = arrays["weight"], arrays["x"], arrays["cotangent"]
    with x64():
        if weight.ndim == 2:
            inner: Any = Linear(*weight.shape[::-1], use_bias=False, key=jr.key(0))
        else:
            rows, columns = weight.shape[:2]
            inner = Conv2d(columns, rows, 3, use_bias=False, key=jr.key(0))
            x, cotangent = x[0], cotangent[0]
        inner = vn.tree_at(lambda m: m.weight, inner, jnp.asarray(weight))
        iterations = CASES[i]["iterations"]
        layer, state = make_with_state(SpectralNorm)(
            inner, "weight", iterations, key=jr.key(1)
        )
        state = with_vectors(layer, state, arrays["u"], arrays["v"])

        def loss(layer: Any, state: Any, inference: bool) -> Any:
            y, new = layer(jnp.asarray(x), state, inference=inference)
            return jnp.sum(y * cotangent), (y, new)

        def check(name: str, state: Any) -> Any:
            step = jax.grad(loss, has_aux=True)
            grads, (y, state) = step(layer, state, name == "inference")
            expected = arrays[f"{name}.y"].reshape(y.shape)
            assert_close(y, expected, 1e-12)
            assert_close(grads.layer.weight, arrays[f"{name}.grad"], 1e-12)
            return state

        check("inference", state)
        for step in range(2):
            state = check(f"{step}", state)
            expected = (arrays[f"{step}.u"], arrays[f"{step}.v"])
            assert_close(state.get(layer.uv_index), expected, 1e-12)


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("shape", SHAPES[1::2], ids=str)
def test_gradient_matches_the_formula(shape, inference):
    """The gradient takes u and v as constants: those after the iteration."""
    layer, state, x = build(normal(shape))
    cotangent = jnp.asarray(normal(shape, 5), float)

    def loss(layer: Any, state: Any) -> Any:
        normalized, new = call(layer, x, state, inference)
        return jnp.sum(normalized * cotangent), new

    grads, new = jax.grad(loss, has_aux=True)(layer, state)
    u, v = new.get(layer.uv_index)
    weight = layer.layer.weight
    expected = oracles.spectral_normalize_gradient(weight, u, v, cotangent)
    assert_close(grads.layer.weight, expected, 2e-5)


def test_gradients_match_finite_differences():
    """In inference, where u and v are fixed, both modes of differentiation agree."""
    with x64():
        layer, state, x = build(normal((4, 3, 2)))
        check_grads(lambda m: call(m, x, state, True)[0], (layer,), 1, rtol=1e-5)


def test_the_vectors_have_no_gradient():
    """Neither the new u and v nor the output depend on the old ones by derivative."""
    layer, state, x = build(normal((4, 3)))
    vectors = state.get(layer.uv_index)

    def step(layer: Any, vectors: Any) -> Any:
        y, new = layer(x, state.substate(layer).set(layer.uv_index, vectors))
        return y, new.get(layer.uv_index)

    tangents = (jax.tree.map(jnp.ones_like, (layer, vectors)),)
    push = jax.jit(lambda a, b: jax.jvp(lambda ab: step(*ab), ((a, b),), tangents)[1])
    of_output, of_vectors = push(layer, vectors)
    assert np.any(of_output) and not any(np.any(a) for a in of_vectors)
    pull = jax.jit(jax.grad(lambda vectors: jnp.sum(step(layer, vectors)[0])))
    assert not any(np.any(a) for a in pull(vectors))


@pytest.mark.parametrize("change", [
    {"num_power_iterations": 0}, {"inference": True}])  # fmt: skip
def test_inference_leaves_the_vectors(change):
    """In inference, and with no iterations, the state comes back bit for bit."""
    layer, state, x = build(normal((4, 3)), **change)
    state = with_vectors(layer, state, [0, 0.6, 0, 0.8], [1, 0, 0])
    normalized, after = call(layer, x, state)
    assert vn.tree_equal(after, state)
    expected = oracles.spectral_normalize(
        layer.layer.weight, *state.get(layer.uv_index)
    )
    assert_close(normalized, expected, 1e-6)
    if layer.inference:
        _, after = call(vn.nn.inference_mode(layer, False), x, state)
        assert not vn.tree_equal(after, state)


@pytest.mark.parametrize("dtype", [jnp.float32, *HALVES])
@pytest.mark.parametrize("eps", [1e-12, 0])
def test_a_zero_weight(eps, dtype):
    """It gives zeros and a finite gradient, and works when it is zero no longer."""
    layer, state, x = build(np.zeros((4, 3)), dtype, eps=eps)

    def loss(layer: Any, state: Any) -> Any:
        normalized, state = call(layer, x, state)
        return jnp.sum(normalized), (normalized, state)

    for _ in range(2):
        grads, (normalized, state) = jax.grad(loss, has_aux=True)(layer, state)
        np.testing.assert_array_equal(oracles.to_float64(normalized), 0)
        assert np.all(np.isfinite(oracles.to_float64(grads.layer.weight)))
    weight = jnp.asarray(np.outer([1, 2, 0, 2], [2, -1, 2]), dtype)
    layer = vn.tree_at(lambda m: m.layer.weight, layer, weight)
    normalized, _ = call(layer, x, state)
    assert_close(normalized, oracles.to_float64(weight) / 9, 5e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_a_bad_weight_leaves_the_vectors(bad):
    """NaN, inf or overflow in one step does not spoil u and v for the next."""
    layer, state, x = build(normal((4, 3)))
    broken = vn.tree_at(lambda m: m.layer.weight, layer, jnp.full((4, 3), bad))
    _, after = call(broken, x, state)
    assert vn.tree_equal(after, state)
    normalized, _ = call(layer, x, after)
    assert np.all(np.isfinite(normalized))


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision(dtype):
    """Vectors and σ are float32; the weight is rounded once, and never overflows."""
    layer, state, x = build(300 * normal((4, 512)), dtype)
    normalized, state = call(layer, x, state)
    u, v = state.get(layer.uv_index)
    assert u.dtype == v.dtype == jnp.float32 and normalized.dtype == dtype
    weight = oracles.to_float64(layer.layer.weight)
    assert_close((u, v), oracles.power_iteration(weight, u, v, 0), 1e-6)
    expected = oracles.spectral_normalize(weight, u, v)
    got, eps = oracles.to_float64(normalized), float(jnp.finfo(dtype).eps)
    assert np.all(np.abs(got - expected) <= np.abs(expected) * eps * 0.51 + 1e-7)
    np.testing.assert_allclose([u @ u, v @ v], 1, rtol=1e-5)


def dots(jaxpr: Any) -> Any:
    """All matrix products in a jaxpr and those inside of it."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            yield eqn
        is_jaxpr = lambda x: hasattr(x, "eqns")  # noqa: E731
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=is_jaxpr):
            if is_jaxpr(inner):
                yield from dots(getattr(inner, "jaxpr", inner))


def test_products_are_not_rounded_on_accelerators():
    """All matrix products are float32 at highest precision, as TPUs need to be told."""
    layer, state, x = build(normal((4, 3)), jnp.bfloat16, num_power_iterations=2)
    found = list(dots(jax.make_jaxpr(layer)(x, state).jaxpr))
    assert len(found) >= 4
    for eqn in found:
        assert eqn.params["precision"] == (jax.lax.Precision.HIGHEST,) * 2
        assert all(x.aval.dtype == jnp.float32 for x in (*eqn.invars, *eqn.outvars))


def test_the_weight_of_the_layer_is_never_written():
    """After training calls the wrapped layer still has the very same weight."""
    layer, state, x = build(normal((4, 3)))
    weight, copy = layer.layer.weight, np.array(layer.layer.weight)
    for _ in range(5):
        _, state = layer(x, state)
    assert layer.layer.weight is weight
    np.testing.assert_array_equal(weight, copy)


LAYERS = {
    "Linear": (lambda key: Linear(3, 4, key=key), (3,)),
    "Conv2d": (lambda key: Conv2d(2, 3, 3, key=key), (2, 5, 4)),
}


@pytest.mark.parametrize("make, shape", LAYERS.values(), ids=LAYERS)
def test_batches_and_scanned_steps(make, shape):
    """Under vmap with one state, and scanned with gradients, it is as one by one."""
    layer, state = make_with_state(SpectralNorm)(
        make(jr.key(0)), "weight", key=jr.key(1)
    )
    xs = jnp.asarray(normal((3, 4, *shape)), float)  # steps, examples, ...

    def loss(layer: Any, xs: Any, state: Any) -> Any:
        ys, state = jax.vmap(layer, (0, None), (0, None))(xs, state)
        return jnp.mean(ys**2), (ys, state)

    def body(carry: Any, xs: Any) -> Any:
        layer, state = carry
        grads, (ys, state) = jax.grad(loss, has_aux=True)(layer, xs, state)
        layer = jax.tree.map(lambda p, g: p - 0.1 * g, layer, grads)
        return (layer, state), ys

    (trained, after), ys = jax.jit(lambda c: jax.lax.scan(body, c, xs))((layer, state))
    for batch, expected in zip(xs, ys, strict=True):
        for x, y in zip(batch, expected, strict=True):
            got, new = layer(x, copy.copy(state))
            assert_close(got, y, 1e-5)
        (layer, state), _ = body((layer, state), batch)
        assert_close(new, state, 1e-6)
    assert_close((trained, after), (layer, state), 1e-5)


def test_ensembles():
    """Built and called under vmap, each member equals one that is built alone."""
    make = lambda key: SpectralNorm(Linear(3, 4, key=key), "weight", key=key)  # noqa: E731
    keys = jr.split(jr.key(0), 3)
    layers, states = make_with_state(vn.filter_vmap(make))(keys)
    x = jnp.arange(3.0)
    ys, _ = vn.filter_vmap(
        lambda m, s: m(x, s), in_axes=(vn.if_array(0), vn.if_array(0))
    )(layers, states)
    for key, y in zip(keys, ys, strict=True):
        layer, state = make_with_state(make)(key)
        assert_close(layer(x, state)[0], y, 1e-5)


BAD_ARGUMENTS = [
    ("layer", "Linear"),
    ("weight_name", "wieght"),
    ("weight_name", "bias"),
    ("weight_name", "in_features"),
    ("weight_name", None),
    ("num_power_iterations", -1),
    ("num_power_iterations", True),
    ("num_power_iterations", 1.0),
    ("eps", -1.0),
    ("eps", float("nan")),
    ("eps", "1e-12"),
]


@pytest.mark.parametrize("name, value", BAD_ARGUMENTS, ids=str)
def test_bad_arguments(name, value):
    """Refused when the layer is built; the message names argument and value."""
    linear = Linear(3, 4, key=jr.key(0))
    arguments = {"layer": linear, "weight_name": "weight", name: value}
    with pytest.raises(HyperparameterError) as caught:
        SpectralNorm(**arguments, key=jr.key(1))
    message = str(caught.value)
    assert f"SpectralNorm: bad argument `{name}`." in message
    assert len(message.splitlines()) <= 6


@pytest.mark.parametrize("weight", [jnp.ones(3), jnp.ones((3, 3), jnp.complex64)])
def test_a_weight_that_is_no_real_matrix(weight):
    """A vector, or complex numbers, cannot be normalized; the message says what can."""
    with pytest.raises(HyperparameterError, match="of Weight, a real array with ≥ 2"):
        SpectralNorm(Weight(weight), "weight", key=jr.key(0))


def test_a_call_without_a_state():
    """The message names the layer and what was passed for the state."""
    layer, _, x = build(normal((4, 3)))
    with pytest.raises(InputError, match="SpectralNorm: the second argument is not"):
        layer(x, None)
