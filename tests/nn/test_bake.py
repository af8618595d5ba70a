"""Baked layers beside a float64 formula, and beside themselves in inference."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import vernal as vn
from tests import oracles
from tests.strategies import refuses
from tests.world import x64
from vernal import nn
from vernal.errors import ForeignStateError, StateError, TreeError
from vernal.nn import SpectralNorm, WeightNorm, bake, make_with_state

KEY = jr.key(0)
HALVES = [jnp.float16, jnp.bfloat16]


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape)


def linear(inputs: int = 4, outputs: int = 4, **options: Any) -> nn.Linear:
    return nn.Linear(inputs, outputs, key=KEY, **options)


def spectral(layer: Any = None, name: str = "weight", **options: Any) -> Any:
    layer = linear() if layer is None else layer
    return SpectralNorm(layer, name, key=jr.key(1), **options)


def stretched(layer: Any, state: Any) -> Any:
    """The weights changed after construction, so that they are not normalized yet."""

    def change(x: Any) -> Any:
        if isinstance(x, WeightNorm):
            return vn.tree_at(lambda m: m.g, x, replace_fn=lambda g: 1.5 * g + 0.5)
        if isinstance(x, SpectralNorm):
            where = lambda m: getattr(m.layer, m.weight_name)  # noqa: E731
            return vn.tree_at(where, x, replace_fn=lambda w: 3 * w + jnp.sin(9 * w))
        return x

    is_wrapper = lambda x: isinstance(x, SpectralNorm | WeightNorm)  # noqa: E731
    return jax.tree.map(change, layer, is_leaf=is_wrapper), state


def build(make: Any) -> Any:
    return vn.filter_jit(lambda: stretched(*make_with_state(make)()))()


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


LAYERS = {
    "Linear": (linear, (4,)),
    "Conv2d": (lambda: nn.Conv2d(4, 6, 3, groups=2, key=KEY), (4, 5, 4)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(4, 3, 2, 2, key=KEY), (4, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_spectral_norm(name: str) -> None:
    """The weight is W / uᵀWv, after 0, 1 and 1000 steps; the state is gone."""
    make, shape = LAYERS[name]
    with x64():
        model, state = build(lambda: spectral(make()))
        x = jnp.asarray(normal(*shape))

        @jax.jit
        def run(state: Any, steps: Any) -> Any:
            step = lambda _, state: model(x, state)[1]  # noqa: E731
            state = jax.lax.fori_loop(0, steps, step, state)
            baked, rest = bake(model, state)
            return state, baked, rest, baked(x, rest)

        for steps in (0, 1, 1000):
            new, baked, rest, (y, same) = run(state, steps)
            vectors = new.get(model.uv_index)
            want = oracles.spectral_normalize(model.layer.weight, *vectors)
            assert_close(baked.layer.weight, want, 1e-12)
            assert_close(y, infer(model, new, x), 1e-12)
            assert slots(rest) == slots(same) == 0 and slots(new) == 2


@pytest.mark.parametrize("name", LAYERS)
def test_weight_norm(name: str) -> None:
    """The weight is g v / ‖v‖, along any axis."""
    make, shape = LAYERS[name]
    with x64():
        axes = (0, 1, -1, None)
        models, state = build(lambda: [WeightNorm(make(), axis=a) for a in axes])
        baked, rest = bake(models, state)
        assert slots(rest) == 0
        x = jnp.asarray(normal(*shape))
        call = jax.jit(lambda layers: [layer(x) for layer in layers])
        assert_close(jnp.stack(call(baked)), jnp.stack(call(models)), 1e-12)
        for axis, new, old in zip(axes, baked, models, strict=True):
            assert type(new) is type(old.layer)
            v = np.asarray(old.layer.weight)
            kept = None if axis is None else axis % v.ndim
            others = tuple(i for i in range(v.ndim) if i != kept)
            norm = np.sqrt(np.sum(v**2, others, keepdims=True))
            assert_close(new.weight, np.asarray(old.g) * v / norm, 1e-12)


@pytest.mark.parametrize("dtype", [jnp.float32, *HALVES])
def test_half_precision(dtype: Any) -> None:
    """It is the very weight that the layer computes at each call, bit for bit."""
    first = linear(64, dtype=dtype)
    for model, state in (
        make_with_state(spectral)(first),
        make_with_state(WeightNorm)(first),
    ):
        model, state = stretched(model, state)
        x = jnp.asarray(normal(64), dtype)
        if isinstance(model, SpectralNorm):
            want, _ = model(x, state, inference=True)
            got, _ = bake(model, state)[0](x, state)
        else:
            want, got = model(x), bake(model, state)[0](x)
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, want)


def test_a_zero_weight() -> None:
    """It stays a weight of zeros, as in the layer."""
    zeros = vn.tree_at(lambda m: m.weight, linear(), jnp.zeros((4, 4)))
    for make in (spectral, WeightNorm):
        model, state = nn.split_state(nn.Sequential([make(zeros)]))
        np.testing.assert_array_equal(bake(model, state)[0][0].weight, 0)


class Net(vn.Module):
    """Calls that take and return a state, and one that does not."""

    inner: Any
    norm: nn.BatchNorm
    last: WeightNorm[nn.Linear]

    def __init__(self) -> None:
        self.inner = [spectral(), {"a": spectral(num_power_iterations=2)}]
        self.norm = nn.BatchNorm(4, "batch")
        self.last = WeightNorm(linear())

    def __call__(self, x: Any, state: Any) -> Any:
        x, state = self.inner[0](x, state, key=KEY)
        x, state = self.norm(x, state)
        x, state = self.inner[1]["a"](x, state, inference=None)
        return self.last(x, key=KEY), state


def test_a_module() -> None:
    """Its calls stay right, and what is not baked can still be trained."""
    model, state = build(Net)
    baked, rest = bake(model, state)
    assert slots(rest) == slots(state) - 4
    assert isinstance(baked.last, nn.Linear)
    assert isinstance(baked.inner[1]["a"].layer, nn.Linear)
    x = jnp.asarray(normal(4), jnp.float32)
    assert_close(infer(baked, rest, x), infer(model, state, x))
    xs = jnp.asarray(normal(5, 4), jnp.float32)
    (ys, new), (want, _) = (
        jax.jit(lambda m, s: nn.batched(m)(xs, s))(m, s)
        for m, s in ((baked, rest), (stopped(model), state))
    )
    assert_close(ys, want)
    assert int(new.get(baked.norm.batch_counter)) == 1


def stopped(model: Any) -> Any:
    """A model in training, but for its power iterations."""
    where = lambda m: [m.inner[0].inference, m.inner[1]["a"].inference]  # noqa: E731
    return vn.tree_at(where, model, [True, True])


def block(key: Any) -> nn.Sequential:
    first = SpectralNorm(nn.Linear(4, 4, key=key), "weight", key=key)
    return nn.Sequential([first, jnp.tanh, WeightNorm(nn.Linear(4, 4, key=key))])


CONTAINERS = {
    "Sequential": lambda: nn.Sequential([block(KEY), block(jr.key(5))]),
    "Stack": lambda: nn.Stack(block, 3, key=KEY),
    "Ensemble": lambda: nn.Ensemble(block, 3, key=KEY),
    "both": lambda: nn.Ensemble(lambda key: nn.Stack(block, 2, key=key), 3, key=KEY),
    "Stack of one": lambda: nn.Stack(block, 1, key=KEY),
    "no Sequential": lambda: nn.Stack(
        lambda key: SpectralNorm(nn.Linear(4, 4, key=key), "weight", key=key),
        3,
        key=KEY,
    ),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers(name: str) -> None:
    """Stacked weights are baked each for itself; the containers lose their state."""
    model, state = build(CONTAINERS[name])
    baked, rest = jax.jit(bake)(model, state)
    assert slots(rest) == 0 and not baked.is_stateful()
    x = jnp.asarray(normal(4), jnp.float32)
    want = infer(model, state, x)
    got, (again, _) = jax.jit(lambda m, s: (m(x), m(x, s)))(baked, rest)
    assert_close(got, want)
    assert_close(again, want)


@pytest.mark.parametrize("shape", [(1, 3), (3, 1), (3, 3), (3, 1, 1)], ids=str)
def test_stacked_lengths(shape: tuple[int, ...]) -> None:
    """Stacked layers have lengths of their own, also where sizes are 1 or equal."""

    def make(key: Any) -> Any:
        layer = Odd(jr.normal(key, shape))
        return [WeightNorm(layer, "kernel", axis) for axis in (0, -1, None)]

    @functools.partial(jax.jit, static_argnums=0)
    def both(n: int) -> Any:
        models = vn.filter_vmap(make)(jr.split(KEY, n))
        models, state = stretched(*nn.split_state(models))
        together = bake(models, state)[0]
        alone = [jax.tree.map(lambda a: a[i], models) for i in range(n)]  # noqa: B023
        apart = [bake(m, state)[0] for m in alone]
        return together, jax.tree.map(lambda *a: jnp.stack(a), *apart)

    for n in (1, 3):
        for a, b in zip(*map(jax.tree.leaves, both(n)), strict=True):
            assert_close(a, b, 1e-6)


def test_transformations() -> None:
    """Compiled and mapped, the result is the same, in structure too."""
    model, state = build(lambda: block(KEY))
    expected = bake(model, state)
    assert vn.tree_equal(jax.jit(bake)(model, state), expected, rtol=1e-5, atol=1e-6)
    models, states = jax.vmap(make_with_state(block))(jr.split(KEY, 3))
    many, _ = jax.vmap(bake)(models, states)
    got = jax.vmap(lambda m: m(jnp.ones(4)))(many)
    assert_close(got, jax.vmap(infer, (0, 0, None))(models, states, jnp.ones(4)))


def test_gradients() -> None:
    """By the baked weight it is that of any weight; through ``bake``, the layer's."""
    model, state = build(spectral)
    x, c = (jnp.asarray(normal(4, seed=i), jnp.float32) for i in (1, 2))
    loss = lambda m, s: jnp.sum(c * m(x, s)[0])  # noqa: E731
    baked, rest = bake(model, state)
    assert_close(jax.grad(loss)(baked, rest).layer.weight, np.outer(c, x))
    model = nn.inference_mode(model)
    through = jax.grad(lambda m: loss(*bake(m, state)))(model)
    assert_close(through.layer.weight, jax.grad(loss)(model, state).layer.weight)
    weights = (a.layer.weight for a in (model, baked))
    vectors = state.get(model.uv_index)
    plain, normalized = (oracles.to_float64(w) for w in weights)
    assert_close(normalized, oracles.spectral_normalize(plain, *vectors))


