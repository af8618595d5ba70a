"""LayerNorm and RMSNorm beside PyTorch's values, NumPy's formulas, and Equinox."""

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

BOTH = pytest.mark.parametrize("layer", [nn.LayerNorm, nn.RMSNorm])
CASES = [
    (layer, i, options)
    for layer in (nn.LayerNorm, nn.RMSNorm)
    for i, options in cases(layer.__name__)
]


def formula(norm: Any, x: Any) -> np.ndarray[Any, Any]:
    """The equation of the docstring, in float64."""
    x = np.asarray(x, float)
    if isinstance(norm, nn.LayerNorm):
        x = x - x.mean()
    y = x / np.sqrt((x**2).mean() + norm.eps)
    y = y if norm.weight is None else y * np.asarray(norm.weight, float)
    return y if norm.bias is None else y + np.asarray(norm.bias, float)


def with_random_parameters(norm: Any) -> Any:
    leaves, treedef = jax.tree.flatten(norm)
    keys = jr.split(jr.key(7), len(leaves))
    new = [jr.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
    return treedef.unflatten(new)


@pytest.mark.parametrize(("layer", "number", "options"), CASES)
def test_pytorch(layer: Any, number: int, options: dict[str, Any]) -> None:
    """Output and gradients are PyTorch's, in single and in double precision."""
    assert_like_pytorch(number, layer(**options), jnp.float32, 1e-5)
    with x64():
        assert_like_pytorch(number, layer(**options), jnp.float64, 1e-12)


@BOTH
@pytest.mark.parametrize("shape", [5, (), (3, 4), (2, 1, 3)])
def test_formula(layer: Any, shape: Any) -> None:
    """The output is that of the equation, for any number of axes."""
    norm = with_random_parameters(layer(shape, eps=0.01))
    x = 3 * jr.normal(jr.key(0), norm.shape) + 1
    np.testing.assert_allclose(norm(x), formula(norm, x), rtol=1e-5, atol=1e-5)


@BOTH
@pytest.mark.parametrize("shape", [5, (3, 4), ()])
@pytest.mark.parametrize("flags", [(True, True), (False, True), (False, False)])
def test_equinox(layer: Any, shape: Any, flags: tuple[bool, bool]) -> None:
    """With the same arguments, parameters and output are those of Equinox."""
    ours = layer(shape, 1e-3, *flags)
    theirs = getattr(eqx.nn, layer.__name__)(shape, 1e-3, *flags)
    for name in ("shape", "eps", "use_weight", "use_bias"):
        assert getattr(ours, name) == getattr(theirs, name)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert jnp.array_equal(a, b) and a.dtype == b.dtype
    x = jr.normal(jr.key(0), ours.shape)
    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-6, atol=1e-6)


@BOTH
def test_parameters(layer: Any) -> None:
    """Only the parameters are leaves, strongly typed and in the asked dtype."""
    norm = layer((2, 3), dtype=jnp.float16)
    leaves = jax.tree.leaves(norm)
    assert [x.shape for x in leaves] == [(2, 3), (2, 3)]
    assert all(x.dtype == jnp.float16 and not x.weak_type for x in leaves)
    assert layer(4).weight.dtype == jnp.float32
    bare = layer(4, use_weight=False, use_bias=False)
    assert jax.tree.leaves(bare) == [] and bare.weight is bare.bias is None


def test_elementwise_affine() -> None:
    """The older keyword overrides both flags, unless it is None."""
    for affine in (True, False):
        norm = nn.LayerNorm(3, use_weight=not affine, elementwise_affine=affine)
        assert norm.use_weight is norm.use_bias is affine
    norm = nn.LayerNorm(3, use_weight=False, elementwise_affine=None)
    assert (norm.use_weight, norm.use_bias) == (False, True)


@BOTH
def test_state_passes_through(layer: Any) -> None:
    """A state comes back as it is, as second result; so does anything in its place."""
    norm, x = layer(3), jnp.arange(3.0)
    _, state = nn.make_with_state(nn.BatchNorm)(3, "batch")
    y, same = norm(x, state, key=jr.key(0))
    assert same is state
    assert jnp.array_equal(y, norm(x, key=jr.key(0)))
    assert norm(x, None)[1] is None


@BOTH
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_dtype_of_the_output(layer: Any, dtype: Any) -> None:
    """The output has the dtype of the input, whatever that of the parameters."""
    for parameters in (jnp.bfloat16, jnp.float32):
        norm = layer(4, dtype=parameters)
        assert norm(jnp.arange(4, dtype=dtype)).dtype == dtype


@BOTH
def test_double_precision(layer: Any) -> None:
    """In 64-bit mode parameters and arithmetic are in double precision."""
    with x64():
        norm = layer(100)
        assert norm.weight.dtype == jnp.float64
        x = jr.normal(jr.key(0), (100,)) + 1
        np.testing.assert_allclose(norm(x), formula(norm, x), rtol=1e-13, atol=1e-13)


def test_large_mean() -> None:
    """In float32 the variance is right where the mean is 10⁴ standard deviations."""
    x = 1e4 + jr.normal(jr.key(0), (4096,))
    norm = nn.LayerNorm(4096, use_weight=False, use_bias=False)
    # The output has variance v/(v + eps) of the input's v, so it tells v/v64.
    ratio = np.asarray(norm(x), float).var() / formula(norm, x).var()
    assert abs(ratio - 1) < 1e-3


