"""MLP beside a loop of matrix products in NumPy, and Equinox."""

import io
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

# With and without scanning, which makes no difference to what is expected.
each_way = pytest.mark.parametrize("scan", [False, True])
ARGUMENTS: list[Any] = [
    (2, 3, 4, 0),
    (2, 3, 4, 1),
    (2, 3, 4, 2),
    (2, 3, 4, 3),
    ("scalar", "scalar", 4, 0),
    ("scalar", "scalar", 4, 1),
    ("scalar", 3, 4, 2),
    (2, "scalar", 4, 0),
    (2, "scalar", 4, 3),
]


@each_way
@pytest.mark.parametrize("arguments", ARGUMENTS)
@pytest.mark.parametrize("biases", [(True, True), (False, True), (True, False)])
def test_parameters_are_those_of_equinox(
    arguments: Any, biases: Any, scan: bool
) -> None:
    """The same key gives the same parameters, bit for bit, in as many layers."""
    options = {"use_bias": biases[0], "use_final_bias": biases[1], "key": jr.key(3)}
    options["scan"] = scan
    ours, theirs = nn.MLP(*arguments, **options), eqx.nn.MLP(*arguments, **options)
    for name in ("in_size", "out_size", "width_size", "depth", "scan", *options):
        assert name == "key" or getattr(ours, name) == getattr(theirs, name)
    assert len(ours.layers) == len(theirs.layers)
    parameters = [jax.tree.leaves(eqx.filter(m, eqx.is_array)) for m in (ours, theirs)]
    for a, b in zip(*parameters, strict=True):
        assert jnp.array_equal(a, b) and a.dtype == b.dtype


@each_way
@pytest.mark.parametrize("arguments", [a for a in ARGUMENTS if a[3] > 0])
def test_output_is_that_of_equinox(arguments: Any, scan: bool) -> None:
    """With the same key the output is the same."""
    options: Any = {"activation": jnp.tanh, "final_activation": jnp.exp}
    options |= {"key": jr.key(3), "scan": scan}
    x = jr.normal(jr.key(1), () if arguments[0] == "scalar" else arguments[:1])
    want = eqx.nn.MLP(*arguments, **options)(x)
    np.testing.assert_allclose(nn.MLP(*arguments, **options)(x), want, rtol=1e-6)


def unstacked(mlp: nn.MLP) -> list[Any]:
    """Weight and bias of each layer, in float64, whether they are stacked or not."""
    pairs = [(np.asarray(m.weight), np.asarray(m.bias)) for m in mlp.layers]
    if mlp.scan and mlp.depth > 0:
        pairs = [pairs[0], *zip(*pairs[1], strict=True), pairs[2]]
    return [(weight.astype(float), bias.astype(float)) for weight, bias in pairs]


@each_way
@pytest.mark.parametrize("out_size", [3, "scalar"])
@pytest.mark.parametrize("in_size", [2, "scalar"])
@pytest.mark.parametrize("depth", [0, 1, 2, 4])
def test_formula(in_size: Any, out_size: Any, depth: int, scan: bool) -> None:
    """Activations stand after each hidden layer, the final one after the output."""
    mlp = nn.MLP(
        in_size, out_size, 4, depth, jnp.tanh, jnp.exp, scan=scan, key=jr.key(0)
    )
    x = jr.normal(jr.key(1), () if in_size == "scalar" else (2,))
    parameters = unstacked(mlp)
    assert len(parameters) == depth + 1
    want = np.atleast_1d(np.asarray(x, float))
    for i, (weight, bias) in enumerate(parameters):
        function = np.exp if i == depth else np.tanh
        want = function(weight @ want + bias)
    want = want[0] if out_size == "scalar" else want
    y = mlp(x)
    assert y.shape == want.shape
    np.testing.assert_allclose(y, want, rtol=1e-5)


