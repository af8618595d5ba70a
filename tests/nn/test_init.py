"""Initial values: their distribution, dtype, and Equinox with the same key."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from tests.world import x64
from vernal.nn import _init
from vernal.nn._init import default_dtype, uniform_fan_in


def test_default_dtype() -> None:
    """It is float32, float64 in 64-bit mode, or what was asked for."""
    assert default_dtype(None) == jnp.float32
    with x64():
        assert default_dtype(None) == jnp.float64
    for dtype in (jnp.bfloat16, "float16", np.dtype("complex64"), np.float32):
        assert default_dtype(dtype) == jnp.dtype(dtype)


@pytest.mark.parametrize("fan_in", [1, 4, 10])
def test_distribution(fan_in: int) -> None:
    """Values are spread evenly over ±1/√fan_in."""
    n, limit = 100_000, 1 / np.sqrt(fan_in)
    x = uniform_fan_in(jr.key(0), (n,), jnp.dtype("float32"), fan_in)
    sample = np.sort(np.asarray(x, float))
    assert -limit <= sample[0] and sample[-1] <= limit
    # Kolmogorov's distance; it exceeds 1.95/√n once in a thousand samples.
    distance = np.abs((sample / limit + 1) / 2 - np.linspace(0, 1, n)).max()
    assert distance < 1.95 / np.sqrt(n)


def test_no_inputs() -> None:
    """Without inputs the limit is 1."""
    x = uniform_fan_in(jr.key(0), (1000,), jnp.dtype("float32"), 0)
    assert 0.9 < float(jnp.abs(x).max()) <= 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64"])
def test_dtypes_are_strong(dtype: Any) -> None:
    """Values have the dtype that was asked for, and it is strong."""
    x = uniform_fan_in(jr.key(0), (3, 2), jnp.dtype(dtype), 2)
    assert x.shape == (3, 2) and x.dtype == dtype and not x.weak_type


def test_complex_values_are_those_of_equinox() -> None:
    """Real and imaginary part are drawn independently, from the same keys."""
    ours = uniform_fan_in(jr.split(jr.key(5))[0], (4, 9), jnp.dtype("complex64"), 9)
    theirs = eqx.nn.Linear(9, 4, dtype=jnp.complex64, key=jr.key(5)).weight
    assert jnp.array_equal(ours, theirs)
    assert not jnp.array_equal(ours.real, ours.imag)


def as_jax_draws(key: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Uniform on ±1, of the shape itself."""
    return jr.uniform(key, shape, dtype, minval=-1, maxval=1)


SHAPES = [(), (0, 3), (1,), (7, 5), (256,), (257,), (4, 4, 3, 86), (70, 1000)]
DTYPES = ["float16", "bfloat16", "float32", "float64"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_numbers_are_those_of_the_shape(shape: tuple[int, ...], dtype: str) -> None:
    """Rounding sizes up changes no number, and what comes back is a plain array."""
    with x64():
        for key in (jr.key(1), jr.PRNGKey(2)):
            x = uniform_fan_in(key, shape, jnp.dtype(dtype), 1)
            expected = as_jax_draws(key, shape, dtype)
            assert x.dtype == dtype and x.shape == shape
            assert jnp.array_equal(x, expected)
            assert x.committed == expected.committed
            assert x.sharding == expected.sharding


def test_tracing_gives_the_same_numbers() -> None:
    """Built eagerly, under jit, by a constant key under jit, or by vmap: one result."""
    key, dtype = jr.key(3), jnp.dtype("float32")
    draw = lambda key: uniform_fan_in(key, (5, 7), dtype, 4)  # noqa: E731
    expected = draw(key)
    assert jnp.array_equal(jax.jit(draw)(key), expected)
    assert jnp.array_equal(jax.jit(lambda: draw(key))(), expected)
    assert "device_put" not in str(jax.make_jaxpr(lambda: draw(key))())
    keys = jr.split(key, 3)
    assert jnp.array_equal(jax.vmap(draw)(keys), jnp.stack([*map(draw, keys)]))
    assert jax.eval_shape(draw, key).shape == (5, 7)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> set[tuple[int, ...]]:
    """The shapes that JAX is asked to draw."""
    shapes = set()
    original = jr.uniform

    def uniform(key: Any, shape: Any, *args: Any, **kwargs: Any) -> Any:
        shapes.add(shape)
        return original(key, shape, *args, **kwargs)

    monkeypatch.setattr(_init.jr, "uniform", uniform)
    return shapes


def test_other_generators_draw_the_shape_itself(drawn: set[tuple[int, ...]]) -> None:
    """Where a number may depend on the size, nothing is rounded up."""
    key = jr.key(0, impl="rbg")
    x = uniform_fan_in(key, (3, 5), jnp.dtype("float32"), 1)
    assert drawn == {(3, 5)}
    assert jnp.array_equal(x, as_jax_draws(key, (3, 5), "float32"))
    with jax.threefry_partitionable(False):
        x = uniform_fan_in(jr.key(0), (3, 5), jnp.dtype("float32"), 1)
        assert jnp.array_equal(x, as_jax_draws(jr.key(0), (3, 5), "float32"))


def test_placement_is_jaxs() -> None:
    """A committed key, a default device and a mesh decide where the numbers go."""
    device = jax.devices()[3]
    dtype = jnp.dtype("float32")
    x = uniform_fan_in(jax.device_put(jr.key(0), device), (3, 5), dtype, 1)
    assert x.committed and x.devices() == {device}
    with jax.default_device(device):
        x = uniform_fan_in(jr.key(0), (3, 5), dtype, 1)
    assert not x.committed and x.devices() == {device}
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        x = uniform_fan_in(jr.key(0), (3, 5), dtype, 1)
        assert x.sharding == as_jax_draws(jr.key(0), (3, 5), dtype).sharding


def test_similar_shapes_share_one_program(drawn: set[tuple[int, ...]]) -> None:
    """A drawing of another small shape compiles nothing."""
    for shape in [(3, 3), (16, 16), (5,), (10, 30), (64, 64), (4096,), (1, 1, 7)]:
        uniform_fan_in(jr.key(0), shape, jnp.dtype("float32"), 1)
    assert drawn == {(2**8,), (2**12,)}