class Odd(vn.Module):
    """A layer whose weight has another name."""

    kernel: Any

    def __call__(self, x: Any) -> Any:
        return self.kernel.T @ x


def test_other_names_and_nested_wrappers() -> None:
    """The weight may have any name, and may be the lengths of another wrapper."""
    odd = Odd(jnp.asarray(normal(4, 3), jnp.float32))
    inner = WeightNorm(linear())
    layers = [spectral(inner, "g"), spectral(odd, "kernel"), WeightNorm(linear(3))]
    model, state = build(lambda: nn.Sequential(layers))
    baked, rest = bake(model, state)
    kinds = [type(layer) for layer in baked]
    assert kinds == [nn.Linear, Odd, nn.Linear] and slots(rest) == 0
    x = jnp.asarray(normal(4), jnp.float32)
    assert_close(baked(x), infer(model, state, x))


def test_batched() -> None:
    """In a layer for batches it is still called with the state, or without."""
    layers = [nn.batched(spectral()), nn.batched(WeightNorm(linear()))]
    model, state = build(lambda: nn.Sequential(layers))
    baked, rest = bake(model, state)
    xs = jnp.asarray(normal(5, 4), jnp.float32)
    want = infer(model, state, xs)
    assert_close(baked(xs), want)
    assert_close(baked(xs, rest)[0], want)
    alone, _ = bake(model[0], state)
    assert_close(alone(xs, rest)[0], infer(model[0], state, xs))


