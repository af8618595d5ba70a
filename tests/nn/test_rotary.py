"""Rotary positions beside complex numbers in float64, and Equinox."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from tests.strategies import refuses
from tests.world import x64
from vernal import nn
from vernal.errors import HyperparameterError, InputError

Rotary = nn.RotaryPositionalEmbedding
SIZES = [(0, 4), (1, 2), (2, 6), (9, 8), (50, 2), (3, 0)]


def turned(x: Any, theta: float = 10_000.0) -> np.ndarray[Any, Any]:
    """The equation of the docstring: complex numbers times unit ones, in float64."""
    x = np.asarray(x, float)
    length, size = x.shape
    half = size // 2
    frequencies = [theta ** (-2 * p / size) for p in range(half)]
    angles = np.arange(length)[:, None] * np.array(frequencies).reshape(1, half)
    y = (x[:, :half] + 1j * x[:, half:]) * np.exp(1j * angles)
    return np.concatenate([y.real, y.imag], axis=1)


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("theta", [10_000.0, 3, 0.5])
def test_formula(shape: tuple[int, int], theta: float) -> None:
    """Pairs of channels are complex numbers that are turned."""
    x = jr.normal(jr.key(0), shape)
    y = Rotary(shape[1], theta)(x)
    assert y.shape == shape
    np.testing.assert_allclose(y, turned(x, theta), 1e-5, 1e-6)


def test_gradient() -> None:
    """It is the rotation back, as the transpose of a rotation is its inverse."""
    rotary = Rotary(6)
    x = jr.normal(jr.key(0), (7, 6))
    y, pull = jax.vjp(rotary, x)
    np.testing.assert_allclose(pull(y)[0], x, 1e-5, 1e-6)


@pytest.mark.parametrize("shape", SIZES[:-1])
def test_equinox(shape: tuple[int, int]) -> None:
    """Values and gradients are those of Equinox.

    With the default theta only: it caches tables by size and dtype, whatever theta is.
    """
    x, cotangent = jr.normal(jr.key(0), shape), jr.normal(jr.key(1), shape)
    theirs = eqx.nn.RotaryPositionalEmbedding(shape[1])
    ours, theirs = (jax.vjp(layer, x) for layer in (Rotary(shape[1]), theirs))
    np.testing.assert_allclose(ours[0], theirs[0], 1e-5, 1e-5)
    for a, b in zip(ours[1](cotangent), theirs[1](cotangent), strict=True):
        np.testing.assert_allclose(a, b, 1e-5, 1e-5)


@pytest.mark.parametrize("end", [0, 1, 2, 3, 16, 17, 100])
def test_tables(end: int) -> None:
    """They are Equinox's, and right at every length."""
    ours = Rotary.precompute_freqs_cis(6, end, 100.0, jnp.float32)
    theirs = eqx.nn.RotaryPositionalEmbedding.precompute_freqs_cis(
        6, end, 100.0, jnp.float32
    )
    angles = np.arange(end)[:, None] * 100.0 ** (-np.arange(3)[None, :] / 3)
    for a, b, c in zip(ours, theirs, (np.cos(angles), np.sin(angles)), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype) == ((end, 3), jnp.float32)
        np.testing.assert_allclose(a, b, 0, 2e-5)
        np.testing.assert_allclose(a, c, 0, 2e-7)


@pytest.mark.parametrize("jit", [lambda f: f, jax.jit])
def test_far_positions(jit: Any) -> None:
    """At 100 000 sines and cosines are as exact as at 0, where float32 angles fail."""
    end, size = 100_001, 64
    cos, sin = jit(
        lambda: Rotary.precompute_freqs_cis(size, end, 10_000.0, "float32")
    )()
    positions, frequencies = np.arange(end), 10_000.0 ** (-np.arange(32) / 32)
    angles = np.outer(positions, frequencies)
    assert np.abs(cos - np.cos(angles)).max() < 2e-7
    assert np.abs(sin - np.sin(angles)).max() < 2e-7
    narrow = np.outer(positions.astype(np.float32), frequencies.astype(np.float32))
    assert np.abs(np.cos(narrow) - np.cos(angles)).max() > 1e-3


