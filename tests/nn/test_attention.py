"""Attention beside PyTorch's values, a formula in NumPy, and Equinox."""

import json
import pathlib
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import vernal as vn
from tests.world import x64
from vernal import nn

# Written by scripts/make_torch_fixtures/attention.py.
FIXTURE = np.load(pathlib.Path(__file__).parents[1] / "fixtures" / "attention.npz")
CASES = json.loads(str(FIXTURE["cases"]))
PROJECTIONS = ("query_proj", "key_proj", "value_proj", "output_proj")
BIASES = [f"use_{name}_bias" for name in ("query", "key", "value", "output")]


def with_parameters(layer: Any, arrays: dict[str, Any]) -> Any:
    """The same layer with the parameters that are named ``query_proj.weight`` etc."""
    for projection in PROJECTIONS:
        for name in ("weight", "bias"):
            if f"{projection}.{name}" in arrays:
                layer = vn.tree_at(
                    lambda m, p=projection, n=name: getattr(getattr(m, p), n),
                    layer,
                    arrays[f"{projection}.{name}"],
                )
    return layer


def assert_like_pytorch(number: int, dtype: Any, tolerance: float) -> None:
    """Output and all gradients are those of the fixture."""
    options = dict(CASES[number])
    use_bias = options.pop("use_bias", False)
    prefix = f"{number}."
    arrays = {
        name.removeprefix(prefix): jnp.asarray(
            FIXTURE[name], bool if name.endswith("mask") else dtype
        )
        for name in FIXTURE
        if name.startswith(prefix)
    }
    biases = dict.fromkeys(BIASES, use_bias)
    # Only the structure: drawing parameters would take as long as all the rest.
    layer = vn.filter_eval_shape(
        nn.MultiheadAttention, **options, **biases, dtype=dtype, key=jr.key(0)
    )
    layer = with_parameters(layer, arrays)

    @jax.jit
    def run(layer: Any, inputs: Any, mask: Any, cotangent: Any) -> Any:
        y, pull = jax.vjp(lambda m, args: m(*args, mask), layer, inputs)
        return y, pull(cotangent)

    names = ("query", "key", "value")
    inputs = [arrays[name] for name in names]
    y, (grads, input_grads) = run(
        layer, inputs, arrays.get("mask"), arrays["cotangent"]
    )
    got = {f"{k}_grad": x for k, x in zip(names, input_grads, strict=True)} | {"y": y}
    for projection in PROJECTIONS:
        got[f"{projection}.weight_grad"] = getattr(grads, projection).weight
        if use_bias:
            got[f"{projection}.bias_grad"] = getattr(grads, projection).bias
    assert set(got) == {x for x in arrays if x == "y" or x.endswith("_grad")}
    for name, array in got.items():
        assert array.dtype == dtype
        want = arrays[name]
        np.testing.assert_allclose(array, want, tolerance, tolerance, err_msg=name)


@pytest.mark.parametrize("number", range(len(CASES)))
def test_pytorch(number: int) -> None:
    """Output and gradients are PyTorch's, in single and in double precision."""
    assert_like_pytorch(number, jnp.float32, 5e-5)
    with x64():
        assert_like_pytorch(number, jnp.float64, 1e-10)


def affine(linear: Any, x: Any) -> np.ndarray[Any, Any]:
    """``x Wᵀ + b`` in float64."""
    y = np.asarray(x, float) @ np.asarray(linear.weight, float).T
    return y if linear.bias is None else y + np.asarray(linear.bias, float)


def formula(layer: Any, query: Any, key: Any, value: Any, mask: Any = None) -> Any:
    """The equation of the docstring, head by head, in float64."""
    q, k, v = (
        affine(projection, x)
        for projection, x in (
            (layer.query_proj, query),
            (layer.key_proj, key),
            (layer.value_proj, value),
        )
    )
    n, (d, e) = layer.num_heads, (layer.qk_size, layer.vo_size)
    allowed = np.broadcast_to(True if mask is None else mask, (n, len(q), len(k)))
    heads = np.zeros((len(q), n, e))
    for i in range(n):
        for row in range(len(q)):
            a, b = slice(i * d, (i + 1) * d), slice(i * e, (i + 1) * e)
            keys, values = k[allowed[i, row], a], v[allowed[i, row], b]
            scores = np.exp(keys @ q[row, a] / np.sqrt(d))
            heads[row, i] = scores @ values / scores.sum() if len(keys) else 0
    return affine(layer.output_proj, heads.reshape(len(q), n * e))


