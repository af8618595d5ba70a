"""Pools beside PyTorch's values, loops in NumPy, and Equinox."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax import lax

from tests.world import x64
from vernal import nn
from vernal.errors import HyperparameterError, InputError

# Written by scripts/make_torch_fixtures/pool.py.
FIXTURE = np.load(pathlib.Path(__file__).parents[1] / "fixtures" / "pool.npz")
CASES = json.loads(str(FIXTURE["cases"]))


def describe(case: dict[str, Any]) -> str:
    """A name for a test: layer and arguments."""
    options = [f"{k}={v}" for k, v in case.items() if k != "layer"]
    return "-".join([case["layer"], *options])


def assert_like_pytorch(case: dict[str, Any], dtype: Any, tolerance: float) -> None:
    """Output and gradient are those of the fixture."""
    options = dict(case)
    pool = getattr(nn, options.pop("layer"))(**options)
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


@pytest.mark.parametrize("case", CASES, ids=describe)
def test_pytorch(case: dict[str, Any]) -> None:
    """Output and gradient are PyTorch's, in single and in double precision."""
    assert_like_pytorch(case, jnp.float32, 1e-6)
    with x64():
        assert_like_pytorch(case, jnp.float64, 1e-10)


def pool_in_loops(x: Any, pool: Any, reduce: Callable[[Any], float]) -> Any:
    """Each window cut out of the padded input by itself, in float64."""
    (kernel,), (stride,), ((before, after),) = (
        pool.kernel_size,
        pool.stride,
        pool.padding,
    )
    rows = []
    for row in np.asarray(x, float):
        padded = [*[None] * before, *row, *[None] * after]
        starts = range(0, len(padded), stride)
        last = before + len(row) if pool.use_ceil else len(padded) - kernel + 1
        # With use_ceil, a window more exists only if the one before missed the end.
        reached = [s for s in starts if s < last and s - stride + kernel < len(padded)]
        windows = [padded[s : s + kernel] for s in reached]
        rows.append([reduce(window) for window in windows])
    return np.array(rows)


def mean_with_zeros(window: list[Any]) -> float:
    """The average where padding counts as zero."""
    return sum(v or 0 for v in window) / len(window)


def maximum(window: list[Any]) -> float:
    """The maximum of what is no padding."""
    return max(v for v in window if v is not None)


@pytest.mark.parametrize("use_ceil", [False, True])
@pytest.mark.parametrize("pair", [(0, 0), (2, 0), (0, 2), (1, 2)])
def test_padding_of_two_widths(pair: Any, use_ceil: bool) -> None:
    """Each end of an axis has its own padding."""
    for size, stride in [(6, 1), (6, 2), (7, 2), (7, 3), (5, 4)]:
        x = jr.normal(jr.key(size), (2, size))
        average = nn.AvgPool1d(3, stride, [pair], use_ceil)
        want = pool_in_loops(x, average, mean_with_zeros)
        np.testing.assert_allclose(average(x), want, rtol=1e-6, atol=1e-6)
        highest = nn.MaxPool1d(3, stride, [pair], use_ceil)
        np.testing.assert_array_equal(highest(x), pool_in_loops(x, highest, maximum))


def draw_options(rng: Any, num_axes: int) -> dict[str, Any]:
    """Random hyperparameters that fit inputs of size 5 or more."""
    kernel = [int(k) for k in rng.integers(1, 5, num_axes)]
    pairs = [tuple(int(p) for p in rng.integers(0, k, 2)) for k in kernel]
    return {
        "kernel_size": kernel,
        "stride": [int(s) for s in rng.integers(1, 4, num_axes)],
        "padding": pairs,
    }


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["Avg", "Max"])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_equinox(name: str, n: int, seed: int) -> None:
    """Without use_ceil, where it differs from PyTorch, the output is Equinox's."""
    rng = np.random.default_rng(seed)
    options = draw_options(rng, n)
    x = jnp.asarray(rng.normal(size=(2, *rng.integers(5, 8, n))), jnp.float32)
    ours = getattr(nn, f"{name}Pool{n}d")(**options)
    theirs = getattr(eqx.nn, f"{name}Pool{n}d")(**options)
    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_named_pools_are_the_general_one(n: int) -> None:
    """MaxPool2d is Pool with maximum and two axes, and a stride of 1 by default."""
    named = getattr(nn, f"MaxPool{n}d")(2)
    general = nn.Pool(-jnp.inf, lax.max, n, 2)
    assert isinstance(named, nn.Pool)
    fields = [f.name for f in dataclasses.fields(general)]
    assert fields == [
        "init",
        "operation",
        "num_spatial_dims",
        "kernel_size",
        "stride",
        "padding",
        "use_ceil",
    ]
    assert [getattr(named, x) for x in fields] == [getattr(general, x) for x in fields]
    assert named.stride == (1,) * n
    x = jr.normal(jr.key(1), (2, *(6, 5, 4)[:n]))
    assert jnp.array_equal(named(x), general(x))
    average = getattr(nn, f"AvgPool{n}d")(2)
    assert (average.init, average.operation) == (0, lax.add)