def test_constants_are_small() -> None:
    """A program for a long sequence does not hold tables of its length."""
    jaxpr = jax.make_jaxpr(Rotary(64))(jnp.zeros((10_000, 64)))
    sizes = [np.size(x) for x in jax.tree.leaves(jaxpr.consts)]
    assert sum(sizes) <= 4 * 101 * 32


def test_double_precision() -> None:
    """In 64-bit mode the tables are, if asked for, in double precision."""
    with x64():
        x = jr.normal(jr.key(0), (40, 4), jnp.float64)
        y = Rotary(4, dtype=jnp.float64)(x)
        assert y.dtype == jnp.float64
        np.testing.assert_allclose(y, turned(x), 1e-13, 1e-13)
        y = Rotary(4)(x)  # by default not, and still it is the input's dtype
        assert y.dtype == jnp.float64
        np.testing.assert_allclose(y, turned(x), 1e-6, 1e-6)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision(dtype: Any) -> None:
    """Half in, half out, with one rounding, at any position."""
    x = jr.normal(jr.key(0), (3000, 4)).astype(dtype)
    y = Rotary(4)(x)
    assert y.dtype == dtype
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.asarray(y, float), turned(x), eps / 1.9, 1e-5)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_tables_in_half_precision(dtype: Any) -> None:
    """They are rounded last; and the output keeps the dtype of the input."""
    half = Rotary.precompute_freqs_cis(4, 3000, 10_000.0, dtype)
    full = Rotary.precompute_freqs_cis(4, 3000, 10_000.0, jnp.float32)
    for a, b in zip(half, full, strict=True):
        assert a.dtype == dtype and jnp.array_equal(a, b.astype(dtype))
    x = jr.normal(jr.key(0), (3000, 4))
    y = Rotary(4, dtype=dtype)(x)
    assert y.dtype == jnp.float32
    table = [np.tile(np.asarray(t, float), (1, 2)) for t in half]
    want = np.asarray(x) * table[0] + np.asarray(Rotary.rotate_half(x)) * table[1]
    np.testing.assert_allclose(y, want, 1e-5, 1e-6)


def test_products_depend_on_the_distance_only() -> None:
    """The dot product of two turned entries is the same wherever the pair stands."""
    size, length = 8, 600
    query, key = jr.normal(jr.key(0), (2, size))
    rotary = jax.jit(Rotary(size))
    q, k = (rotary(jnp.broadcast_to(x, (length, size))) for x in (query, key))
    products = np.asarray(q, float) @ np.asarray(k, float).T
    for distance in (-500, -1, 0, 1, 2, 99):
        along = np.diagonal(products, distance)
        np.testing.assert_allclose(along, along[0], 1e-5, 3e-6)
    assert abs(products[0, 0] - products[0, 1]) > 1e-2


def test_lengths_are_kept() -> None:
    """A rotation changes no norm, and the first entry not at all."""
    x = jr.normal(jr.key(0), (20, 6))
    y = Rotary(6)(x)
    np.testing.assert_allclose(*(jnp.linalg.norm(z, axis=1) for z in (x, y)), 1e-5)
    assert jnp.array_equal(y[0], x[0])


def test_a_prefix_is_turned_alike() -> None:
    """An entry does not notice how long the sequence is."""
    x = jr.normal(jr.key(0), (50, 4))
    np.testing.assert_allclose(Rotary(4)(x)[:7], Rotary(4)(x[:7]), 1e-5, 1e-6)


def test_rotate_half() -> None:
    """The second half comes first, with the other sign, as in Equinox."""
    x = jnp.arange(8.0).reshape(2, 4)
    want = jnp.array([[-2.0, -3.0, 0.0, 1.0], [-6.0, -7.0, 4.0, 5.0]])
    assert jnp.array_equal(Rotary.rotate_half(x), want)
    assert jnp.array_equal(eqx.nn.RotaryPositionalEmbedding.rotate_half(x), want)
    np.testing.assert_array_equal(Rotary(4).rotate_half(x[0]), want[0])


def test_two_thetas() -> None:
    """Layers of the same size do not share tables."""
    x = jnp.ones((5, 4))
    for theta in (10_000.0, 10.0, 10_000.0):
        np.testing.assert_allclose(Rotary(4, theta)(x), turned(x, theta), 1e-5, 1e-6)