def test_one_layer_at_two_places() -> None:
    """Each place is baked by itself, with the vectors that both share."""
    layer = spectral()
    model, state = build(lambda: nn.Sequential([layer, jnp.tanh, layer]))
    other = vn.tree_at(lambda m: m[2].layer.weight, model, replace_fn=lambda w: 2 * w)
    x = jnp.asarray(normal(4), jnp.float32)
    for fn in (bake, jax.jit(bake)):
        baked, rest = fn(other, state)
        assert slots(rest) == 0
        assert_close(baked(x), infer(other, state, x))


class Louder(SpectralNorm):
    """A SpectralNorm with another call."""

    def __call__(self, x: Any, state: Any, **options: Any) -> Any:
        y, state = super().__call__(x, state, **options)
        return 2 * y, state


def test_subclasses() -> None:
    """What has a call of its own is left alone, with its state."""
    louder = Louder(linear(), "weight", key=KEY)
    model, state = build(lambda: nn.Sequential([louder, spectral()]))
    baked, rest = bake(model, state)
    assert isinstance(baked[0], Louder) and slots(rest) == 2
    x = jnp.asarray(normal(4), jnp.float32)
    assert_close(infer(baked, rest, x), infer(model, state, x))


def test_the_original_stays() -> None:
    """Neither model nor state are changed."""
    model, state = build(Net)
    before = jax.tree.map(jnp.copy, (model, state))
    bake(model, state)
    assert vn.tree_equal((model, state), before)


def test_errors() -> None:
    """Nothing to bake, tied weights and wrong states are refused, by name."""
    message = functools.partial(refuses, TreeError)
    with message("bake: there is nothing to bake", "SpectralNorm", "Linear without"):
        bake(linear(), make_with_state(spectral)()[1])
    where, get = lambda t: t[1].weight, lambda t: t[0].layer.weight
    model = nn.Shared((WeightNorm(linear()), linear()), where, get)
    model, state = nn.split_state({"a": model})
    with message("bake: `['a'].pytree[0]` is inside of a Shared", "WeightNorm, which"):
        bake(model, state)
    model, state = make_with_state(spectral)()
    with refuses(StateError, "bake: `state` is not a State", "tuple"):
        bake(model, ())
    with pytest.raises(ForeignStateError, match="Linear"):
        bake(model, nn.State(linear()))