def test_general_operations() -> None:
    """Any associative function pools, and padding is its initial value."""
    x = jnp.array([[1.0, 2, 3, 4, 5]])
    product = nn.Pool(1, lambda a, b: a * b, 1, 2, stride=2, padding=1)
    assert product(x).tolist() == [[1, 6, 20]]
    product = nn.Pool(1, lambda a, b: a * b, 1, 2, stride=2, use_ceil=True)
    assert product(x).tolist() == [[2, 12, 5]]
    assert product(jnp.array([[2, 3, 4]])).tolist() == [[6, 4]]
    both = nn.Pool(True, lax.bitwise_and, 1, 2, padding=1)
    assert both(jnp.array([[True, True, False]])).tolist() == [[1, 1, 0, 0]]
    lowest = nn.Pool(math.inf, lax.min, 4, 2)
    assert lowest(jnp.arange(32.0).reshape(2, 2, 2, 2, 2)).ravel().tolist() == [0, 16]


@pytest.mark.parametrize(
    "init", [np.float32(1), jnp.ones(()), np.ones(()), jnp.bfloat16(1)]
)
def test_initial_values_become_numbers(init: Any) -> None:
    """Arrays without axes are welcome as initial values, and leave no leaves."""
    pool = nn.Pool(init, lax.mul, 1, 2)
    assert type(pool.init) is float and jax.tree.leaves(pool) == []


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.int32, jnp.uint8, jnp.int4])
def test_integers(dtype: Any) -> None:
    """Maxima and minima of integers are integers, up to the greatest and the least."""
    info = jnp.iinfo(dtype)
    x = jnp.array([[info.min, info.min, info.max, info.max]], dtype)
    highest = nn.MaxPool1d(2, padding=1)(x)
    assert highest.dtype == dtype
    assert highest[0].tolist() == [info.min, info.min, *[info.max] * 3]
    lowest = nn.Pool(math.inf, lax.min, 1, 2, padding=1)(x)
    assert lowest[0].tolist() == [*[info.min] * 3, info.max, info.max]


def test_averages_of_integers() -> None:
    """Integers have floating-point averages, and their sums do not overflow."""
    average = nn.AvgPool1d(2)(jnp.array([[-128, -128, 127, 127]], jnp.int8))
    assert average.dtype == jnp.float32
    assert average.tolist() == [[-128, -0.5, 127]]
    with x64():
        assert nn.AvgPool1d(2)(jnp.ones((1, 2), jnp.int64)).dtype == jnp.float64


def test_booleans() -> None:
    """The maximum of booleans is whether any is true."""
    x = jnp.array([[False, False, True]])
    assert nn.MaxPool1d(2, padding=1)(x).tolist() == [[False, False, True, True]]
    assert nn.Pool(math.inf, lax.min, 1, 2)(x).tolist() == [[False, False]]
    assert nn.AvgPool1d(2)(x).tolist() == [[0, 0.5]]


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision(dtype: Any) -> None:
    """Half precision stays, and averages are rounded only once."""
    x = jnp.linspace(1, 2, 2048).reshape(2, 1024).astype(dtype)
    assert nn.MaxPool1d(4)(x).dtype == dtype
    average = nn.AvgPool1d(1024)(x)
    assert average.dtype == dtype
    want = np.asarray(x, np.float64).mean(1, keepdims=True)
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.asarray(average, np.float64), want, rtol=eps)
    # The sum of 1024 numbers of this size is beyond float16.
    assert jnp.isfinite(nn.AvgPool1d(1024)(100 * x)).all()


def test_complex_averages() -> None:
    """Complex numbers have complex averages."""
    x = jnp.array([[1j, 1, 2]])
    assert nn.AvgPool1d(2, 2, use_ceil=True)(x).tolist() == [[0.5 + 0.5j, 2]]


def test_nan_and_infinity() -> None:
    """A maximum shows NaN, and infinities of either sign."""
    x = jnp.array([[jnp.nan, 1, -jnp.inf, -jnp.inf, jnp.inf]])
    want = [[jnp.nan, 1, -jnp.inf, jnp.inf]]
    np.testing.assert_array_equal(nn.MaxPool1d(2)(x), want)


def test_leaves_are_none() -> None:
    """Pools have no leaves, and two equal ones have equal structure."""
    for make in (
        lambda: nn.MaxPool2d(3, 2, 1, use_ceil=True),
        lambda: nn.AvgPool3d((1, 2, 3)),
        lambda: nn.Pool(0.0, lax.add, 1, 2),
    ):
        treedef = jax.tree.structure(make())
        assert treedef.num_leaves == 0
        assert treedef == jax.tree.structure(make())
        assert hash(treedef) == hash(jax.tree.structure(make()))


