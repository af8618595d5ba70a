"""WeightNorm beside PyTorch's values, float64 NumPy, and Equinox."""

import json
import pathlib
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.test_util import check_grads

import vernal as vn
from tests.strategies import refuses
from tests.world import x64
from vernal import nn
from vernal.errors import HyperparameterError

# Written by scripts/make_torch_fixtures/weight_norm.py.
FIXTURE = np.load(pathlib.Path(__file__).parents[1] / "fixtures" / "weight_norm.npz")
CASES = json.loads(str(FIXTURE["cases"]))
HALVES = [jnp.float16, jnp.bfloat16]


class Weight(vn.Module):
    """A layer of which the output is the weight, times the input."""

    weight: Any

    def __call__(self, x: Any) -> Any:
        return self.weight * x


@jax.jit
def call(layer: Any) -> Any:
    """The normalized weight of a layer around :class:`Weight`."""
    return layer(jnp.ones((), layer.layer.weight.dtype))


def build(weight: Any, dtype: Any = float, **kwargs: Any) -> Any:
    """A normalized :class:`Weight`."""
    return nn.WeightNorm(Weight(jnp.asarray(weight, dtype)), **kwargs)


def normal(*shape: int) -> Any:
    return np.random.default_rng(0).normal(size=shape)


def with_g(layer: Any, g: Any) -> Any:
    return vn.tree_at(lambda m: m.g, layer, jnp.asarray(g, layer.g.dtype))


def norms(v: Any, axis: int | None) -> Any:
    """The lengths, in float64, with all axes kept."""
    v = np.asarray(v).astype(np.float64)
    axes = tuple(i for i in range(v.ndim) if axis is None or i != axis % v.ndim)
    return np.sqrt(np.sum(v**2, axes, keepdims=True))


@pytest.mark.parametrize("i", range(len(CASES)), ids=lambda i: str(CASES[i]))
def test_pytorch(i: int) -> None:
    """The first g, outputs and gradients are PyTorch's."""
    arrays = {k[2:]: v for k, v in FIXTURE.items() if k.startswith(f"{i}.")}
    v, axis = arrays["v"], CASES[i]["dim"]
    with x64():
        if v.ndim == 2:
            make = lambda: nn.Linear(3, 4, False, key=jr.key(0))  # noqa: E731
        else:
            make = lambda: nn.Conv2d(2, 4, 3, use_bias=False, key=jr.key(0))  # noqa: E731
        inner = vn.filter_eval_shape(make)
        inner = vn.tree_at(lambda m: m.weight, inner, jnp.asarray(v))
        layer = nn.WeightNorm(inner, "weight", axis)
        np.testing.assert_allclose(layer.g.ravel(), arrays["start"].ravel(), 1e-14)
        layer = with_g(layer, arrays["g"].reshape(layer.g.shape))
        y, pull = jax.vjp(lambda m: m(jnp.asarray(arrays["x"][0])), layer)
        (grads,) = pull(jnp.asarray(arrays["cotangent"][0]))
        got = {"y": y, "g.grad": grads.g, "v.grad": grads.layer.weight}
        for name, array in got.items():
            want = arrays[name].reshape(array.shape)
            np.testing.assert_allclose(array, want, 1e-10, 1e-12, err_msg=name)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((4, 3), 0),
        ((4, 3), -1),
        ((4, 3), None),
        ((3, 2, 4), 1),
        ((5,), 0),
        ((5,), None),
    ],
)
def test_formula(shape: Any, axis: int | None) -> None:
    """The weight is ``g v / |v|``; first g is ``|v|``, with all axes kept."""
    v, scale = normal(*shape), 1 + normal(7)[0]
    layer = build(v, axis=axis)
    np.testing.assert_allclose(layer.g, norms(v, axis), rtol=1e-6)
    assert layer.g.shape == norms(v, axis).shape
    np.testing.assert_allclose(call(layer), v, rtol=1e-6)
    layer = with_g(layer, np.full(layer.g.shape, scale))
    np.testing.assert_allclose(call(layer), scale * v / norms(v, axis), rtol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, -1, None])
@pytest.mark.parametrize("use_bias", [True, False])
def test_equinox(axis: int | None, use_bias: bool) -> None:
    """With the same key, g and the output are those of Equinox."""
    ours = nn.WeightNorm(nn.Linear(3, 4, use_bias, key=jr.key(3)), axis=axis)
    inner = eqx.nn.Linear(3, 4, use_bias, key=jr.key(3))
    theirs = eqx.nn.WeightNorm(inner, axis=axis)
    np.testing.assert_allclose(ours.g, theirs.g, rtol=1e-6)
    assert ours.g.shape == theirs.g.shape
    assert (ours.weight_name, ours.axis) == (theirs.weight_name, theirs.axis)
    x = jr.normal(jr.key(1), (3,))
    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, *HALVES], ids=str)
