"""SpectralNorm with `input_shape`, beside the SVD of the layer as a dense matrix."""

import copy
import functools
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec as P

import vernal as vn
from tests import oracles
from tests.world import x64
from vernal import nn
from vernal.errors import HyperparameterError


def conv(kind: Any, *args: Any, **options: Any) -> Any:
    return lambda **more: kind(*args, **options, **more)


def padded(mode: str, *args: Any) -> Any:
    return conv(nn.Conv2d, *args, padding_mode=mode)


TRANSPOSED = {"padding": "SAME", "padding_mode": "CIRCULAR"}
CASES = {
    "linear": (conv(nn.Linear, 5, 4), (5,)),
    "scalar": (conv(nn.Linear, "scalar", 4), ()),
    "dilation": (conv(nn.Conv1d, 2, 3, 3, 2, dilation=2), (2, 13)),
    "zeros": (conv(nn.Conv2d, 2, 3, 3, padding=1), (2, 6, 5)),
    "reflect": (padded("REFLECT", 2, 2, 3, 1, 2), (2, 5, 4)),
    "replicate": (padded("REPLICATE", 1, 3, 3, 2, 1), (1, 6, 6)),
    "circular": (padded("CIRCULAR", 2, 2, 3, 1, "SAME"), (2, 5, 4)),
    "groups": (conv(nn.Conv2d, 4, 6, (3, 1), groups=2), (4, 4, 3)),
    "three axes": (conv(nn.Conv3d, 1, 2, 2, padding=1), (1, 3, 3, 3)),
    "transposed": (conv(nn.ConvTranspose2d, 2, 3, 3, 2, padding=1), (2, 4, 3)),
    "transposed, circular": (conv(nn.ConvTranspose1d, 2, 3, 3, **TRANSPOSED), (2, 8)),
}
every_case = pytest.mark.parametrize("make, shape", CASES.values(), ids=CASES)


@jax.jit
def call(layer: Any, x: Any, state: Any) -> Any:
    return layer(x, state)


def build(make: Any, shape: Any, dtype: Any = jnp.float32, **kwargs: Any) -> Any:
    """A normalized layer and its state."""
    inner = make(dtype=dtype, key=jr.key(0))
    options = {"input_shape": shape, "key": jr.key(1), **kwargs}
    return nn.make_with_state(nn.SpectralNorm)(inner, "weight", **options)


def dense(layer: Any, shape: Any) -> np.ndarray:
    """The layer's linear map as a matrix in float64, a column for each basis vector."""
    with x64():
        layer = jax.tree.map(lambda a: np.asarray(a, np.float64), layer)
        basis = np.eye(int(np.prod(shape))).reshape(-1, *shape)
        rows = np.asarray(jax.vmap(layer)(np.append(basis, 0 * basis[:1], 0)))
        return (rows[:-1] - rows[-1:]).reshape(len(basis), -1).T


def norm(layer: Any, shape: Any) -> float:
    """The largest singular value of the layer's linear map."""
    return float(np.linalg.svd(dense(layer, shape), compute_uv=False)[0])


@pytest.mark.parametrize("case", ["linear", "dilation", "replicate", "three axes"])
def test_the_operator_norm_is_one(case):
    """Within 1 % from the first call on, and within rounding once it has converged."""
    make, shape = CASES[case]
    layer, state = build(make, shape, num_power_iterations=300)
    np.testing.assert_allclose(norm(layer.normalized(state), shape), 1, rtol=1e-2)
    y, state = call(layer, jnp.ones(shape), state)
    normalized = layer.normalized(state)
    np.testing.assert_allclose(norm(normalized, shape), 1, rtol=2e-4)
    np.testing.assert_allclose(y, normalized(jnp.ones(shape)), rtol=1e-5)
    assert float(state.get(layer.change_index)) < 1e-4


