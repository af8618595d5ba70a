"""Linear beside NumPy's matrix product and Equinox."""

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

SIZES: list[tuple[Any, Any]] = [
    (3, 2),
    (1, 4),
    ("scalar", 3),
    (3, "scalar"),
    ("scalar", "scalar"),
    (0, 2),
    (0, "scalar"),
]


def formula(linear: nn.Linear, x: Any) -> np.ndarray[Any, Any]:
    """The equation of the docstring, in float64."""
    weight, bias = np.asarray(linear.weight, float), np.asarray(linear.bias, float)
    return weight @ np.asarray(x, float) + bias


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("dtype", [None, jnp.float16, jnp.complex64])
def test_parameters_are_those_of_equinox(
    sizes: Any, use_bias: bool, dtype: Any
) -> None:
    """The same key gives the same parameters, bit for bit."""
    ours = nn.Linear(*sizes, use_bias, dtype, key=jr.key(3))
    theirs = eqx.nn.Linear(*sizes, use_bias, dtype, key=jr.key(3))
    for name in ("in_features", "out_features", "use_bias"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert (ours.bias is None) == (not use_bias)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert jnp.array_equal(a, b) and a.dtype == b.dtype and not a.weak_type


@pytest.mark.parametrize("sizes", SIZES)
def test_formula(sizes: Any) -> None:
    """The output is ``W x + b``, where a scalar counts as a vector of one."""
    linear = nn.Linear(*sizes, key=jr.key(0))
    x = jr.normal(jr.key(1), () if sizes[0] == "scalar" else sizes[:1])
    y, want = linear(x), formula(linear, np.atleast_1d(x))
    assert y.shape == (() if sizes[1] == "scalar" else sizes[1:])
    np.testing.assert_allclose(np.atleast_1d(y), want, rtol=1e-6, atol=1e-6)


def test_gradients() -> None:
    """The gradients are the outer product of cotangent and input, and the cotangent."""
    linear = nn.Linear(3, 2, key=jr.key(0))
    x, cotangent = jr.normal(jr.key(1), (3,)), jr.normal(jr.key(2), (2,))
    _, pull = jax.vjp(lambda m, x: m(x), linear, x)
    grads, x_grad = pull(cotangent)
    np.testing.assert_allclose(grads.weight, np.outer(cotangent, x), rtol=1e-6)
    np.testing.assert_allclose(grads.bias, cotangent)
    np.testing.assert_allclose(x_grad, linear.weight.T @ cotangent, rtol=1e-6)


@pytest.mark.parametrize("sizes", [(3, "scalar"), ("scalar", 2), ("scalar", "scalar")])
def test_gradients_of_scalars(sizes: Any) -> None:
    """Where one side is a scalar, the gradients are those of a vector of one."""
    scalar = nn.Linear(*sizes, key=jr.key(0))
    counts = [1 if size == "scalar" else size for size in sizes]
    vector = nn.Linear(*counts, key=jr.key(0))
    x = jr.normal(jr.key(1), (counts[0],))
    cotangent = jr.normal(jr.key(2), (counts[1],))

    def grads(linear: nn.Linear, shape: Any, out_shape: Any) -> Any:
        _, pull = jax.vjp(lambda m, x: m(x), linear, x.reshape(shape))
        return pull(cotangent.reshape(out_shape))

    shapes = [() if size == "scalar" else (size,) for size in sizes]
    got, x_grad = grads(scalar, *shapes)
    want, want_x = grads(vector, counts[:1], counts[1:])
    assert x_grad.shape == shapes[0]
    np.testing.assert_allclose(np.atleast_1d(x_grad), want_x, rtol=1e-6)
    np.testing.assert_allclose(got.weight, want.weight, rtol=1e-6)
    np.testing.assert_allclose(got.bias, want.bias, rtol=1e-6)


@pytest.mark.parametrize("out_size", [2, "scalar"])
def test_a_batch_of_scalars_by_vmap(out_size: Any) -> None:
    """A vector is a batch of scalars under vmap."""
    linear = nn.Linear("scalar", out_size, key=jr.key(0))
    ys = jax.vmap(linear)(jnp.arange(5.0))
    assert ys.shape == ((5,) if out_size == "scalar" else (5, 2))
    want = jnp.stack([linear(float(i)) for i in range(5)])
    np.testing.assert_allclose(ys, want, rtol=1e-6)


def test_a_batch_by_vmap() -> None:
    """Under vmap each example is mapped by itself."""
    linear = nn.Linear(3, 2, key=jr.key(0))
    x = jr.normal(jr.key(1), (5, 3))
    want = np.stack([formula(linear, row) for row in x])
    np.testing.assert_allclose(jax.vmap(linear)(x), want, rtol=1e-5, atol=1e-6)


def test_double_precision() -> None:
    """In 64-bit mode parameters are in double precision."""
    with x64():
        linear = nn.Linear(3, 2, key=jr.key(0))
        theirs = eqx.nn.Linear(3, 2, key=jr.key(0))
        assert linear.weight.dtype == jnp.float64
        assert jnp.array_equal(linear.weight, theirs.weight)


def test_a_python_number_is_a_scalar() -> None:
    """A map of scalars takes Python's numbers, as Equinox does."""
    linear = nn.Linear("scalar", 2, key=jr.key(0))
    want = linear(jnp.array(2.0))
    for x in (2.0, 2, np.float32(2.0)):
        assert jnp.array_equal(linear(x), want)


def test_numpy() -> None:
    """NumPy's integers and arrays are taken as well."""
    linear = nn.Linear(np.prod((2, 3)), np.int8(2), key=jr.key(0))
    assert linear.weight.shape == (2, 6)
    assert linear(np.ones(6, np.float32)).shape == (2,)


def test_only_parameters_are_leaves() -> None:
    """Sizes and flags are static."""
    linear = nn.Linear(3, 2, key=jr.key(0))
    assert [x.shape for x in jax.tree.leaves(linear)] == [(2, 3), (2,)]
    other = nn.Linear(3, 2, key=jr.key(1))
    assert jax.tree.structure(linear) == jax.tree.structure(other)


@pytest.mark.parametrize("name", ["in_features", "out_features"])
@pytest.mark.parametrize(
    "value", [-1, 2.0, True, None, "vector", (3,), np.array([3, 4])]
)
def test_bad_arguments(name: str, value: Any) -> None:
    """A size that is neither an int ≥ 0 nor "scalar" is refused, by name."""
    with refuses(HyperparameterError, "Linear", f"`{name}`"):
        nn.Linear(
            **{"in_features": 3, "out_features": 2, name: value, "key": jr.key(0)}
        )


@pytest.mark.parametrize(
    ("size", "x", "words"),
    [
        (3, jnp.ones(4), ["(in_features,) with in_features = 3", "(4,), float32"]),
        (3, jnp.ones(()), ["()"]),
        (3, jnp.ones((5, 3)), ["(5, 3)", "jax.vmap(layer)"]),
        (3, jnp.ones((3, 5)), ["(3, 5)"]),
        (3, [1.0, 2.0, 3.0], ["list", "jnp.asarray"]),
        (3, 1.0, ["float"]),
        (1, jnp.ones(()), ["()"]),
        ("scalar", jnp.ones(1), ["()", "(1,)", "jax.vmap"]),
        ("scalar", [1.0], ["list"]),
    ],
)
def test_bad_inputs(size: Any, x: Any, words: list[str]) -> None:
    """An input of another shape is refused."""
    with refuses(InputError, "Linear", *words):
        nn.Linear(size, 2, key=jr.key(0))(x)


def test_message() -> None:
    """The text of an error at a layer by itself."""
    with pytest.raises(InputError) as info:
        nn.Linear(3, 2, key=jr.key(0))(jnp.ones((5, 3)))
    assert str(info.value) == (
        "Linear: the input has the wrong shape.\n"
        "  expected: (in_features,) with in_features = 3\n"
        "  got:      (5, 3), float32\n"
        "  fix:      layers take one example; for a batch use jax.vmap(layer)"
    )