def test_static_values() -> None:
    """There are no leaves, and equal arguments give equal layers and one trace."""
    assert jax.tree.leaves(Rotary(4)) == []
    assert Rotary(4) == Rotary(4, 10_000, "float32") != Rotary(4, 500.0)
    assert Rotary(4).dtype == jnp.float32
    traces = []

    @jax.jit
    def run(rotary: Any, x: Any) -> Any:
        traces.append(None)
        return rotary(x)

    for rotary in (Rotary(4), Rotary(4, dtype=np.float32)):
        run(rotary, jnp.ones((3, 4)))
    assert len(traces) == 1


def test_heads_by_vmap() -> None:
    """Mapped over an axis of heads, each is turned by itself; NumPy is taken."""
    x = np.asarray(jr.normal(jr.key(0), (5, 3, 4)))
    y = jax.vmap(Rotary(4), in_axes=1, out_axes=1)(x)
    want = np.stack([turned(x[:, i]) for i in range(3)], axis=1)
    np.testing.assert_allclose(y, want, 1e-5, 1e-6)
    np.testing.assert_allclose(
        Rotary(4)(x[:, 0], key=jr.key(0)), want[:, 0], 1e-5, 1e-6
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("embedding_size", x) for x in (-2, 3, 4.0, True, None)),
        *(("theta", x) for x in (0, -1.0, float("inf"), float("nan"), "10", None)),
        *(("dtype", x) for x in (jnp.int32, jnp.complex64)),
    ],
)
def test_bad_arguments(name: str, value: Any) -> None:
    """What is outside its range is refused, by name."""
    with refuses(HyperparameterError, "RotaryPositionalEmbedding", f"`{name}`"):
        Rotary(**{"embedding_size": 4, name: value})


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (jnp.ones((3, 6)), ["embedding_size = 4", "(3, 6)"]),
        (jnp.ones(4), ["(4,)"]),
        (jnp.ones((3, 2, 4)), ["jax.vmap(layer, in_axes=1, out_axes=1)"]),
        (jnp.ones((3, 4), int), ["int32"]),
        (jnp.ones((3, 4), complex), ["complex64"]),
        ([[1.0] * 4], ["list"]),
    ],
)
def test_bad_inputs(x: Any, words: list[str]) -> None:
    """An input must be one real sequence of that size."""
    with refuses(InputError, "RotaryPositionalEmbedding", *words):
        Rotary(4)(x)


@jax.jit
def turned_from(rotary: Any, x: Any, start: Any) -> Any:
    return rotary(x, start=start)


def test_pieces() -> None:
    """A sequence in pieces is turned as a whole, in both precisions."""
    with x64():
        for dtype, tolerance in ((jnp.float32, 1e-6), (jnp.float64, 1e-12)):
            rotary = Rotary(6, 100.0, dtype)
            x = np.random.default_rng(0).normal(size=(20, 6)).astype(dtype)
            for start in (0, 7, 15):
                got = turned_from(rotary, x[start : start + 5], jnp.int32(start))
                want = turned(x, 100.0)[start : start + 5]
                np.testing.assert_allclose(got, want, tolerance, tolerance)
        rows = jax.vmap(turned_from, in_axes=(None, 0, 0))
        got = rows(rotary, x[:15].reshape(3, 5, 6), jnp.array([0, 5, 10]))
        want = turned(x, 100.0)[:15]
        np.testing.assert_allclose(got.reshape(15, 6), want, 1e-12, 1e-12)


def test_pieces_far_away() -> None:
    """Sines and cosines are exact at any position below 10⁸, and nearly so beyond."""
    rotary, x = Rotary(64), np.ones((3, 64), np.float32)
    frequencies = 10_000.0 ** (-np.arange(32) / 32)
    for start in (0, 127, 128, 99_999, 2**21 - 1, 99_999_990):
        angles = (start + np.arange(3))[:, None] * frequencies
        want = [np.cos(angles) - np.sin(angles), np.cos(angles) + np.sin(angles)]
        got = turned_from(rotary, x, start)
        np.testing.assert_allclose(got, np.concatenate(want, axis=1), 0, 8e-7)


@pytest.mark.parametrize("start", [-1, 1.0, True, jnp.zeros(()), jnp.arange(2)])
def test_bad_starts(start: Any) -> None:
    """What is no position is refused."""
    with refuses(InputError, "RotaryPositionalEmbedding", "`start`"):
        Rotary(4)(jnp.ones((3, 4)), start=start)
