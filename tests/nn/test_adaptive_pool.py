"""Adaptive pools beside PyTorch's values, windows cut by hand, and Equinox."""

import dataclasses
import itertools
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
from vernal.errors import HyperparameterError, InputError

# Written by scripts/make_torch_fixtures/adaptive_pool.py.
FILE = pathlib.Path(__file__).parents[1] / "fixtures" / "adaptive_pool.npz"
FIXTURE = np.load(FILE)
CASES = json.loads(str(FIXTURE["cases"]))


def assert_like_pytorch(case: list[Any], dtype: Any, tolerance: float) -> None:
    """Output and gradient are those of the fixture."""
    name, sizes, target = case
    pool = getattr(nn, f"Adaptive{name}Pool{len(sizes)}d")(target)
    prefix = f"{CASES.index(case)}."
    names = ("x", "cotangent", "y", "x_grad")
    arrays = {name: jnp.asarray(FIXTURE[prefix + name], dtype) for name in names}

    @jax.jit
    def run(x: Any, cotangent: Any) -> Any:
        y, pull = jax.vjp(pool, x)
        return y, *pull(cotangent)

    got = run(arrays["x"], arrays["cotangent"])
    for name, array in zip(("y", "x_grad"), got, strict=True):
        assert array.dtype == dtype
        want = arrays[name]
        np.testing.assert_allclose(array, want, tolerance, tolerance, err_msg=name)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_pytorch(case: list[Any]) -> None:
    """Where the target divides the sizes or exceeds them, all is PyTorch's."""
    assert_like_pytorch(case, jnp.float32, 1e-6)
    with x64():
        assert_like_pytorch(case, jnp.float64, 1e-12)


def windows(size: int, count: int) -> list[Any]:
    """The entries of each window on one axis, by the words of the docstring."""
    if count <= size:
        return np.array_split(np.arange(size), count)
    cells = range(size)
    # Entry j is the interval from j to j + 1, here in units of 1 / count.
    ends = [(p * size, (p + 1) * size) for p in range(count)]
    overlap = lambda j, a, b: (j + 1) * count > a and j * count < b  # noqa: E731
    return [np.array([j for j in cells if overlap(j, *end)]) for end in ends]


def pool_by_hand(x: Any, target: Any, operation: Any) -> Any:
    """Each window cut out by itself, in float64."""
    x = np.asarray(x, float)
    axes = [windows(n, m) for n, m in zip(x.shape[1:], target, strict=True)]
    y = np.zeros((len(x), *target))
    for c, place in itertools.product(range(len(x)), np.ndindex(*target)):
        cut = [axis[p] for axis, p in zip(axes, place, strict=True)]
        y[(c, *place)] = operation(x[c][np.ix_(*cut)])
    return y


@pytest.mark.parametrize(
    ("sizes", "target"),
    [
        ((14,), (4,)),
        ((7,), (7,)),
        ((7,), (6,)),
        ((3,), (8,)),
        ((7, 5), (3, 2)),
        ((7, 3), (3, 5)),
        ((6, 5), (2, 3)),
        ((5, 4, 3), (2, 3, 2)),
        ((2, 3, 1), (3, 1, 4)),
        ((3, 2, 3, 2), (2, 1, 2, 2)),
    ],
)
def test_windows_cut_by_hand(sizes: Any, target: Any) -> None:
    """Windows of all shapes are cut where the docstring says, for any operation."""
    x = jr.normal(jr.key(0), (2, *sizes))
    n = len(sizes)
    for operation in (np.median, np.std):
        pool = nn.AdaptivePool(target, n, getattr(jnp, operation.__name__))
        want = pool_by_hand(x, target, operation)
        np.testing.assert_allclose(jax.jit(pool)(x), want, rtol=1e-5, atol=1e-6)


def test_windows_in_numbers() -> None:
    """Seven entries make windows of three, two and two; two make five windows."""
    x = jnp.arange(1.0, 8.0)[None]
    assert nn.AdaptiveAvgPool1d(3)(x).tolist() == [[2, 4.5, 6.5]]
    assert nn.AdaptiveMaxPool1d(3)(x).tolist() == [[3, 5, 7]]
    assert nn.AdaptiveAvgPool1d(5)(x[:, :2]).tolist() == [[1, 1, 1.5, 2, 2]]
    assert nn.AdaptiveMaxPool1d(5)(x[:, :2]).tolist() == [[1, 1, 2, 2, 2]]


