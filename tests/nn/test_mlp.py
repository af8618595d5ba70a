"""MLP beside a loop of matrix products in NumPy, and Equinox."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import vernal as vn
from tests.strategies import refuses
from vernal import nn
from vernal.errors import HyperparameterError, InputError

ARGUMENTS: list[Any] = [
    (2, 3, 4, 0),
    (2, 3, 4, 1),
    (2, 3, 4, 3),
    ("scalar", "scalar", 4, 1),
    (2, "scalar", 4, 0),
]


@pytest.mark.parametrize("arguments", ARGUMENTS)
@pytest.mark.parametrize("biases", [(True, True), (False, True), (True, False)])
def test_parameters_are_those_of_equinox(arguments: Any, biases: Any) -> None:
    """The same key gives the same parameters, bit for bit."""
    options = {"use_bias": biases[0], "use_final_bias": biases[1], "key": jr.key(3)}
    ours, theirs = nn.MLP(*arguments, **options), eqx.nn.MLP(*arguments, **options)
    for name in ("in_size", "out_size", "width_size", "depth", "scan", *options):
        assert name == "key" or getattr(ours, name) == getattr(theirs, name)
    parameters = [jax.tree.leaves(eqx.filter(m, eqx.is_array)) for m in (ours, theirs)]
    for a, b in zip(*parameters, strict=True):
        assert jnp.array_equal(a, b) and a.dtype == b.dtype


@pytest.mark.parametrize("arguments", ARGUMENTS[1:-1])
def test_output_is_that_of_equinox(arguments: Any) -> None:
    """With the same key the output is the same."""
    options: Any = {"activation": jnp.tanh, "final_activation": jnp.exp}
    options["key"] = jr.key(3)
    x = jr.normal(jr.key(1), () if arguments[0] == "scalar" else arguments[:1])
    want = eqx.nn.MLP(*arguments, **options)(x)
    np.testing.assert_allclose(nn.MLP(*arguments, **options)(x), want, rtol=1e-6)


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_formula(depth: int) -> None:
    """Activations stand after each hidden layer, the final one after the output."""
    mlp = nn.MLP(2, 3, 4, depth, jnp.tanh, jnp.exp, key=jr.key(0))
    assert len(mlp.layers) == depth + 1
    x = jr.normal(jr.key(1), (2,))
    want = np.asarray(x, float)
    for layer in mlp.layers:
        weight, bias = np.asarray(layer.weight, float), np.asarray(layer.bias, float)
        function = np.exp if layer is mlp.layers[-1] else np.tanh
        want = function(weight @ want + bias)
    np.testing.assert_allclose(mlp(x), want, rtol=1e-5)


def test_the_final_activation_sees_the_whole_output() -> None:
    """A softmax of three outputs sums to 1."""
    mlp = nn.MLP(2, 3, 4, 1, final_activation=jax.nn.softmax, key=jr.key(0))
    np.testing.assert_allclose(mlp(jnp.ones(2)).sum(), 1, rtol=1e-6)


def test_plain_activations_are_no_leaves() -> None:
    """All leaves are arrays, and equal arguments give equal structures."""
    first = nn.MLP(2, 3, 4, 2, activation=jnp.tanh, key=jr.key(0))
    second = nn.MLP(2, 3, 4, 2, activation=jnp.tanh, key=jr.key(1))
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(first))
    assert len(jax.tree.leaves(first)) == 6
    assert jax.tree.structure(first) == jax.tree.structure(second)


def test_a_learned_activation_is_trained() -> None:
    """A Module as activation is part of the tree, once for all hidden layers."""
    mlp = nn.MLP(2, 3, 4, 2, activation=nn.PReLU(0.5), key=jr.key(0))
    grads = vn.filter_grad(lambda m: m(-jnp.ones(2)).sum())(mlp)
    assert grads.activation.negative_slope.shape == ()
    assert float(grads.activation.negative_slope) != 0


def test_the_structure_can_be_built_without_memory() -> None:
    """Shapes alone can be asked for, as for loading a file."""
    mlp = vn.filter_eval_shape(nn.MLP, 2, 3, 10**6, 1, key=jr.key(0))
    assert mlp.layers[0].weight.shape == (10**6, 2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("depth", -1),
        ("depth", 1.0),
        ("depth", True),
        ("width_size", -1),
        ("width_size", "scalar"),
        ("width_size", None),
        ("in_features", -1),
        ("out_features", 2.5),
    ],
)
def test_bad_arguments(name: str, value: Any) -> None:
    """An argument outside its range is refused at construction, by name."""
    argument = {"in_features": "in_size", "out_features": "out_size"}.get(name, name)
    sizes = {"in_size": 2, "out_size": 3, "width_size": 4, "depth": 1, argument: value}
    with refuses(HyperparameterError, f"`{name}`"):
        nn.MLP(**sizes, key=jr.key(0))


def test_bad_inputs() -> None:
    """An input of another shape is refused, at the layer inside that sees it."""
    mlp = nn.MLP(2, 3, 4, 1, key=jr.key(0))
    with refuses(InputError, "Linear at `layers[0]` of MLP", "(5,)"):
        mlp(jnp.ones(5))
