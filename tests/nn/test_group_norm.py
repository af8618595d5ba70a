"""GroupNorm beside PyTorch's values, NumPy's formula, and Equinox."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from tests.nn.norm_fixture import assert_like_pytorch, cases
from tests.strategies import refuses
from tests.world import x64
from vernal import nn
from vernal.errors import HyperparameterError, InputError


def formula(norm: nn.GroupNorm, x: Any) -> np.ndarray[Any, Any]:
    """The equation of the docstring, group by group, in float64."""
    x = np.asarray(x, float)
    y = np.empty_like(x)
    for group in np.split(np.arange(len(x)), norm.groups):
        part = x[group]
        y[group] = (part - part.mean()) / np.sqrt(part.var() + norm.eps)
    if norm.weight is None:
        return y
    weight, bias = np.asarray(norm.weight, float), np.asarray(norm.bias, float)
    return (y.T * weight + bias).T


def with_random_parameters(norm: nn.GroupNorm) -> nn.GroupNorm:
    leaves, treedef = jax.tree.flatten(norm)
    keys = jr.split(jr.key(7), len(leaves))
    new = [jr.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
    return treedef.unflatten(new)


@pytest.mark.parametrize(("number", "options"), cases("GroupNorm"))
def test_pytorch(number: int, options: dict[str, Any]) -> None:
    """Output and gradients are PyTorch's, in single and in double precision."""
    assert_like_pytorch(number, nn.GroupNorm(**options), jnp.float32, 1e-5)
    with x64():
        assert_like_pytorch(number, nn.GroupNorm(**options), jnp.float64, 1e-12)


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("spatial", [(), (5,), (3, 4), (2, 1, 3)])
def test_formula(groups: int, spatial: tuple[int, ...]) -> None:
    """The output is that of the equation, for any number of spatial axes."""
    norm = with_random_parameters(nn.GroupNorm(groups, 6, eps=0.01))
    x = 3 * jr.normal(jr.key(0), (6, *spatial)) + 1
    np.testing.assert_allclose(norm(x), formula(norm, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "arguments", [(2, 6), (3, 6, 0.1), (2, 6, 1e-5, False), (1, 4)]
)
@pytest.mark.parametrize("spatial", [(), (3, 4)])
def test_equinox(arguments: tuple[Any, ...], spatial: tuple[int, ...]) -> None:
    """With the same arguments, parameters and output are those of Equinox."""
    ours, theirs = nn.GroupNorm(*arguments), eqx.nn.GroupNorm(*arguments)
    for name in ("groups", "channels", "eps", "channelwise_affine"):
        assert getattr(ours, name) == getattr(theirs, name)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert jnp.array_equal(a, b) and a.dtype == b.dtype
    x = jr.normal(jr.key(0), (ours.channels, *spatial))
    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-5, atol=1e-6)


def test_one_group_is_layer_norm() -> None:
    """One group normalizes the example as a whole."""
    x = jr.normal(jr.key(0), (4, 3))
    want = nn.LayerNorm((4, 3), use_weight=False, use_bias=False)(x)
    got = nn.GroupNorm(1, channelwise_affine=False)(x)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_any_multiple_without_channels() -> None:
    """Without affine and ``channels`` any multiple of ``groups`` is taken."""
    norm = nn.GroupNorm(3, channelwise_affine=False)
    assert jax.tree.leaves(norm) == [] and norm.weight is norm.bias is None
    for channels in (3, 6, 9):
        x = jr.normal(jr.key(0), (channels, 5))
        np.testing.assert_allclose(norm(x), formula(norm, x), rtol=1e-5, atol=1e-5)


def test_groups_of_one_value() -> None:
    """Where each group is a single value, the output is the bias."""
    norm = with_random_parameters(nn.GroupNorm(4, 4))
    assert jnp.array_equal(norm(jnp.arange(4.0)), norm.bias)


def test_state_passes_through() -> None:
    """A state comes back as it is, as second result; so does anything in its place."""
    norm, x = nn.GroupNorm(1, 3), jnp.arange(3.0)
    _, state = nn.make_with_state(nn.BatchNorm)(3, "batch")
    y, same = norm(x, state, key=jr.key(0))
    assert same is state
    assert jnp.array_equal(y, norm(x, key=jr.key(0)))
    assert norm(x, None)[1] is None


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_dtype_of_the_output(dtype: Any) -> None:
    """The output has the dtype of the input, whatever that of the parameters."""
    for parameters in (jnp.bfloat16, jnp.float32):
        norm = nn.GroupNorm(2, 4, dtype=parameters)
        assert norm.weight.dtype == parameters and not norm.weight.weak_type
        assert norm(jnp.ones((4, 2), dtype)).dtype == dtype