@pytest.mark.parametrize("name", ["Avg", "Max"])
@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_equinox(name: str, n: int, seed: int) -> None:
    """Output and gradient are Equinox's, which takes targets up to the sizes."""
    rng = np.random.default_rng(seed)
    sizes = [int(s) for s in rng.integers(3, 9, n)]
    target = [int(rng.integers(1, s + 1)) for s in sizes]
    x = jnp.asarray(rng.normal(size=(2, *sizes)), jnp.float32)
    cotangent = jnp.asarray(rng.normal(size=(2, *target)), jnp.float32)

    @jax.jit
    def run(x: Any, cotangent: Any) -> Any:
        for module in (nn, eqx.nn):
            pool = getattr(module, f"Adaptive{name}Pool{n}d")(target)
            y, pull = jax.vjp(pool, x)
            found.append((y, *pull(cotangent)))
        return found

    found: list[Any] = []
    ours, theirs = run(x, cotangent)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("operation", [jnp.sum, jnp.linalg.norm, jnp.prod])
def test_equinox_with_other_operations(operation: Any) -> None:
    """What can be reduced axis by axis, as there, gives the same as all at once."""
    x = jr.normal(jr.key(0), (2, 5, 4))
    ours = nn.AdaptivePool((2, 3), 2, operation)(x)
    theirs = eqx.nn.AdaptivePool((2, 3), 2, operation)(x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize(("name", "operation"), [("Avg", jnp.mean), ("Max", jnp.max)])
def test_named_pools_are_the_general_one(name: str, operation: Any, n: int) -> None:
    """AdaptiveAvgPool2d is AdaptivePool with the mean and two axes."""
    named = getattr(nn, f"Adaptive{name}Pool{n}d")(2)
    general = nn.AdaptivePool(2, n, operation)
    assert isinstance(named, nn.AdaptivePool)
    fields = [f.name for f in dataclasses.fields(general)]
    assert fields == ["target_shape", "operation"]
    assert [getattr(named, x) for x in fields] == [(2,) * n, operation]
    assert [getattr(general, x) for x in fields] == [(2,) * n, operation]
    assert getattr(nn, f"Adaptive{name}Pool{n}d")([np.int64(2)] * n) == named


def count_equations(pool: Any, x: Any) -> int:
    """The number of primitives in the program, those of inner functions included."""
    count = 0
    stack = [jax.make_jaxpr(pool)(x).jaxpr]
    while stack:
        jaxpr = stack.pop()
        count += len(jaxpr.eqns)
        stack += [p.jaxpr for e in jaxpr.eqns for p in e.params.values() if _is_sub(p)]
    return count


def _is_sub(param: Any) -> bool:
    return hasattr(param, "jaxpr") and hasattr(param.jaxpr, "eqns")


@pytest.mark.parametrize("size", [1, 4, 6])
def test_the_program_does_not_grow_with_the_target(size: int) -> None:
    """A hundred windows are as many primitives as ten, of whatever sizes."""
    few, many = (
        count_equations(nn.AdaptiveAvgPool2d(target), jnp.ones((1, n, n)))
        for target, n in [(10, 10 * size + 3), (100, 100 * size + 3)]
    )
    assert few == many


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision(dtype: Any) -> None:
    """Half precision stays, and averages are rounded only once."""
    x = (100 * jnp.linspace(1, 2, 4096)).reshape(2, 32, 64).astype(dtype)
    average = nn.AdaptiveAvgPool2d((1, 2))(x)
    assert average.dtype == nn.AdaptiveMaxPool2d(2)(x).dtype == dtype
    # The sum of 1024 numbers of this size is beyond float16.
    want = pool_by_hand(x, (1, 2), np.mean)
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.asarray(average, float), want, rtol=eps)


def test_integers_and_booleans() -> None:
    """Integers keep their maxima, and have floating-point averages without overflow."""
    x = jnp.array([[-128, -128, 127, 127]], jnp.int8)
    assert nn.AdaptiveAvgPool1d(2)(x).tolist() == [[-128, 127]]
    assert nn.AdaptiveAvgPool1d(1)(x).dtype == jnp.float32
    highest = nn.AdaptiveMaxPool1d(1)(x)
    assert highest.dtype == jnp.int8 and highest.tolist() == [[127]]
    b = jnp.array([[False, False, True]])
    assert nn.AdaptiveMaxPool1d(2)(b).tolist() == [[False, True]]
    assert nn.AdaptiveAvgPool1d(3)(b).tolist() == [[0, 0, 1]]
    z = nn.AdaptiveAvgPool1d(1)(jnp.array([[1j, 1]]))
    assert z.tolist() == [[0.5 + 0.5j]]


