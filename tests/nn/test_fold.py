"""Folded models beside a float64 formula, and beside themselves in inference."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import vernal as vn
from tests import oracles
from tests.nn.test_conv import convolve
from tests.nn.test_conv_transpose import scatter
from tests.strategies import refuses
from tests.world import x64
from vernal import nn
from vernal.errors import TreeError
from vernal.nn import fold_norms, make_with_state

KEY = jr.key(0)
AXES = {"in_axes": (0, None), "out_axes": (0, None), "axis_name": "batch"}


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape)


def linear(inputs: int = 4, outputs: int = 4, **options: Any) -> nn.Linear:
    return nn.Linear(inputs, outputs, key=KEY, **options)


def norm(size: int = 4, **options: Any) -> nn.BatchNorm:
    return nn.BatchNorm(size, "batch", **options)


def statistics(norm: Any) -> Any:
    return norm.ema_state_index if norm.mode == "ema" else norm.batch_state_index


def is_norm(x: Any) -> bool:
    return isinstance(x, nn.BatchNorm)


def lived_in(model: Any, state: Any) -> Any:
    """The model and state with any values in the place of zeros and ones."""
    rng = np.random.default_rng(5)

    def draw(a: Any) -> Any:
        return jnp.asarray(rng.uniform(0.5, 2, a.shape), a.dtype)

    def change(x: Any) -> Any:
        if not is_norm(x) or x.weight is None:
            return x
        where = lambda m: (m.weight, m.bias)  # noqa: E731
        return vn.tree_at(where, x, replace_fn=draw)

    for x in filter(is_norm, jax.tree.leaves(model, is_leaf=is_norm)):
        index = statistics(x)
        state = state.set(index, jax.tree.map(draw, state.get(index)))
    return jax.tree.map(change, model, is_leaf=is_norm), state


def build(make: Any) -> Any:
    return lived_in(*make_with_state(make)())


@jax.jit
def infer(model: Any, state: Any, x: Any) -> Any:
    """One example through a model, as in inference."""
    return nn.inference_mode(model)(x, state)[0]


def assert_close(got: Any, expected: Any, tolerance: float = 1e-5) -> None:
    got, expected = oracles.to_float64(got), oracles.to_float64(expected)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance)


def slots(state: Any) -> int:
    return len(jax.tree.leaves(state))


# A layer, the shape of its input, and its formula without the bias.
LAYERS: dict[str, Any] = {
    "Linear": (
        lambda: nn.Linear(4, 3, key=KEY),
        (4,),
        lambda m, x: m.weight @ x,
    ),
    "Linear without bias": (
        lambda: nn.Linear(4, 3, use_bias=False, key=KEY),
        (4,),
        lambda m, x: m.weight @ x,
    ),
    "Conv1d": (
        lambda: nn.Conv1d(2, 3, 3, stride=2, key=KEY),
        (2, 7),
        lambda m, x: convolve(x, m, ((0, 0),)),
    ),
    "Conv2d, groups": (
        lambda: nn.Conv2d(4, 6, 2, groups=2, key=KEY),
        (4, 3, 4),
        lambda m, x: convolve(x, m, ((0, 0),) * 2),
    ),
    "Conv3d, padded, without bias": (
        lambda: nn.Conv3d(2, 3, 2, padding=1, use_bias=False, key=KEY),
        (2, 2, 3, 2),
        lambda m, x: convolve(x, m, ((1, 1),) * 3),
    ),
    "Conv, four axes": (
        lambda: nn.Conv(4, 1, 2, 2, key=KEY),
        (1, 2, 2, 3, 2),
        lambda m, x: convolve(x, m, ((0, 0),) * 4),
    ),
    "ConvTranspose1d": (
        lambda: nn.ConvTranspose1d(2, 3, 3, stride=2, key=KEY),
        (2, 4),
        lambda m, x: scatter(x, m, (9,), (0,)),
    ),
    "ConvTranspose2d, groups, without bias": (
        lambda: nn.ConvTranspose2d(4, 6, 2, groups=2, use_bias=False, key=KEY),
        (4, 2, 3),
        lambda m, x: scatter(x, m, (3, 4), (0, 0)),
    ),
    "ConvTranspose3d": (
        lambda: nn.ConvTranspose3d(2, 3, 2, key=KEY),
        (2, 2, 1, 2),
        lambda m, x: scatter(x, m, (3, 2, 3), (0, 0, 0)),
    ),
}
NORMS: dict[str, Any] = {
    "batch": {"eps": 0.1},
    "ema": {"mode": "ema"},
    "not affine": {"channelwise_affine": False},
}


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("name", LAYERS)
def test_it_is_the_formula(name: str, kind: str) -> None:
    """The folded layer alone is layer and norm by the formula, and by themselves."""
    make, shape, formula = LAYERS[name]
    with x64():
        layer = make()
        last = norm(layer.weight.shape[0], **NORMS[kind])
        model, state = build(lambda: nn.Sequential([layer, last]))
        x = jnp.asarray(normal(*shape))
        folded, rest = fold_norms(model, state)
        assert isinstance(folded.layers[1], nn.Identity) and slots(rest) == 0
        got = jax.jit(folded.layers[0])(x)
        assert_close(got, infer(model, state, x), 1e-12)

        bias = np.zeros((last.input_size, *[1] * (len(shape) - 1)))
        unbiased = vn.tree_at(lambda m: m.bias, layer, bias)
        y = formula(unbiased, np.asarray(x)) + (layer.bias if layer.use_bias else 0)
        last = model.layers[1]
        affine = (last.weight, last.bias) if last.channelwise_affine else ()
        moments = oracles.Moments(*state.get(statistics(last)))
        want = oracles.batch_norm(y[None], moments, last.eps, *affine)[0]
        assert_close(got, want, 1e-12)


@pytest.mark.parametrize("mode", ["batch", "ema"])
@pytest.mark.parametrize("steps", [0, 1, 1000])
def test_after_training(steps: int, mode: Any) -> None:
    """With statistics from training it gives what inference gives; before, too."""
    layers = [nn.Conv1d(2, 4, 3, key=KEY), norm(mode=mode), jnp.tanh]
    model, state = make_with_state(nn.Sequential)(layers)

    def step(state: Any, key: Any) -> Any:
        xs = 3 + 2 * jr.normal(key, (8, 2, 6))
        return jax.vmap(model, **AXES)(xs, state)[1], None

    if steps:
        run = jax.jit(lambda state, keys: jax.lax.scan(step, state, keys)[0])
        state = run(state, jr.split(KEY, steps))
    x = jr.normal(jr.key(1), (2, 6))
    folded, _ = fold_norms(model, state)
    assert_close(jax.jit(folded)(x), infer(model, state, x))


def test_rounding_with_a_large_mean() -> None:
    """Where the mean is far from zero, it is as exact as the two layers are."""
    model, state = build(lambda: nn.Sequential([linear(), norm()]))
    mean = jnp.asarray(normal(4) * 1e4, jnp.float32)
    index = model.layers[1].batch_state_index
    state = state.set(index, (mean, jnp.full(4, 0.1)))
    folded, _ = fold_norms(model, state)
    xs = normal(50, 4)
    layer, last = model.layers
    weight, bias = oracles.to_float64(layer.weight), oracles.to_float64(layer.bias)
    moments = oracles.Moments(*state.get(index))
    y = xs @ weight.T + bias
    want = oracles.batch_norm(y, moments, 1e-5, last.weight, last.bias)
    xs = jnp.asarray(xs, jnp.float32)
    errors = [
        np.abs(np.asarray(got, np.float64) - want).max()
        for got in (
            jax.vmap(folded)(xs),
            jax.vmap(infer, (None, None, 0))(model, state, xs),
        )
    ]
    assert errors[0] <= 3 * errors[1]


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision(dtype: Any) -> None:
    """It is computed in float32, and rounded once to the dtype of the layer."""
    first = linear(64, use_bias=False, dtype=dtype)
    model, state = build(lambda: nn.Sequential([first, norm(dtype=dtype)]))
    index = model.layers[1].batch_state_index
    state = state.set(index, (jnp.full(4, 300.0), jnp.full(4, 3e4)))
    (layer, _), _ = fold_norms(model, state)
    weight, bias = layer.weight, layer.bias
    assert weight.dtype == bias.dtype == dtype and layer.use_bias
    scale = oracles.to_float64(model.layers[1].weight) / np.sqrt(3e4 + 1e-5)
    want = oracles.to_float64(first.weight) * scale[:, None]
    shift = oracles.to_float64(model.layers[1].bias) - 300 * scale
    eps, tiny = float(jnp.finfo(dtype).eps), float(jnp.finfo(dtype).smallest_subnormal)
    for got, wide in ((weight, want), (bias, shift)):
        error = np.abs(oracles.to_float64(got) - wide)
        assert np.all(error <= 0.51 * np.maximum(eps * np.abs(wide), tiny))
    x = jnp.asarray(normal(64), dtype)
    y = layer(x)
    assert y.dtype == dtype
    assert_close(y, infer(model, state, x), 8 * eps)


def block(key: Any) -> nn.Sequential:
    layers = [nn.Linear(4, 4, key=key), norm(), jnp.tanh]
    return nn.Sequential([*layers, nn.Linear(4, 4, use_bias=False, key=key), norm()])


def test_transformations() -> None:
    """Compiled, the result is the same, in structure too; its gradient is the old."""
    model, state = build(lambda: block(KEY))
    folded, rest = fold_norms(model, state)
    compiled, same = jax.jit(fold_norms)(model, state)
    assert vn.tree_equal((compiled, same), (folded, rest), rtol=1e-5, atol=1e-6)
    x = jnp.asarray(normal(4), jnp.float32)
    old = jax.grad(lambda x: infer(model, state, x).sum())(x)
    assert_close(jax.grad(lambda x: folded(x).sum())(x), old)

    def loss(scale: Any) -> Any:
        other = vn.tree_at(lambda m: m.layers[4].weight, model, scale)
        return fold_norms(other, state)[0](x).sum()

    def old_loss(scale: Any) -> Any:
        other = vn.tree_at(lambda m: m.layers[4].weight, model, scale)
        return infer(other, state, x).sum()

    scale = model.layers[4].weight
    assert_close(jax.grad(loss)(scale), jax.grad(old_loss)(scale))


def test_many_models() -> None:
    """Under vmap, models that were made side by side are folded side by side."""
    make = lambda key: make_with_state(block)(key)  # noqa: E731
    models, states = jax.vmap(make)(jr.split(KEY, 3))
    states = jax.tree.map(lambda a: (a + 1).astype(a.dtype), states)
    folded, _ = jax.vmap(fold_norms)(models, states)
    x = jnp.ones(4)
    got = jax.vmap(lambda m: m(x))(folded)
    assert_close(got, jax.vmap(infer, (0, 0, None))(models, states, x))


def test_the_original_stays() -> None:
    """Neither model nor state are changed, and arrays of other layers are shared."""
    model, state = build(lambda: nn.Sequential([norm(), linear(), norm(), linear()]))
    before = jax.tree.map(jnp.copy, (model, state))
    folded, rest = fold_norms(model, state)
    assert vn.tree_equal((model, state), before)
    assert folded.layers[3].weight is model.layers[3].weight
    # The norm without a layer in front has its slots, of the same values.
    index = folded.layers[0].batch_state_index
    assert slots(rest) == 3 and rest.get(index) is state.get(index)


def test_nested_sequentials() -> None:
    """Neighbors are found across Sequentials, and all layers keep their index."""
    model, state = build(
        lambda: nn.Sequential(
            [
                nn.Sequential([jnp.sin, linear()]),
                nn.Sequential([]),
                nn.Identity(),
                nn.Sequential([nn.Sequential([norm(), jnp.tanh]), norm(), linear()]),
                jnp.cos,
                norm(),
            ]
        )
    )
    folded, rest = fold_norms(model, state)
    inner = folded[3]
    assert isinstance(inner[0][0], nn.Identity) and isinstance(inner[1], nn.BatchNorm)
    assert isinstance(folded[5], nn.BatchNorm) and slots(rest) == 6
    x = jnp.asarray(normal(4), jnp.float32)
    assert_close(infer(folded, rest, x), infer(model, state, x))
    assert not inner[0].is_stateful()
    with refuses(TreeError, "nothing to fold"):
        fold_norms(folded, rest)


CONTAINERS = {
    "Stack": lambda: nn.Stack(block, 3, key=KEY),
    "Ensemble": lambda: nn.Ensemble(block, 3, key=KEY),
    "both": lambda: nn.Ensemble(lambda key: nn.Stack(block, 2, key=key), 3, key=KEY),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers(name: str) -> None:
    """Stacked layers are folded with their stacked statistics, and lose their state."""
    model, state = build(CONTAINERS[name])
    folded, rest = fold_norms(model, state)
    assert slots(rest) == 0 and not folded.is_stateful()
    x = jnp.asarray(normal(4), jnp.float32)
    assert_close(jax.jit(folded)(x), infer(model, state, x))
    assert vn.tree_equal(
        jax.jit(fold_norms)(model, state)[0], folded, rtol=1e-5, atol=1e-6
    )


def test_batched() -> None:
    """It is found in a model that takes a batch, which needs no axis any more."""
    model, state = build(lambda: nn.batched(block(KEY)))
    folded, _ = fold_norms(model, state)
    xs = jnp.asarray(normal(5, 4), jnp.float32)
    assert_close(folded(xs), infer(model, state, xs))


class Net(vn.Module):
    """A Module whose calls are in no order that a tree could tell."""

    norm1: nn.BatchNorm
    conv: nn.Conv1d
    norm2: nn.BatchNorm
    head: nn.Sequential

    def __init__(self) -> None:
        self.norm1, self.norm2 = norm(2), norm(3, mode="ema")
        self.conv = nn.Conv1d(2, 3, 2, use_bias=False, key=KEY)
        self.head = nn.Sequential([linear(6, 4), norm()])

    def __call__(self, x: Any, state: Any) -> Any:
        x, state = self.norm1(x, state)
        x, state = self.norm2(self.conv(x), state, inference=None)
        return self.head(x.ravel(), state)


def conv_and_norm(m: Any) -> Any:
    return [(m.conv, m.norm2)]


def test_pairs() -> None:
    """Named layers of a Module are folded, just these, and its calls stay right."""
    model, state = build(Net)
    folded, rest = fold_norms(model, state, conv_and_norm)
    assert folded.conv.bias.shape == (3, 1) and slots(rest) == slots(state) - 3
    x = jnp.asarray(normal(2, 3), jnp.float32)
    assert_close(infer(folded, rest, x), infer(model, state, x))
    compiled, _ = jax.jit(lambda m, s: fold_norms(m, s, conv_and_norm))(model, state)
    assert vn.tree_equal(compiled, folded, rtol=1e-5, atol=1e-6)
    # One after the other is as both at once; the rest can still be trained.
    both, none = fold_norms(folded, rest)
    pairs = lambda m: [*conv_and_norm(m), m.head.layers]  # noqa: E731
    assert vn.tree_equal(fold_norms(model, state, pairs)[0], both)
    assert isinstance(both.head[1], nn.Identity) and slots(none) == 3
    assert_close(infer(both, none, x), infer(model, state, x))
    _, new = jax.vmap(both, **AXES)(jnp.asarray(normal(5, 2, 3), jnp.float32), none)
    assert int(new.get(both.norm1.batch_counter)) == 1


class Twins(vn.Module):
    """Two layers with one norm behind both."""

    a: nn.Linear
    b: nn.Linear
    norm: nn.BatchNorm

    def __init__(self) -> None:
        self.a, self.b, self.norm = linear(), linear(use_bias=False), norm()

    def __call__(self, x: Any, state: Any) -> Any:
        y, state = self.norm(self.a(x), state)
        z, state = self.norm(self.b(x), state)
        return y * z, state


def test_one_norm_behind_two_layers() -> None:
    """It goes into both, if both are named."""
    model, state = build(Twins)
    folded, rest = fold_norms(model, state, lambda m: [(m.a, m.norm), (m.b, m.norm)])
    x = jnp.asarray(normal(4), jnp.float32)
    assert_close(infer(folded, rest, x), infer(model, state, x))


def test_one_layer_at_two_places() -> None:
    """Each place is folded by itself, as JAX has a copy of the parameters for each."""
    layer, one = linear(), norm()
    layers = [layer, jnp.sin, layer, one, layer, norm(), one]
    model, state = build(lambda: nn.Sequential(layers))
    x = jnp.asarray(normal(4), jnp.float32)
    for fold in (fold_norms, jax.jit(fold_norms)):
        folded, rest = fold(model, state)
        assert_close(folded.layers[0].weight, layer.weight, 0)
        assert slots(rest) == 3  # of the norm that still stands at the other place
        assert_close(infer(folded, rest, x), infer(model, state, x))