@pytest.mark.parametrize("depth", [0, 1, 2, 4])
def test_gradients_when_scanned(depth: int) -> None:
    """All gradients, of a learned activation too, are those of the unrolled layers."""
    slope = nn.PReLU(jnp.linspace(0.1, 0.4, 4))
    options: Any = {"activation": slope, "key": jr.key(0)}
    x = jr.normal(jr.key(1), (2,))
    grad = jax.jit(jax.grad(lambda m, x: jnp.sum(jnp.sin(m(x))), (0, 1)))
    plain, plain_x = grad(nn.MLP(2, 3, 4, depth, **options), x)
    scanned, scanned_x = grad(nn.MLP(2, 3, 4, depth, **options, scan=True), x)
    np.testing.assert_allclose(scanned_x, plain_x, rtol=1e-5)
    slopes = [m.activation.negative_slope for m in (scanned, plain)]
    np.testing.assert_allclose(*slopes, rtol=1e-5, atol=1e-7)
    assert depth == 0 or np.any(slopes[0] != 0)
    pairs = zip(unstacked(scanned), unstacked(plain), strict=True)
    for got, want in pairs:
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def size(jaxpr: Any) -> int:
    """The number of operations in a jaxpr and those inside of it."""
    is_jaxpr = lambda x: hasattr(x, "eqns")  # noqa: E731
    total = 0
    for eqn in jaxpr.eqns:
        inner = jax.tree.leaves(list(eqn.params.values()), is_leaf=is_jaxpr)
        total += 1 + sum(size(getattr(x, "jaxpr", x)) for x in inner if is_jaxpr(x))
    return total


def test_scanned_programs_do_not_grow() -> None:
    """To build, to call and to differentiate takes as many operations for any depth."""

    def sizes(depth: int, scan: bool) -> list[int]:
        make = lambda: nn.MLP(2, 3, 4, depth, scan=scan, key=jr.key(0))  # noqa: E731
        mlp, x = vn.filter_eval_shape(make), jnp.ones(2)
        grad = jax.grad(lambda m, x: m(x).sum())
        jaxprs = [
            jax.make_jaxpr(make)(),
            jax.make_jaxpr(lambda m, x: m(x))(mlp, x),
            jax.make_jaxpr(grad)(mlp, x),
        ]
        return [size(jaxpr.jaxpr) for jaxpr in jaxprs]

    assert sizes(4, True) == sizes(40, True)
    plain, deep = sizes(4, False), sizes(40, False)
    assert all(b > 5 * a for a, b in zip(plain, deep, strict=True))


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_files_of_equinox_when_scanned(depth: int) -> None:
    """A model file that Equinox wrote can be read."""
    file = io.BytesIO()
    theirs = eqx.nn.MLP(2, 3, 4, depth, scan=True, key=jr.key(1))
    eqx.tree_serialise_leaves(file, theirs)
    file.seek(0)
    ours = nn.MLP(2, 3, 4, depth, scan=True, key=jr.key(0))
    loaded = vn.tree_deserialise_leaves(file, ours)
    x = jr.normal(jr.key(1), (2,))
    np.testing.assert_allclose(loaded(x), theirs(x), rtol=1e-6)


def test_a_scanned_ensemble() -> None:
    """Members that are built and called under vmap equal those built alone."""
    make = lambda key: nn.MLP(2, "scalar", 4, 3, scan=True, key=key)  # noqa: E731
    keys = jr.split(jr.key(0), 3)
    x = jnp.ones(2)
    ys = vn.filter_vmap(lambda m: m(x))(vn.filter_vmap(make)(keys))
    want = [make(key)(x) for key in keys]
    np.testing.assert_allclose(ys, jnp.stack(want), rtol=1e-5)


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


@pytest.mark.parametrize("name", ["activation", "final_activation"])
def test_an_activation_is_a_function(name: str) -> None:
    """Names of activations are refused."""
    with refuses(HyperparameterError, "MLP", f"`{name}`", "jax.nn.relu", "'relu'"):
        nn.MLP(2, 3, 4, 1, **{name: "relu"}, key=jr.key(0))