def test_nan_and_equal_entries() -> None:
    """A maximum shows NaN; entries that attain it together share the gradient."""
    pool = nn.AdaptiveMaxPool2d(1)
    assert jnp.isnan(pool(jnp.array([[[1, jnp.nan], [0, 2]]]))).all()
    x = jnp.array([[[1.0, 1], [1, 0]]])
    grad = jax.grad(lambda x: pool(x).sum())(x)
    np.testing.assert_allclose(grad, x / 3, rtol=1e-6)


def test_leaves() -> None:
    """Plain functions are static; a Module that pools with parameters is not."""
    pool = nn.AdaptiveAvgPool2d(3)
    treedef = jax.tree.structure(pool)
    assert treedef.num_leaves == 0
    other = jax.tree.structure(nn.AdaptiveAvgPool2d((3, 3)))
    assert treedef == other and hash(treedef) == hash(other)

    class Power(vn.Module):
        exponent: Any

        def __call__(self, x: Any) -> Any:
            return jnp.mean(x**self.exponent) ** (1 / self.exponent)

    learned = nn.AdaptivePool(2, 1, Power(jnp.array(2.0)))
    x = jnp.array([[3.0, 4, 5, 12]])
    np.testing.assert_allclose(learned(x) ** 2, [[12.5, 84.5]], rtol=1e-5)
    grads = jax.tree.leaves(jax.grad(lambda pool: pool(x).sum())(learned))
    assert len(grads) == 1 and grads[0] > 0


def test_vmap_is_a_loop() -> None:
    """A batch is pooled as each of its examples, and so is its gradient."""
    x = jr.normal(jr.key(1), (3, 2, 5, 4))
    for pool in (nn.AdaptiveAvgPool2d((2, 5)), nn.AdaptiveMaxPool2d((3, 3))):
        both = jax.value_and_grad(lambda x, pool=pool: jnp.sum(pool(x) ** 2))
        values, grads = jax.jit(jax.vmap(both))(x)
        one_by_one = [jax.jit(both)(one) for one in x]
        np.testing.assert_allclose(values, [v for v, _ in one_by_one], rtol=1e-5)
        want = np.stack([g for _, g in one_by_one])
        np.testing.assert_allclose(grads, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("target_shape", 0),
        ("target_shape", (3,)),
        ("target_shape", (3, True)),
        ("target_shape", None),
        ("num_spatial_dims", 0),
        ("num_spatial_dims", 2.0),
        ("operation", "mean"),
    ],
)
def test_bad_arguments(name: str, value: Any) -> None:
    """Each argument is checked at construction, and named."""
    good = {"target_shape": 3, "num_spatial_dims": 2, "operation": jnp.mean}
    match = f"AdaptivePool: bad argument `{name}`"
    with pytest.raises(HyperparameterError, match=match):
        nn.AdaptivePool(**{**good, name: value})


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            jnp.ones((10, 3, 8, 8)),
            "the input has the wrong shape.\n"
            "  expected: (channels, height, width)\n"
            "  got:      (10, 3, 8, 8), float32\n"
            "  fix:      layers take one example; for a batch use jax.vmap(layer)",
        ),
        (
            jnp.ones((3, 8, 0)),
            "an axis has no entries.\n"
            "  expected: spatial sizes of at least 1\n"
            "  got:      (8, 0)",
        ),
    ],
    ids=["batch", "empty"],
)
def test_bad_input_messages(x: Any, message: str) -> None:
    """Wrong inputs are met with what was expected, given, and the way out."""
    with pytest.raises(InputError) as caught:
        nn.AdaptiveMaxPool2d(2)(x)
    assert str(caught.value) == f"AdaptiveMaxPool2d: {message}"


def test_an_operation_that_does_not_reduce() -> None:
    """An operation that leaves axes is named when it is called."""
    with pytest.raises(InputError) as caught:
        nn.AdaptivePool(2, 2, jnp.tanh)(jnp.ones((1, 6, 4)))
    assert str(caught.value) == (
        "AdaptivePool: the operation does not reduce a window to one number.\n"
        "  expected: an array of shape () from one of shape (6,)\n"
        "  got:      shape (6,)"
    )
