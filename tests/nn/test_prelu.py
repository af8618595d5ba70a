"""PReLU beside PyTorch's values and Equinox."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import vernal as vn
from tests.nn.norm_fixture import assert_like_pytorch, cases
from tests.strategies import refuses
from tests.world import x64
from vernal import nn
from vernal.errors import HyperparameterError, InputError


def per_channel(options: dict[str, Any]) -> nn.PReLU:
    """PyTorch's slopes are along the first axis of an example of three."""
    channels = options.get("channels")
    return nn.PReLU() if channels is None else nn.PReLU(jnp.ones((channels, 1, 1)))


@pytest.mark.parametrize(("number", "options"), cases("PReLU"))
def test_pytorch(number: int, options: dict[str, Any]) -> None:
    """Output and gradients are PyTorch's, in single and in double precision."""
    assert_like_pytorch(number, per_channel(options), jnp.float32, 1e-6)
    with x64():
        assert_like_pytorch(number, per_channel(options), jnp.float64, 1e-14)


@pytest.mark.parametrize(
    "alpha", [0.25, -0.5, 2.0, np.float32(0.1), np.array([1.0, 2])]
)
def test_formula(alpha: Any) -> None:
    """The output is the input above 0, and the slope times it below."""
    x = np.array([[-3.0, 2.0], [0.0, -1.0], [5.0, -0.5]], np.float32)
    want = np.maximum(x, 0) + alpha * np.minimum(x, 0)
    np.testing.assert_allclose(nn.PReLU(alpha)(jnp.asarray(x)), want, rtol=1e-6)


@pytest.mark.relaxed
def test_equinox() -> None:
    """With the same arguments, values and gradients at 0 are those of Equinox.

    Relaxed, as Equinox lets a float and an array of the input's dtype meet.
    """
    x = jnp.array([-2.0, -0.0, 0.0, 3.0])
    for alpha in (0.25, jnp.array([1.0, 2.0, 3.0, 4.0])):
        ours, theirs = nn.PReLU(alpha), eqx.nn.PReLU(alpha)
        assert jnp.array_equal(ours.negative_slope, theirs.negative_slope)
        assert jnp.array_equal(ours(x), theirs(x))
        slopes = [jax.grad(lambda x, f=f: f(x).sum())(x) for f in (ours, theirs)]
        assert jnp.array_equal(*slopes)


@pytest.mark.parametrize("alpha", [0.25, 1, np.float32(0.5), np.float64(0.5)])
def test_a_number_becomes_a_strong_parameter(alpha: Any) -> None:
    """The slope is one trainable array whose type no update changes."""
    slope = nn.PReLU(alpha).negative_slope
    assert slope.shape == () and slope.dtype == jnp.float32 and not slope.weak_type
    assert float(slope) == alpha


def test_an_array_keeps_its_dtype() -> None:
    """Slopes given as an array keep their dtype, and lose a weak type."""
    assert nn.PReLU(jnp.ones(3, jnp.bfloat16)).negative_slope.dtype == jnp.bfloat16
    assert not nn.PReLU(jnp.asarray(0.25)).negative_slope.weak_type


def test_one_trace() -> None:
    """Training the slope does not compile anew."""
    count = 0

    @jax.jit
    def step(prelu: nn.PReLU, x: Any) -> nn.PReLU:
        nonlocal count
        count += 1
        grads = jax.grad(lambda m: m(x).sum())(prelu)
        return jax.tree.map(lambda p, g: p - 0.1 * g, prelu, grads)

    prelu = step(step(nn.PReLU(), jnp.arange(-2.0, 2.0)), jnp.arange(-2.0, 2.0))
    assert count == 1
    np.testing.assert_allclose(prelu.negative_slope, 0.25 + 2 * 0.1 * 3, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_dtype_of_the_output(dtype: Any) -> None:
    """The output has the dtype of the input, whatever that of the slope."""
    for slope in (jnp.bfloat16, jnp.float32):
        y = nn.PReLU(jnp.full((), 0.25, slope))(jnp.array([-4.0, 4.0], dtype))
        assert y.dtype == dtype
        assert jnp.array_equal(y, jnp.array([-1.0, 4.0], dtype))


def test_infinity() -> None:
    """An infinite input has an infinite output, and spoils no gradient above 0."""
    prelu = nn.PReLU(0.5)
    x = jnp.array([jnp.inf, -jnp.inf, 1.0])
    assert jnp.array_equal(prelu(x), jnp.array([jnp.inf, -jnp.inf, 1.0]))
    gradient = jax.grad(lambda m: m(x[::2]).sum())(prelu)
    assert float(gradient.negative_slope) == 0


def test_it_stands_in_a_sequential() -> None:
    """It takes the key that a container hands to each layer."""
    model = nn.Sequential([nn.PReLU(), nn.Dropout(0.0)])
    assert jnp.array_equal(model(jnp.array([-4.0]), key=jr.key(0)), jnp.array([-1.0]))
    mlp = nn.MLP(2, 1, 3, 1, activation=nn.PReLU(), key=jr.key(0))
    assert vn.filter_grad(lambda m: m(jnp.ones(2))[0])(mlp).activation is not None


@pytest.mark.parametrize(
    "alpha",
    ["steep", None, True, [0.1, 0.2], jnp.arange(3), jnp.array(1j), float("nan")],
)
def test_bad_arguments(alpha: Any) -> None:
    """What is neither a number nor a floating-point array is refused."""
    with refuses(HyperparameterError, "PReLU", "`init_alpha`"):
        nn.PReLU(alpha)


def test_a_large_array_is_shown_in_short() -> None:
    """The message about an argument stays short, however large that is."""
    with refuses(HyperparameterError, "..."):
        nn.PReLU(jnp.zeros((100, 100), jnp.int32))


@pytest.mark.parametrize(
    ("x", "word"),
    [
        (jnp.ones(4), "(4,)"),
        (jnp.ones(()), "()"),
        (jnp.ones((3, 2)), "(3, 1)"),
        (jnp.ones(3, jnp.int32), "int32"),
        (jnp.ones(3, jnp.complex64), "complex64"),
        ([1.0], "list"),
    ],
)
def test_bad_inputs(x: Any, word: str) -> None:
    """An input must be real floating-point, of a shape that takes the slopes."""
    with refuses(InputError, "PReLU", word):
        nn.PReLU(jnp.ones(3))(x)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (1, 1, 3)])
def test_broadcasting_follows_numpy(shape: tuple[int, ...]) -> None:
    """Slopes are broadcast to the input, never the input to the slopes."""
    slopes = jnp.array([1.0, 2.0, 3.0])
    y = nn.PReLU(slopes)(-jnp.ones(shape))
    assert y.shape == shape and jnp.array_equal(y.reshape(-1)[-3:], -slopes)
    with refuses(InputError):
        nn.PReLU(slopes)(jnp.ones(1))