@BOTH
@pytest.mark.parametrize(
    ("dtype", "scale"),
    [
        (jnp.float16, 65504.0),
        (jnp.bfloat16, 1e16),
        (jnp.float16, 6e-8),
        (jnp.bfloat16, 1e-16),
    ],
)
def test_half_precision_at_the_edge(layer: Any, dtype: Any, scale: float) -> None:
    """Squares and sums beyond the range of a half precision do not matter."""
    x = jnp.asarray(scale * np.cos(np.arange(64)), dtype)
    norm = layer(64, eps=0.0)
    y = norm(x)
    assert y.dtype == dtype
    tolerance = 4 * float(jnp.finfo(dtype).eps)
    want = formula(norm, x)
    np.testing.assert_allclose(np.asarray(y, float), want, tolerance, tolerance)


@BOTH
def test_half_precision_gradient_is_that_of_float32(layer: Any) -> None:
    """Rounding to a half precision happens once, at the end, in gradients too."""
    x = jr.normal(jr.key(0), (64,)).astype(jnp.bfloat16)
    cotangent = jr.normal(jr.key(1), (64,)).astype(jnp.bfloat16)

    def gradient(dtype: Any) -> Any:
        _, pull = jax.vjp(layer(64), x.astype(dtype))
        (found,) = pull(cotangent.astype(dtype))
        assert found.dtype == dtype
        return np.asarray(found, float)

    want = gradient(jnp.float32)
    np.testing.assert_allclose(gradient(jnp.bfloat16), want, rtol=2**-7, atol=2**-9)


@BOTH
def test_constant_input(layer: Any) -> None:
    """A constant gives a finite output and gradient: ε keeps off the division by 0."""
    for value in (0.0, 3.0):
        y, pull = jax.vjp(layer(4), jnp.full(4, value))
        (gradient,) = pull(jnp.ones(4))
        assert jnp.all(jnp.isfinite(y)) and jnp.all(jnp.isfinite(gradient))


@BOTH
def test_a_batch_by_vmap(layer: Any) -> None:
    """Under vmap each example is normalized by itself."""
    norm = with_random_parameters(layer(4))
    x = jr.normal(jr.key(0), (6, 4))
    want = np.stack([formula(norm, row) for row in x])
    np.testing.assert_allclose(jax.vmap(norm)(x), want, rtol=1e-5, atol=1e-5)


@BOTH
def test_numpy(layer: Any) -> None:
    """NumPy arrays and sizes are taken as well."""
    norm = layer(np.prod((2, 3)))
    assert norm.shape == (6,) and type(norm.shape[0]) is int
    assert norm(np.arange(6, dtype=np.float32)).shape == (6,)
    assert layer(np.array([2, 3])) == layer([2, 3]) == layer((2, 3))


@BOTH
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("shape", 0),
        ("shape", -1),
        ("shape", (3, 0)),
        ("shape", 2.0),
        ("shape", True),
        ("shape", None),
        ("shape", "ab"),
        ("shape", ((2, 3),)),
        ("eps", -1e-5),
        ("eps", float("nan")),
        ("eps", "small"),
        ("eps", None),
        ("dtype", jnp.int32),
        ("dtype", jnp.complex64),
    ],
)
def test_bad_arguments(layer: Any, name: str, value: Any) -> None:
    """An argument outside its range is refused at construction, by name."""
    with refuses(HyperparameterError, layer.__name__, f"`{name}`"):
        layer(**{"shape": 3, name: value})


@BOTH
@pytest.mark.parametrize(
    ("x", "word"),
    [
        (jnp.ones(5), "(5,)"),
        (jnp.ones(()), "()"),
        (jnp.ones((3, 4, 1)), "(3, 4, 1)"),
        (jnp.ones((3, 4), jnp.int32), "int32"),
        (jnp.ones((3, 4), jnp.complex64), "complex64"),
        (jnp.ones((3, 4), bool), "bool"),
        ([1.0, 2.0], "list"),
        (1.0, "float"),
    ],
)
def test_bad_inputs(layer: Any, x: Any, word: str) -> None:
    """Another shape, and what is not real floating-point, is refused."""
    with refuses(InputError, layer.__name__, word):
        layer((3, 4))(x)


@BOTH
def test_a_batch_is_explained(layer: Any) -> None:
    """Further axes in front are an error, whose text shows the vmap for them."""
    with refuses(InputError, "fix:", "jax.vmap(layer)"):
        layer((3, 4))(jnp.ones((8, 3, 4)))
    with refuses(InputError, "jax.vmap(jax.vmap(layer))"):
        layer(4)(jnp.ones((8, 3, 4)))


def test_message() -> None:
    """The text of an error at a layer inside a model."""
    model = nn.Sequential([nn.Identity(), nn.LayerNorm(4)])
    with refuses(InputError) as _:
        model(jnp.ones((2, 4)))
    with pytest.raises(InputError) as info:
        model(jnp.ones((2, 4)))
    assert str(info.value) == (
        "LayerNorm at `layers[1]` of Sequential: the input has the wrong shape.\n"
        "  expected: (4,)\n"
        "  got:      (2, 4), float32\n"
        "  fix:      for further axes in front, jax.vmap(layer)"
    )


@BOTH
def test_one_trace(layer: Any) -> None:
    """Two layers with the same arguments have one compilation, also after an update."""
    count = 0

    @jax.jit
    def call(norm: Any, x: Any) -> Any:
        nonlocal count
        count += 1
        return norm(x)

    x = jnp.arange(3.0)
    call(layer(3), x)
    call(vn.apply_updates(layer([3]), jax.tree.map(jnp.ones_like, layer(3))), x)
    assert count == 1