def draw_options(rng: Any) -> dict[str, Any]:
    """Random hyperparameters."""
    heads = int(rng.integers(1, 4))
    sizes = ("key_size", "value_size", "output_size", "qk_size", "vo_size")
    drawn = {name: int(rng.integers(1, 6)) for name in sizes if rng.random() < 0.7}
    biases = {name: bool(rng.integers(2)) for name in BIASES}
    size = heads + int(rng.integers(4))
    return {"num_heads": heads, "query_size": size, **drawn, **biases}


def draw_inputs(rng: Any, layer: Any) -> tuple[Any, ...]:
    """Query, keys and values of random lengths, and a mask without empty rows."""
    n, m = map(int, rng.integers(1, 6, 2))
    shapes = ((n, layer.query_size), (m, layer.key_size), (m, layer.value_size))
    arrays = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
    masks = [None, (n, m), (layer.num_heads, n, m)]
    shape = masks[int(rng.integers(3))]
    if shape is None:
        return (*arrays, None)
    mask = rng.random(shape) < 0.5
    mask[..., int(rng.integers(m))] = True
    return (*arrays, jnp.asarray(mask))


@pytest.mark.parametrize("seed", range(8))
def test_equinox_and_formula(seed: int) -> None:
    """The same key gives what it gives in Equinox, and what the formula says."""
    rng = np.random.default_rng(seed)
    options = draw_options(rng)
    ours = nn.MultiheadAttention(**options, key=jr.key(seed))
    theirs = eqx.nn.MultiheadAttention(**options, key=jr.key(seed))
    inputs = draw_inputs(rng, ours)

    def run(layer: Any, inputs: Any) -> Any:
        def loss(pair: Any) -> Any:
            y = pair[0](*pair[1])
            return jnp.sum(jnp.sin(y)), y

        grads, y = eqx.filter_grad(loss, has_aux=True)((layer, inputs))
        return y, grads

    compiled = eqx.filter_jit(run)
    got, want = compiled(ours, inputs), compiled(theirs, inputs)
    np.testing.assert_allclose(got[0], formula(ours, *inputs), 1e-5, 1e-5)
    names = [name for name in vars(theirs) if name not in (*PROJECTIONS, "dropout")]
    assert all(getattr(ours, name) == getattr(theirs, name) for name in names)
    parameters = (jax.tree.leaves(eqx.filter(m, eqx.is_array)) for m in (ours, theirs))
    for a, b in zip(*parameters, strict=True):
        assert jnp.array_equal(a, b) and a.dtype == b.dtype
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    for a, b in pairs:
        np.testing.assert_allclose(a, b, 1e-4, 1e-5)


