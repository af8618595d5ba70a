"""Identity, Lambda and Dropout: values, frequencies, and Equinox with the same key."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import vernal as vn
from tests.strategies import Scale, refuses
from vernal import nn
from vernal.errors import HyperparameterError, InputError


def test_identity() -> None:
    """Any constructor arguments are ignored, and any input comes back."""
    identity = nn.Identity(3, "x", key=jr.key(0), size=2)
    assert identity == nn.Identity() and jax.tree.leaves(identity) == []
    for x in (3, "text", None, [jnp.ones(2)]):
        assert identity(x) is x
        assert identity(x, key=jr.key(0)) is x


def test_lambda_calls_its_function() -> None:
    """It hands on the input, and keeps the key to itself."""
    assert jnp.array_equal(nn.Lambda(jnp.abs)(-jnp.ones(2), key=jr.key(0)), jnp.ones(2))
    assert nn.Lambda(lambda x: x + "b")("a") == "ab"


def test_lambda_of_a_function_has_no_leaves() -> None:
    """A plain function is static; a Module with parameters stays part of the tree."""
    assert jax.tree.leaves(nn.Lambda(jnp.tanh)) == []
    assert nn.Lambda(jnp.tanh) == nn.Lambda(jnp.tanh) != nn.Lambda(jnp.sin)
    grads = jax.grad(lambda m: m(jnp.array(3.0)))(nn.Lambda(Scale(jnp.array(2.0))))
    assert float(grads.fn.factor) == 3


@pytest.mark.parametrize("fn", [None, 3, "tanh"])
def test_lambda_needs_a_callable(fn: Any) -> None:
    """What cannot be called is refused."""
    with refuses(HyperparameterError, "Lambda", "`fn`"):
        nn.Lambda(fn)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_frequency_and_scale(p: float) -> None:
    """Elements are dropped with probability p, and the mean is kept."""
    n = 100_000
    y = np.asarray(nn.Dropout(p)(jnp.full(n, 3.0), key=jr.key(0)), float)
    np.testing.assert_allclose(np.unique(y), [0, 3 / (1 - p)], rtol=1e-6)
    # Six standard deviations of the number of zeros.
    assert abs((y == 0).mean() - p) < 6 * np.sqrt(p * (1 - p) / n)


@pytest.mark.parametrize("p", [0.0, 0.3, 1 / 3])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dropout_is_that_of_equinox(p: float, dtype: Any) -> None:
    """The same key drops the same elements."""
    x = jr.normal(jr.key(1), (20, 5)).astype(dtype)
    ours, theirs = (m.nn.Dropout(p)(x, key=jr.key(2)) for m in (vn, eqx))
    assert jnp.array_equal(ours, theirs) and ours.dtype == dtype


def test_dropout_of_everything() -> None:
    """For p = 1 output and gradient are 0, not NaN; for p = 0 all is kept."""
    x = jnp.ones(5)
    y, gradient = jax.value_and_grad(lambda x: nn.Dropout(1)(x, key=jr.key(0)).sum())(x)
    assert float(y) == 0 and jnp.array_equal(gradient, jnp.zeros(5))
    assert nn.Dropout(0.0)(x) is x


def test_dropout_gradient() -> None:
    """The gradient is 1/(1-p) where an element was kept, and 0 elsewhere."""
    dropout, x = nn.Dropout(0.25), jr.normal(jr.key(0), (50,))
    y, pull = jax.vjp(lambda x: dropout(x, key=jr.key(1)), x)
    np.testing.assert_allclose(pull(jnp.ones(50))[0], np.where(y == 0, 0, 4 / 3))


def test_dropout_in_inference() -> None:
    """In inference the input passes, without a key; an argument beats the field."""
    x = jnp.ones(5)
    assert nn.Dropout(0.5, inference=True)(x) is x
    assert nn.Dropout(0.5)(x, inference=True) is x
    y = nn.Dropout(1.0, inference=True)(x, key=jr.key(0), inference=False)
    assert jnp.array_equal(y, jnp.zeros(5))
    assert nn.inference_mode(nn.Dropout(0.5))(x) is x


def test_dropout_older_name() -> None:
    """``deterministic`` is ``inference``, and beats it where both are given."""
    x = jnp.ones(5)
    dropout = nn.Dropout(1.0, inference=False, deterministic=True)
    assert dropout.inference is dropout.deterministic is True
    assert dropout(x) is x
    y = dropout(x, key=jr.key(0), inference=True, deterministic=False)
    assert jnp.array_equal(y, jnp.zeros(5))


def test_local_functions_are_compared_by_value() -> None:
    """Two Lambdas, or MLPs, of the same local function are equal and compile once."""

    def make() -> Any:
        return nn.Lambda(lambda x: 2 * x), nn.MLP(
            2, 2, 4, 1, lambda x: x**2, lambda x: -x, key=jr.key(0)
        )

    traces = []

    @jax.jit
    def run(pair: Any, x: Any) -> Any:
        traces.append(None)
        return pair[1](pair[0](x))

    assert make() == make()
    x = jnp.ones(2)
    assert jnp.array_equal(run(make(), x), run(make(), x)) and len(traces) == 1
    assert jax.tree.map(jnp.add, make(), make())[0](3) == 6


def test_dropout_has_no_leaves() -> None:
    """Rate and mode are static, and compared by value."""
    assert jax.tree.leaves(nn.Dropout(0.5)) == []
    assert nn.Dropout(0.5) == nn.Dropout(0.5) != nn.Dropout(0.5, inference=True)


@pytest.mark.parametrize(
    "p", [-0.1, 1.1, float("nan"), None, "half", jnp.ones(2), True]
)
def test_dropout_bad_arguments(p: Any) -> None:
    """What is no probability is refused."""
    with refuses(HyperparameterError, "Dropout", "`p`"):
        nn.Dropout(p)


def test_dropout_bad_inputs() -> None:
    """In training a key is needed; and an array."""
    with refuses(InputError, "Dropout", "key=None", "inference_mode"):
        nn.Dropout(0.5)(jnp.ones(3))
    with refuses(InputError, "Dropout", "list"):
        nn.Dropout(0.5)([1.0], key=jr.key(0))