def test_double_precision() -> None:
    """In 64-bit mode parameters and arithmetic are in double precision."""
    with x64():
        norm = nn.GroupNorm(2, 8)
        x = jr.normal(jr.key(0), (8, 10)) + 1
        assert norm.weight.dtype == jnp.float64
        np.testing.assert_allclose(norm(x), formula(norm, x), rtol=1e-13, atol=1e-13)


def test_large_mean() -> None:
    """In float32 the variance is right where the mean is 10⁴ standard deviations."""
    x = 1e4 + jr.normal(jr.key(0), (2, 4096))
    norm = nn.GroupNorm(2, channelwise_affine=False)
    # The output has variance v/(v + eps) of the input's v, so it tells v/v64.
    ratio = np.asarray(norm(x), float).var(axis=1) / formula(norm, x).var(axis=1)
    np.testing.assert_allclose(ratio, 1, rtol=1e-3)


@pytest.mark.parametrize(
    ("dtype", "scale"), [(jnp.float16, 65504.0), (jnp.bfloat16, 1e16)]
)
def test_half_precision_at_the_edge(dtype: Any, scale: float) -> None:
    """Squares and sums beyond the range of a half precision do not matter."""
    x = jnp.asarray(scale * np.cos(np.arange(64)), dtype).reshape(4, 16)
    norm = nn.GroupNorm(2, 4)
    want = formula(norm, x)
    tolerance = 4 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.asarray(norm(x), float), want, tolerance, tolerance)


def test_groups_do_not_touch() -> None:
    """What is in one group has no influence on another, not even a NaN."""
    norm = nn.GroupNorm(2, 4)
    x = jr.normal(jr.key(0), (4, 3))
    spoiled = norm(x.at[0, 0].set(jnp.nan))
    assert jnp.all(jnp.isnan(spoiled[:2]))
    assert jnp.array_equal(spoiled[2:], norm(x)[2:])


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("groups", {"groups": 0}),
        ("groups", {"groups": 1.5}),
        ("groups", {"groups": True}),
        ("groups", {"groups": None}),
        ("channels", {"channels": None}),
        ("channels", {"channels": 5}),
        ("channels", {"channels": 0}),
        ("channels", {"channels": -2}),
        ("channels", {"channels": 4.0}),
        ("channels", {"channels": 5, "channelwise_affine": False}),
        ("eps", {"eps": -1.0}),
        ("eps", {"eps": float("inf")}),
        ("eps", {"eps": "small"}),
        ("dtype", {"dtype": jnp.int32}),
        ("dtype", {"dtype": jnp.complex64}),
    ],
)
def test_bad_arguments(name: str, arguments: dict[str, Any]) -> None:
    """An argument outside its range is refused at construction, by name."""
    with refuses(HyperparameterError, "GroupNorm", f"`{name}`"):
        nn.GroupNorm(**{"groups": 2, "channels": 4, **arguments})


@pytest.mark.parametrize(
    ("x", "word"),
    [
        (jnp.ones(6), "(6,)"),
        (jnp.ones((2, 4)), "(2, 4)"),
        (jnp.ones(()), "()"),
        (jnp.ones((4, 2), jnp.int32), "int32"),
        (jnp.ones((4, 2), jnp.complex64), "complex64"),
        ([1.0] * 4, "list"),
    ],
)
@pytest.mark.parametrize("affine", [True, False])
def test_bad_inputs(x: Any, word: str, affine: bool) -> None:
    """Wrong channels, and what is not real floating-point, are refused."""
    with refuses(InputError, "GroupNorm", word):
        nn.GroupNorm(2, 4, channelwise_affine=affine)(x)


def test_bad_inputs_without_channels() -> None:
    """Without ``channels`` an input must still be divisible into the groups."""
    norm = nn.GroupNorm(2, channelwise_affine=False)
    with refuses(InputError, "multiple of 2", "(5, 3)"):
        norm(jnp.ones((5, 3)))
    with refuses(InputError, "()"):
        norm(jnp.ones(()))


def test_a_batch_is_explained() -> None:
    """A batch axis in front is an error, whose text names jax.vmap."""
    with refuses(InputError, "jax.vmap", "channels = 4"):
        nn.GroupNorm(2, 4)(jnp.ones((8, 4, 3)))