@pytest.mark.parametrize("g", [0, 1])
def test_a_zero_vector(dtype: Any, g: int) -> None:
    """It gives zeros and finite gradients, and the other vectors their own."""
    v = normal(3, 4)
    v[1] = 0
    layer = build(v, dtype)
    assert np.all(np.isfinite(layer.g)) and layer.g[1] == 0
    layer = with_g(layer, layer.g.at[1].set(g))
    weight = np.asarray(call(layer), np.float64)
    assert np.all(weight[1] == 0) and np.all(weight[[0, 2]] != 0)
    grads = jax.grad(lambda m: jnp.sum(call(m).astype(jnp.float32)))(layer)
    for leaf in jax.tree.leaves(grads):
        assert np.all(np.isfinite(np.asarray(leaf, np.float64)))
    np.testing.assert_array_equal(np.asarray(grads.layer.weight[1], np.float64), g)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_extreme_vectors(scale: float) -> None:
    """Vectors whose squares are out of range have their length and gradient still."""
    v = normal(3, 4)
    layer = with_g(build(v * scale), np.ones((3, 1)))
    want = v / norms(v, 0)
    np.testing.assert_allclose(build(v * scale).g, norms(v, 0) * scale, rtol=1e-5)
    np.testing.assert_allclose(call(layer), want, rtol=1e-5)
    grads = jax.grad(lambda m: jnp.sum(call(m) * jnp.arange(4.0)[None]))(layer)
    cotangent = np.arange(4.0)
    along = (want * cotangent).sum(1, keepdims=True) * want
    expected = (cotangent - along) / (norms(v, 0) * scale)
    np.testing.assert_allclose(grads.layer.weight, expected, rtol=1e-4)


def test_gradients() -> None:
    """Both modes of differentiation agree with finite differences in float64."""
    with x64():
        layer = build(normal(4, 3, 2), axis=1)
        check_grads(call, (layer,), 1, rtol=1e-6)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_half_precision(dtype: Any) -> None:
    """Norms are float32's, without overflow; the weight is rounded once."""
    layer = build(1000 * normal(4, 512), dtype)
    layer = with_g(layer, [[1.0], [2.0], [0.5], [3.0]])
    got = call(layer)
    assert got.dtype == layer.g.dtype == dtype
    v = np.asarray(layer.layer.weight).astype(np.float64)
    want = np.asarray(layer.g).astype(np.float64) * v / norms(v, 0)
    error = np.abs(np.asarray(got).astype(np.float64) - want)
    tiny = float(jnp.finfo(dtype).smallest_subnormal)
    assert np.all(error <= 0.51 * float(jnp.finfo(dtype).eps) * np.abs(want) + tiny)


def test_ensembles() -> None:
    """Built and called under vmap, each member equals one that is built alone."""
    make = lambda key: nn.WeightNorm(nn.Linear(3, 4, key=key), axis=-1)  # noqa: E731
    keys = jr.split(jr.key(0), 3)
    layers = vn.filter_vmap(make)(keys)
    x = jnp.arange(3.0)
    ys = vn.filter_vmap(lambda m: m(x))(layers)
    for key, y in zip(keys, ys, strict=True):
        np.testing.assert_allclose(y, make(key)(x), rtol=1e-5)


def test_the_weight_of_the_layer_is_never_written() -> None:
    """A call leaves the wrapped layer as it was."""
    layer = nn.WeightNorm(nn.Linear(3, 4, key=jr.key(0)))
    weight, copy = layer.layer.weight, np.array(layer.layer.weight)
    layer = with_g(layer, np.ones((4, 1)))
    layer(jnp.ones(3))
    assert layer.layer.weight is weight
    np.testing.assert_array_equal(weight, copy)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layer", "Linear"),
        ("weight_name", "wieght"),
        ("weight_name", "in_features"),
        ("axis", 2),
        ("axis", -3),
        ("axis", 0.0),
        ("axis", True),
        ("axis", (0, 1)),
    ],
)
def test_bad_arguments(name: str, value: Any) -> None:
    """Refused when the layer is built; the message names the argument."""
    linear = nn.Linear(3, 4, key=jr.key(0))
    with refuses(HyperparameterError, f"WeightNorm: bad argument `{name}`"):
        nn.WeightNorm(**{"layer": linear, name: value})


def test_a_weight_without_axes() -> None:
    """A single number has a length, but no axis."""
    with refuses(HyperparameterError, "`weight_name`", "≥ 1 axis"):
        build(2.0)
    assert float(call(build(2.0, axis=None))) == 2