@pytest.mark.parametrize("layer", [nn.AvgPool2d, nn.MaxPool2d])
def test_vmap_is_a_loop(layer: Any) -> None:
    """A batch is pooled as each of its examples, and so is its gradient."""
    pool = layer(3, 2, 1, use_ceil=True)
    x = jr.normal(jr.key(1), (3, 2, 6, 5))
    want = jnp.stack([pool(one) for one in x])
    np.testing.assert_allclose(jax.vmap(pool)(x), want, rtol=1e-6)
    grad = jax.grad(lambda x: jnp.sum(pool(x) ** 2))
    want = jnp.stack([grad(one) for one in x])
    np.testing.assert_allclose(jax.vmap(grad)(x), want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("layer", [nn.AvgPool1d, nn.MaxPool1d])
def test_second_derivatives(layer: Any) -> None:
    """Pools are piecewise linear, so squares of them have constant second derivatives.

    Forward and reverse mode both take part.
    """
    x = jr.normal(jr.key(0), (1, 5))
    matrix = jax.jacobian(layer(2))(x).reshape(4, 5)
    hessian = jax.hessian(lambda x: jnp.sum(layer(2)(x) ** 2))(x).reshape(5, 5)
    np.testing.assert_allclose(hessian, 2 * matrix.T @ matrix, atol=1e-6)


GOOD = {"init": 0, "operation": lax.add, "num_spatial_dims": 2, "kernel_size": 3}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("init", "zero"),
        ("init", None),
        ("init", np.zeros(2)),
        ("operation", 1),
        ("num_spatial_dims", 0),
        ("num_spatial_dims", 2.0),
        ("kernel_size", 0),
        ("kernel_size", (3,)),
        ("kernel_size", (3, True)),
        ("stride", 0),
        ("stride", (1, 1, 1)),
        ("padding", -1),
        ("padding", 3),
        ("padding", ((0, 0), (3, 0))),
        ("padding", (1, 1, 1)),
        ("padding", ((1, 1), (1,))),
        ("padding", "SAME"),
    ],
)
def test_bad_arguments(name: str, value: Any) -> None:
    """Each argument is checked at construction, and named."""
    with pytest.raises(HyperparameterError, match=f"Pool: bad argument `{name}`"):
        nn.Pool(**{**GOOD, name: value})


def test_initial_values_are_known_in_advance() -> None:
    """A traced initial value is refused where it is given."""
    with pytest.raises(HyperparameterError, match="a number known in advance"):
        jax.jit(lambda init: nn.Pool(init, lax.add, 1, 2).num_spatial_dims)(0.0)


def test_bad_argument_message() -> None:
    """A message names layer, argument, range and value."""
    with pytest.raises(HyperparameterError) as caught:
        nn.MaxPool2d(2, padding=((0, 1), (2, 0)))
    assert str(caught.value) == (
        "MaxPool2d: bad argument `padding`.\n"
        "  expected: less than kernel_size = (2, 2) on each side\n"
        "  got:      ((0, 1), (2, 0)) (tuple)"
    )


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
            jnp.ones((8, 8)),
            "the input has the wrong shape.\n"
            "  expected: (channels, height, width)\n"
            "  got:      (8, 8), float32",
        ),
        (
            jnp.ones((3, 8, 1)),
            "no window fits into the input.\n"
            "  expected: windows of (4, 4) with padding ((1, 1), (1, 1))\n"
            "  got:      spatial sizes (8, 1)",
        ),
        (
            1.0,
            "the input is not an array.\n"
            "  expected: a JAX or NumPy array\n"
            "  got:      float\n"
            "  fix:      convert it with jnp.asarray",
        ),
    ],
    ids=["batch", "rank", "small", "number"],
)
@pytest.mark.parametrize("layer", [nn.AvgPool2d, nn.MaxPool2d])
def test_bad_input_messages(layer: Any, x: Any, message: str) -> None:
    """Wrong inputs are met with what was expected, given, and the way out."""
    with pytest.raises(InputError) as caught:
        layer(4, padding=1)(x)
    assert str(caught.value) == f"{layer.__name__}: {message}"


def test_the_smallest_input() -> None:
    """With use_ceil a window may hang over the end; an empty axis has none."""
    x = jnp.array([[1.0, 3.0]])
    with pytest.raises(InputError, match="no window fits"):
        nn.MaxPool1d(3, 2)(x)
    assert nn.MaxPool1d(3, 2, use_ceil=True)(x).tolist() == [[3]]
    assert nn.AvgPool1d(3, 2, use_ceil=True)(x).tolist() == [[2]]
    with pytest.raises(InputError, match="no window fits"):
        nn.MaxPool1d(2, padding=1)(jnp.ones((1, 0)))