def self_attend(layer: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """Query, keys and values are the same."""
    return layer(x, x, x, *args, **kwargs)


def test_dropout_is_that_of_equinox() -> None:
    """In training the same key drops the same weights."""
    x = jr.normal(jr.key(1), (7, 6))
    layers = (
        m.nn.MultiheadAttention(3, 6, dropout_p=0.4, key=jr.key(0)) for m in (vn, eqx)
    )
    ours, theirs = (self_attend(layer, x, key=jr.key(2)) for layer in layers)
    np.testing.assert_allclose(ours, theirs, 1e-5, 1e-6)


def test_dropout_acts_on_the_weights() -> None:
    """It removes values and scales the others: the mean over keys is kept."""
    layer = nn.MultiheadAttention(2, 4, dropout_p=0.5, key=jr.key(0))
    x = jr.normal(jr.key(1), (3, 4))
    draws = jax.jit(jax.vmap(lambda key: self_attend(layer, x, key=key)))
    got = draws(jr.split(jr.key(2), 20_000))
    want = self_attend(layer, x, inference=True)
    deviation = np.asarray(got).std(axis=0) / np.sqrt(len(got))
    assert np.all(np.abs(got.mean(axis=0) - want) < 6 * deviation)
    everything = nn.MultiheadAttention(2, 4, dropout_p=1, key=jr.key(0))
    assert jnp.array_equal(self_attend(everything, x, key=jr.key(2)), jnp.zeros((3, 4)))


def test_switching_dropout_off() -> None:
    """``inference_mode`` switches it, and arguments of the call override."""
    layer = nn.MultiheadAttention(2, 4, dropout_p=0.5, key=jr.key(0))
    plain = nn.MultiheadAttention(2, 4, key=jr.key(0))
    x, key = jr.normal(jr.key(1), (3, 4)), jr.key(2)
    want, dropped = self_attend(plain, x), self_attend(layer, x, key=key)
    assert jnp.array_equal(self_attend(plain, x, key=key), want)
    assert not jnp.allclose(dropped, want)
    off = nn.inference_mode(layer)
    assert off.dropout.inference and not layer.dropout.inference
    built_off = nn.MultiheadAttention(
        2, 4, dropout_p=0.5, inference=True, key=jr.key(0)
    )
    assert built_off == off
    for y in (
        self_attend(off, x),
        self_attend(layer, x, inference=True),
        self_attend(layer, x, deterministic=True),
        self_attend(layer, x, inference=False, deterministic=True),
    ):
        assert jnp.array_equal(y, want)
    for y in (
        self_attend(off, x, key=key, inference=False),
        self_attend(off, x, key=key, deterministic=False),
        self_attend(off, x, key=key, inference=True, deterministic=False),
    ):
        assert jnp.array_equal(y, dropped)


@pytest.mark.parametrize("axes", [2, 3])
def test_a_row_that_may_attend_to_nothing(axes: int) -> None:
    """It gives the bias of the output and trains nothing, without any NaN."""
    layer = nn.MultiheadAttention(2, 4, **dict.fromkeys(BIASES, True), key=jr.key(0))
    x = jr.normal(jr.key(1), (3, 4))
    mask = np.array([[True, False, True], [False] * 3, [True] * 3])
    mask = mask if axes == 2 else np.stack([mask, mask[::-1]])
    with jax.debug_nans(True):
        y = self_attend(layer, x, mask)
        np.testing.assert_allclose(y, formula(layer, x, x, x, mask), 1e-5, 1e-6)
        if axes == 2:
            assert jnp.array_equal(y[1], layer.output_proj.bias)
        masked = np.zeros((3, 3), bool)
        grads = jax.grad(lambda m: jnp.sum(self_attend(m, x, masked)))(layer)
    assert jnp.array_equal(grads.output_proj.bias, jnp.full(4, 3.0))
    rest = vn.tree_at(lambda m: m.output_proj.bias, grads, jnp.zeros(4))
    assert all(jnp.array_equal(g, jnp.zeros_like(g)) for g in jax.tree.leaves(rest))


def test_causal_mask() -> None:
    """What lies behind the mask has no influence, not even the least."""
    layer = nn.MultiheadAttention(2, 4, key=jr.key(0))
    x = jr.normal(jr.key(1), (5, 4))
    causal = jnp.tri(5, dtype=bool)
    changed = x.at[3:].set(1e6)
    a, b = (self_attend(layer, y, causal) for y in (x, changed))
    assert jnp.array_equal(a[:3], b[:3]) and not jnp.allclose(a[3:], b[3:])
    per_head = jnp.stack([causal, jnp.ones((5, 5), bool)])
    c = self_attend(layer, x, per_head)
    assert not jnp.allclose(a, c)
    np.testing.assert_allclose(c, formula(layer, x, x, x, per_head), 1e-5, 1e-6)


def test_a_mask_in_numpy_or_traced() -> None:
    """Where the mask lives makes no difference."""
    layer = nn.MultiheadAttention(2, 4, key=jr.key(0))
    x, mask = jr.normal(jr.key(1), (5, 4)), np.tri(5, dtype=bool)
    want = self_attend(layer, x, jnp.asarray(mask))
    assert jnp.array_equal(self_attend(layer, x, mask), want)
    y = jax.jit(self_attend)(layer, x, mask)
    np.testing.assert_allclose(y, want, 1e-6, 1e-7)


def test_large_products() -> None:
    """Products far beyond the range of exp give a hard choice, not NaN."""
    layer = nn.MultiheadAttention(1, 2, key=jr.key(0))
    eye = dict.fromkeys([f"{name}.weight" for name in PROJECTIONS], jnp.eye(2))
    layer = with_parameters(layer, eye)
    x = jnp.array([[1e4, 0], [0, 1e4]])
    np.testing.assert_allclose(self_attend(layer, x), x)
    # The only key that is left may have the least product of all.
    x, mask = jnp.array([[1e4, 0], [-1e4, 0]]), ~np.eye(2, dtype=bool)
    np.testing.assert_allclose(self_attend(layer, x, mask), x[::-1])


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision(dtype: Any) -> None:
    """The softmax is taken in float32: sums of many small weights stay exact."""
    layer = nn.MultiheadAttention(1, 4, dtype=dtype, key=jr.key(0))
    one = dict.fromkeys(
        [f"{name}.weight" for name in PROJECTIONS[2:]], jnp.eye(4, dtype=dtype)
    )
    layer = with_parameters(layer, one)
    n = 3000
    x = jnp.zeros((n, 4), dtype)
    value = jnp.ones((n, 4), dtype)
    y, pull = jax.vjp(lambda m, v: m(x[:2], x, v), layer, value)
    assert y.dtype == dtype
    # In half, the sum of the exponentials would stop far below 3000.
    assert jnp.array_equal(y, jnp.ones((2, 4), dtype))
    grads, value_grad = pull(y)
    assert value_grad.dtype == dtype and grads.value_proj.weight.dtype == dtype


def test_products_beyond_half() -> None:
    """Products that overflow float16 are summed in float32."""
    layer = nn.MultiheadAttention(1, 2, dtype=jnp.float16, key=jr.key(0))
    eye = jnp.eye(2, dtype=jnp.float16)
    layer = with_parameters(layer, {f"{name}.weight": eye for name in PROJECTIONS})
    x = jnp.array([[500.0, 0], [0, 500.0]], jnp.float16)
    assert jnp.array_equal(self_attend(layer, x), x)


@pytest.mark.relaxed
def test_dtype_of_the_output() -> None:
    """It is that of the query, also where JAX promotes with wider parameters.

    Relaxed, as strict promotion refuses to multiply the two.
    """
    layer = nn.MultiheadAttention(2, 4, key=jr.key(0))
    x = jnp.ones((3, 4))
    assert layer(x.astype(jnp.bfloat16), x, x).dtype == jnp.bfloat16
    assert self_attend(layer, x.astype(jnp.float16)).dtype == jnp.float16
    half = nn.MultiheadAttention(2, 4, dtype=jnp.bfloat16, key=jr.key(0))
    assert self_attend(half, x).dtype == jnp.float32


def test_process_heads() -> None:
    """It gets the projected heads, and what it returns is used in their place."""
    layer = nn.MultiheadAttention(2, 6, 4, 5, qk_size=3, vo_size=2, key=jr.key(0))
    query, key, value = jnp.ones((4, 6)), jnp.ones((7, 4)), jr.normal(jr.key(1), (7, 5))
    seen = []

    def process(*heads: Any) -> Any:
        seen.extend(x.shape for x in heads)
        return (*heads[:2], 2 * heads[2])

    y = layer(query, key, value, process_heads=process)
    assert seen == [(4, 2, 3), (7, 2, 3), (7, 2, 2)]
    np.testing.assert_allclose(y, 2 * layer(query, key, value), 1e-6)
    heads = jax.vmap(layer.value_proj)(value).reshape(7, 2, 2)
    layer(query, key, value, process_heads=lambda q, k, v: [q, k, v])
    with jax.checking_leaks():
        layer(query, key, value, process_heads=lambda q, k, v: (q, k, _same(v, heads)))


def _same(v: Any, heads: Any) -> Any:
    np.testing.assert_allclose(v, heads, 1e-6)
    return v


def test_process_heads_as_equinox() -> None:
    """With positions turned into the heads, the output is that of Equinox."""
    x = jr.normal(jr.key(1), (6, 8))

    def run(module: Any) -> Any:
        layer = module.nn.MultiheadAttention(2, 8, key=jr.key(0))
        turn = jax.vmap(module.nn.RotaryPositionalEmbedding(4), in_axes=1, out_axes=1)
        return self_attend(
            layer, x, process_heads=lambda q, k, v: (turn(q), turn(k), v)
        )

    np.testing.assert_allclose(run(vn), run(eqx), 1e-5, 1e-6)


@pytest.mark.parametrize(("n", "m"), [(0, 3), (2, 0), (0, 0)])
def test_empty_sequences(n: int, m: int) -> None:
    """Where there is nothing to gather, zeros are gathered."""
    layer = nn.MultiheadAttention(2, 4, use_output_bias=True, key=jr.key(0))
    y = layer(jnp.ones((n, 4)), jnp.ones((m, 4)), jnp.ones((m, 4)))
    assert y.shape == (n, 4)
    masked = layer(*(jnp.ones((i, 4)) for i in (n, m, m)), jnp.ones((n, m), bool))
    assert jnp.array_equal(y, masked)
    if m == 0:
        assert jnp.array_equal(y, jnp.broadcast_to(layer.output_proj.bias, (n, 4)))


def test_the_order_of_keys_does_not_matter() -> None:
    """Shuffling keys and values together changes nothing, and queries are shuffled."""
    layer = nn.MultiheadAttention(2, 4, key=jr.key(0))
    x = jr.normal(jr.key(1), (6, 4))
    order = jr.permutation(jr.key(2), 6)
    want = self_attend(layer, x)
    np.testing.assert_allclose(layer(x, x[order], x[order]), want, 1e-5, 1e-6)
    np.testing.assert_allclose(self_attend(layer, x[order]), want[order], 1e-5, 1e-6)


def test_a_projection_can_be_replaced() -> None:
    """Any layer of the same sizes can stand in the place of a projection."""
    layer = nn.MultiheadAttention(2, 4, key=jr.key(0))
    x = jnp.ones((3, 4))
    scaled = nn.Sequential([layer.value_proj, nn.Lambda(lambda y: 2 * y)])
    other = vn.tree_at(lambda m: m.value_proj, layer, scaled)
    np.testing.assert_allclose(self_attend(other, x), 2 * self_attend(layer, x), 1e-6)