@every_case
def test_iteration_and_gradient(make, shape):
    """u, v, σ, the change and the gradient are those of the formulas in float64."""
    with x64():
        layer, state = build(make, shape, jnp.float64)
        weight = np.asarray(layer.layer.weight)
        u, v = (
            np.random.default_rng(i).normal(size=a.shape)
            for i, a in enumerate(state.get(layer.uv_index))
        )
        u, v = u / np.linalg.norm(u), v / np.linalg.norm(v)
        state = state.set(layer.uv_index, (jnp.asarray(u), jnp.asarray(v)))
        x = np.random.default_rng(2).normal(size=shape)
        cotangent = np.random.default_rng(3).normal(size=layer.layer(x).shape)

        def loss(layer: Any, state: Any) -> Any:
            y, state = layer(jnp.asarray(x), state)
            return jnp.sum(y * cotangent), (layer.normalized(state), state)

        step = jax.jit(jax.grad(loss, has_aux=True))
        grads, (normalized, state) = step(layer, state)

    matrix = dense(layer.layer, shape)
    back = matrix.T @ u.ravel()
    new_v = back / np.linalg.norm(back)
    sigma = np.linalg.norm(matrix @ new_v)
    new_u = matrix @ new_v / sigma
    got_u, got_v = state.get(layer.uv_index)
    np.testing.assert_allclose(np.ravel(got_u), new_u, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(np.ravel(got_v), new_v, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(normalized.weight, weight / sigma, rtol=1e-9)
    change = 1 - np.linalg.norm(back) / sigma
    np.testing.assert_allclose(state.get(layer.change_index), change, rtol=1e-7)

    # Output and σ are linear in the weight: their derivatives by an entry are what they
    # are for a weight that is 1 there and 0 elsewhere. u and v are held fixed.
    def slope(i: int) -> float:
        unit = np.zeros(weight.size)
        unit[i] = 1
        entry = vn.tree_at(lambda m: m.weight, layer.layer, unit.reshape(weight.shape))
        entry = dense(entry, shape)
        of_sigma = new_u @ entry @ new_v
        of_output = cotangent.ravel() @ entry @ x.ravel()
        return of_output / sigma - product / sigma**2 * of_sigma

    product = cotangent.ravel() @ matrix @ x.ravel()
    some = range(0, weight.size, max(1, weight.size // 6))
    got = np.asarray(grads.layer.weight).ravel()[list(some)]
    np.testing.assert_allclose(got, list(map(slope, some)), rtol=1e-8, atol=1e-10)


@pytest.fixture(scope="module")
def trained() -> Any:
    """The second 3x3 convolution of a small network that has learned digits."""
    datasets = pytest.importorskip("sklearn.datasets")
    images, labels = datasets.load_digits(return_X_y=True)
    images = jnp.asarray(images.reshape(-1, 1, 8, 8) / 16, jnp.float32)
    labels = jnp.asarray(labels)

    def make(key: Any) -> Any:
        a, b, c = jr.split(key, 3)
        convs = [nn.Conv2d(1, 8, 3, padding=1, key=a), jax.nn.relu]
        convs += [nn.Conv2d(8, 8, 3, padding=1, key=b), jax.nn.relu, jnp.ravel]
        return nn.Sequential([*convs, nn.Linear(512, 10, key=c)])

    model = make(jr.key(0))
    optimizer = optax.adam(3e-3)

    @jax.jit
    def step(model: Any, opt_state: Any, xs: Any, ys: Any) -> Any:
        def loss(model: Any) -> Any:
            logits = jax.vmap(model)(xs)
            hits = jnp.mean(jnp.argmax(logits, 1) == ys)
            chosen = jax.nn.one_hot(ys, 10) * jax.nn.log_softmax(logits)
            return -jnp.mean(jnp.sum(chosen, 1)), hits

        grads, hits = jax.grad(loss, has_aux=True)(model)
        updates, opt_state = optimizer.update(grads, opt_state, model)
        return vn.apply_updates(model, updates), opt_state, hits

    opt_state = optimizer.init(model)
    with jax.numpy_dtype_promotion("standard"):  # for optax
        for i in range(84):
            rows = slice(64 * i % 1728, 64 * i % 1728 + 64)
            model, opt_state, hits = step(model, opt_state, images[rows], labels[rows])
    assert hits > 0.85  # it has learned
    return model.layers[2]


def test_a_trained_convolution(trained):
    """Its operator norm becomes 1 within 1 %; the usual way is off by a third."""
    shape, make = (8, 8, 8), nn.make_with_state(nn.SpectralNorm)
    usual, usual_state = make(trained, "weight", key=jr.key(1))
    layer, state = make(trained, "weight", input_shape=shape, key=jr.key(1))
    off = norm(usual.normalized(usual_state), shape)
    print(
        f"operator norm: {norm(layer.normalized(state), shape):.4f}, usual: {off:.4f}"
    )
    np.testing.assert_allclose(norm(layer.normalized(state), shape), 1, rtol=1e-2)
    assert abs(off - 1) > 0.2


def test_a_zero_weight():
    """It stays zeros with finite gradients, and the vectors stay as they were."""
    layer, state = build(*CASES["zeros"])
    zero = vn.tree_at(lambda m: m.layer.weight, layer, jnp.zeros((3, 2, 3, 3)))

    def loss(layer: Any, state: Any) -> Any:
        y, state = layer(jnp.ones((2, 6, 5)), state)
        return jnp.sum(y), state

    before = copy.copy(state).get(layer.uv_index)
    grads, state = jax.jit(jax.grad(loss, has_aux=True))(zero, state)
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))
    assert vn.tree_equal(state.get(layer.uv_index), before)
    assert float(state.get(layer.change_index)) == 1
    _, state = call(layer, jnp.ones((2, 6, 5)), state)
    assert float(state.get(layer.change_index)) < 1e-2


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision(dtype):
    """All of it is float32 but for the weight, which is rounded once."""
    make, shape = CASES["zeros"]
    layer, state = build(make, shape, dtype)
    layer = vn.tree_at(lambda m: m.layer.weight, layer, 300 * layer.layer.weight)
    x = jnp.ones(shape, dtype)
    y, state = call(layer, x, state)
    assert y.dtype == dtype
    assert {a.dtype for a in jax.tree.leaves(state)} == {jnp.dtype("float32")}
    normalized = layer.normalized(state)
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(norm(normalized, shape), 1, rtol=1e-2 + eps)


def precisions(jaxpr: Any) -> Any:
    """The precision of every product in a jaxpr and those inside of it."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in ("dot_general", "conv_general_dilated"):
            yield eqn.params["precision"]
        for inner in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            if hasattr(inner, "eqns"):
                yield from precisions(getattr(inner, "jaxpr", inner))


def test_products_are_not_rounded_on_accelerators():
    """All products but that of the layer itself ask for the highest precision."""
    make, shape = CASES["zeros"]
    layer, state = build(make, shape)
    jaxpr = jax.make_jaxpr(layer)(jnp.ones(shape), state)
    found = list(precisions(jaxpr.jaxpr))
    assert found.pop() is None and len(found) >= 3
    assert set(found) == {(jax.lax.Precision.HIGHEST,) * 2}


def test_inference_leaves_the_state():
    """No iteration, no change; σ is uᵀ W v for the stored vectors."""
    make, shape = CASES["reflect"]
    layer, state = build(make, shape)
    y, after = call(nn.inference_mode(layer), jnp.ones(shape), state)
    assert vn.tree_equal(after, state)
    expected = layer.normalized(state)(jnp.ones(shape))
    np.testing.assert_allclose(y, expected, rtol=1e-5)


def test_stacks_and_devices():
    """Built under vmap, scanned, over a batch on eight devices: as one by one."""
    shape = (2, 4, 4)

    def block(key: Any) -> Any:
        conv = nn.Conv2d(2, 2, 3, padding=1, key=key)
        return nn.SpectralNorm(conv, "weight", input_shape=shape, key=key)

    stack, state = nn.make_with_state(nn.Stack)(block, 2, key=jr.key(0))
    xs = jr.normal(jr.key(1), (8, *shape))
    ys, new = jax.jit(nn.batched(stack))(xs, copy.copy(state))
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    sharded = jax.shard_map(
        nn.batched(stack), mesh=mesh, in_specs=(P("d"), P()), out_specs=(P("d"), P())
    )
    for a, b in zip(
        jax.tree.leaves(jax.jit(sharded)(xs, copy.copy(state))),
        jax.tree.leaves((ys, new)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)

    layers = nn.Stack.unstack(stack, state)
    want = xs
    for single in layers:
        single, own = nn.split_state(single)
        want, own = jax.jit(nn.batched(single))(want, own)
    np.testing.assert_allclose(ys, want, rtol=1e-4, atol=1e-5)
    # The parameters of all layers at once, as those who bake them in need it.
    both = stack.layers.normalized(new)
    assert both.weight.shape == (2, 2, 2, 3, 3)
    norms = [norm(jax.tree.map(lambda a, i=i: a[i], both), shape) for i in range(2)]
    np.testing.assert_allclose(norms, 1, rtol=1e-2)


def test_built_under_jit():
    """A compiled constructor, with its loop, gives what the plain one gives."""
    make, shape = CASES["zeros"]
    build_it = functools.partial(build, make, shape)
    layer, state = vn.filter_jit(build_it)()
    _, want = build_it()
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-4)
    assert isinstance(layer.layer, nn.Conv2d)


def test_without_input_shape_nothing_is_new():
    """The usual way has no slot more than before."""
    layer, state = build(*CASES["linear"], input_shape=None)
    assert layer.change_index is None and "1 slot" in repr(state)
    u, v = state.get(layer.uv_index)
    assert (u.shape, v.shape) == ((4,), (5,))


class Rectified(vn.Module):
    """A layer that is not linear."""

    weight: Any

    def __call__(self, x: Any) -> Any:
        return jax.nn.relu(self.weight @ x)


@pytest.mark.parametrize("layer, shape", [
    (nn.Linear(3, 4, key=jr.key(0)), (4,)),
    (nn.Linear(3, 4, key=jr.key(0)), (2, 3)),
    (nn.Linear(3, 4, key=jr.key(0)), 3),
    (nn.Linear(3, 4, key=jr.key(0)), (0,)),
    (nn.Linear(3, 4, key=jr.key(0)), "3"),
    (nn.Linear(3, 4, key=jr.key(0)), (3.0,)),
    (Rectified(jnp.ones((4, 3))), (3,)),
], ids=str)  # fmt: skip
def test_bad_shapes(layer, shape):
    """Refused when it is built: not a shape, not one of an input, or not linear."""
    with pytest.raises(HyperparameterError) as caught:
        nn.SpectralNorm(layer, "weight", input_shape=shape, key=jr.key(1))
    message = str(caught.value)
    assert "SpectralNorm: bad argument `input_shape`." in message
    assert len(message.splitlines()) <= 6


def test_oracle():
    """The dense matrix of a Linear is its weight."""
    linear = nn.Linear(3, 4, key=jr.key(0))
    np.testing.assert_array_equal(
        dense(linear, (3,)), oracles.to_float64(linear.weight)
    )
