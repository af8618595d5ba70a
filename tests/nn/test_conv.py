"""Convolutions beside PyTorch's values, loops in NumPy, and Equinox."""

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

# Written by scripts/make_torch_fixtures/conv.py.
FIXTURE = np.load(pathlib.Path(__file__).parents[1] / "fixtures" / "conv.npz")
CASES = json.loads(str(FIXTURE["cases"]))
CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def describe(case: dict[str, Any]) -> str:
    """A name for a test: what is not usual about the case."""
    usual = {"in_channels": 4, "out_channels": 2, "padding": 0}
    return "-".join(f"{k}={v}" for k, v in case.items() if usual.get(k) != v)


def load(case: dict[str, Any], dtype: Any) -> dict[str, Any]:
    """The arrays of a case, without those that it does not have."""
    prefix = f"{CASES.index(case)}."
    names = [x.removeprefix(prefix) for x in FIXTURE if x.startswith(prefix)]
    return {name: jnp.asarray(FIXTURE[prefix + name], dtype) for name in names}


def with_parameters(conv: Any, weight: Any, bias: Any = None) -> Any:
    """The same layer with given parameters."""
    conv = vn.tree_at(lambda c: c.weight, conv, weight)
    return conv if bias is None else vn.tree_at(lambda c: c.bias, conv, bias)


def assert_like_pytorch(case: dict[str, Any], dtype: Any, tolerance: float) -> None:
    """Output and all gradients are those of the fixture."""
    options = dict(case)
    layer = CONVS[options.pop("num_spatial_dims")]
    arrays = load(case, dtype)
    # Only the structure: drawing parameters would take as long as all the rest.
    conv = vn.filter_eval_shape(layer, **options, dtype=dtype, key=jr.key(0))
    bias = arrays.get("bias")
    bias = None if bias is None else bias.reshape(conv.bias.shape)
    conv = with_parameters(conv, arrays["weight"], bias)

    @jax.jit
    def run(conv: Any, x: Any, cotangent: Any) -> Any:
        y, pull = jax.vjp(lambda conv, x: conv(x), conv, x)
        return y, pull(cotangent)

    y, (conv_grad, x_grad) = run(conv, arrays["x"], arrays["cotangent"])
    got = {"y": y, "x_grad": x_grad, "weight_grad": conv_grad.weight}
    if bias is not None:
        got["bias_grad"] = conv_grad.bias.ravel()
    for name, array in got.items():
        assert array.dtype == dtype
        want = arrays[name]
        np.testing.assert_allclose(array, want, tolerance, tolerance, err_msg=name)


@pytest.mark.parametrize("case", CASES, ids=describe)
def test_pytorch(case: dict[str, Any]) -> None:
    """Output and gradients are PyTorch's, in single and in double precision."""
    assert_like_pytorch(case, jnp.float32, 1e-5)
    with x64():
        assert_like_pytorch(case, jnp.float64, 1e-10)


def convolve(
    x: Any, conv: Any, padding: tuple[tuple[int, int], ...]
) -> np.ndarray[Any, Any]:
    """The equation of the docstring in loops, in float64."""
    weight, bias = np.asarray(conv.weight, float), np.asarray(conv.bias, float)
    padded = np.pad(np.asarray(x, float), ((0, 0), *padding))
    kernel, stride, dilation = conv.kernel_size, conv.stride, conv.dilation
    axes = zip(padded.shape[1:], kernel, stride, dilation, strict=True)
    counts = [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in axes]
    y = np.zeros((conv.out_channels, *counts))
    group_in = conv.in_channels // conv.groups
    group_out = conv.out_channels // conv.groups
    for o, c in itertools.product(range(conv.out_channels), range(group_in)):
        channel = padded[o // group_out * group_in + c]
        for p in np.ndindex(*counts):
            for k in np.ndindex(*kernel):
                place = tuple(np.multiply(stride, p) + np.multiply(dilation, k))
                y[(o, *p)] += weight[(o, c, *k)] * channel[place]
    return y + bias


@pytest.mark.parametrize(
    ("padding", "size", "kernel", "stride", "dilation", "pair"),
    [
        ("SAME", 7, 3, 2, 1, (1, 1)),
        ("SAME", 8, 3, 2, 1, (0, 1)),
        ("SAME_LOWER", 8, 3, 2, 1, (1, 0)),
        ("SAME", 9, 2, 1, 3, (1, 2)),
        ("SAME_LOWER", 9, 2, 1, 3, (2, 1)),
        ("SAME", 9, 2, 4, 1, (0, 1)),
        ("SAME", 8, 2, 4, 1, (0, 0)),
        ("VALID", 8, 3, 2, 1, (0, 0)),
    ],
)
def test_padding_by_name(
    padding: str, size: int, kernel: int, stride: int, dilation: int, pair: Any
) -> None:
    """SAME keeps ``ceil(n / stride)`` positions, with an odd entry at the named end."""
    conv = nn.Conv1d(2, 3, kernel, stride, padding, dilation, key=jr.key(0))
    x = jr.normal(jr.key(1), (2, size))
    y = conv(x)
    if padding != "VALID":
        assert y.shape == (3, -(-size // stride))
    np.testing.assert_allclose(y, convolve(x, conv, (pair,)), rtol=1e-5, atol=1e-6)


def test_four_spatial_axes() -> None:
    """The general layer takes any number of spatial axes, and groups."""
    conv = nn.Conv(4, 4, 6, (2, 1, 3, 2), 2, 1, groups=2, key=jr.key(0))
    x = jr.normal(jr.key(1), (4, 3, 4, 5, 2))
    want = convolve(x, conv, ((1, 1),) * 4)
    np.testing.assert_allclose(conv(x), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_named_layers_are_the_general_one(n: int) -> None:
    """Conv2d is Conv with two spatial axes, and an instance of it."""
    named = CONVS[n](2, 4, 3, 2, "SAME", groups=2, key=jr.key(0))
    general = nn.Conv(n, 2, 4, 3, 2, "SAME", groups=2, key=jr.key(0))
    assert isinstance(named, nn.Conv)
    fields = [f.name for f in dataclasses.fields(general)]
    for name in fields:
        assert np.all(getattr(named, name) == getattr(general, name))
    x = jr.normal(jr.key(1), (2, *(6, 5, 4)[:n]))
    assert jnp.array_equal(named(x), general(x))


def draw_options(rng: Any) -> dict[str, Any]:
    """Random hyperparameters that fit inputs of size 6 or more."""
    n = int(rng.integers(1, 4))
    groups = int(rng.integers(1, 3))
    pairs = [tuple(map(int, rng.integers(0, 3, 2))) for _ in range(n)]
    per_axis = [int(i) for i in rng.integers(0, 3, n)]
    paddings = [pairs, per_axis, "SAME", "SAME_LOWER", "VALID"]
    modes = ["ZEROS", "REFLECT", "REPLICATE", "CIRCULAR"]
    return {
        "num_spatial_dims": n,
        "in_channels": groups * int(rng.integers(1, 3)),
        "out_channels": groups * int(rng.integers(1, 3)),
        "kernel_size": [int(i) for i in rng.integers(1, 4, n)],
        "stride": [int(i) for i in rng.integers(1, 4, n)],
        "dilation": [int(i) for i in rng.integers(1, 3, n)],
        "padding": paddings[int(rng.integers(len(paddings)))],
        "groups": groups,
        "use_bias": bool(rng.integers(2)),
        "padding_mode": modes[int(rng.integers(len(modes)))],
    }


@pytest.mark.parametrize("seed", range(12))
def test_equinox(seed: int) -> None:
    """With the same key, parameters and output are those of Equinox."""
    rng = np.random.default_rng(seed)
    options = draw_options(rng)
    ours = nn.Conv(**options, key=jr.key(seed))
    theirs = eqx.nn.Conv(**options, key=jr.key(seed))
    assert jnp.array_equal(ours.weight, theirs.weight)
    assert ours.bias is None or jnp.array_equal(ours.bias, theirs.bias)
    n = options["num_spatial_dims"]
    shape = (options["in_channels"], *rng.integers(6, 9, n))
    x = jnp.asarray(rng.normal(size=shape), jnp.float32)
    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("mode", "numpy_mode"),
    [
        ("zeros", "constant"),
        ("Reflect", "reflect"),
        ("REPLICATE", "edge"),
        ("circular", "wrap"),
    ],
)
@pytest.mark.parametrize("pair", [(2, 1), (7, 9)])
def test_padding_modes_in_any_case(mode: str, numpy_mode: Any, pair: Any) -> None:
    """Modes are case-insensitive, and pad also wider than the input."""
    conv = nn.Conv1d(
        1, 1, 1, padding=[pair], padding_mode=mode, use_bias=False, key=jr.key(0)
    )
    assert conv.padding_mode == mode.upper()
    conv = with_parameters(conv, jnp.ones((1, 1, 1)))
    x = np.arange(1.0, 4.0, dtype=np.float32)
    np.testing.assert_array_equal(conv(x[None])[0], np.pad(x, pair, mode=numpy_mode))


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (1, ((1, 1), (1, 1))),
        ((1, 2), ((1, 1), (2, 2))),
        ([[0, 1], [2, 3]], ((0, 1), (2, 3))),
        ([1, (2, 3)], ((1, 1), (2, 3))),
        (np.int64(1), ((1, 1), (1, 1))),
        ((np.int32(1), (np.int8(2), 3)), ((1, 1), (2, 3))),
        ("same", "SAME"),
        ("Same_Lower", "SAME_LOWER"),
        ("valid", "VALID"),
    ],
)
def test_padding_is_stored_in_one_form(given: Any, stored: Any) -> None:
    """Numbers become pairs for each axis, strings become upper-case."""
    conv = nn.Conv2d(1, 1, 3, padding=given, key=jr.key(0))
    assert conv.padding == stored
    if not isinstance(stored, str):
        assert {type(side) for pair in conv.padding for side in pair} == {int}


def test_attributes() -> None:
    """Sizes are stored for each axis, and parameters have the documented shapes."""
    sizes = {"kernel_size": np.int64(3), "stride": [2, 1]}
    conv = nn.Conv2d(4, 6, **sizes, groups=2, key=jr.key(0))
    assert {type(size) for size in conv.kernel_size} == {int}
    assert conv.weight.shape == (6, 2, 3, 3) and conv.bias.shape == (6, 1, 1)
    assert (conv.kernel_size, conv.stride, conv.dilation) == ((3, 3), (2, 1), (1, 1))
    assert [f.name for f in dataclasses.fields(conv)] == [
        "num_spatial_dims",
        "weight",
        "bias",
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
        "use_bias",
        "padding_mode",
    ]


def test_initial_values() -> None:
    """Parameters are uniform on ±1/√fan_in, where fan_in is that of one group."""
    conv = nn.Conv1d(32, 64, 4, groups=2, key=jr.key(0))
    limit = 1 / np.sqrt(16 * 4)
    for array in (conv.weight, conv.bias):
        assert 0.9 * limit < jnp.abs(array).max() <= limit
    assert abs(conv.weight.std() - limit / np.sqrt(3)) < 0.02 * limit
    assert nn.Conv1d(2, 2, 1, use_bias=False, key=jr.key(0)).bias is None


def test_leaves_are_arrays() -> None:
    """Only the parameters are leaves; two equal layers have equal structure."""
    make = lambda: nn.Conv2d(1, 2, 3, padding="SAME", key=jr.key(0))  # noqa: E731
    leaves, treedef = jax.tree.flatten(make())
    assert [x.shape for x in leaves] == [(2, 1, 3, 3), (2, 1, 1)]
    other = jax.tree.structure(make())
    assert treedef == other and hash(treedef) == hash(other)


def test_vmap_is_a_loop() -> None:
    """A batch of examples, or of layers, is what each of them gives by itself."""
    x = jr.normal(jr.key(1), (3, 4, 6, 5))
    make = lambda key: nn.Conv2d(4, 2, 3, padding=1, groups=2, key=key)  # noqa: E731
    conv = make(jr.key(0))
    want = jnp.stack([conv(one) for one in x])
    np.testing.assert_allclose(jax.vmap(conv)(x), want, rtol=1e-5, atol=1e-6)
    keys = jr.split(jr.key(2), 3)
    want = jnp.stack([make(key)(one) for key, one in zip(keys, x, strict=True)])
    got = jax.vmap(lambda conv, x: conv(x))(jax.vmap(make)(keys), x)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision(dtype: Any) -> None:
    """Half precision stays, and rounds once: sums are not taken in half precision."""
    conv = nn.Conv2d(64, 2, 3, dtype=dtype, key=jr.key(0))
    x = jr.normal(jr.key(1), (64, 5, 5)).astype(dtype)
    y = conv(x)
    wide = jax.tree.map(lambda a: a.astype(jnp.float32), conv)
    want = wide(x.astype(jnp.float32))
    assert y.dtype == dtype
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(y.astype(jnp.float32), want, rtol=2 * eps, atol=2 * eps)


@pytest.mark.relaxed
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.int32, jnp.bool_])
def test_mixed_dtypes_promote_as_in_matmul(dtype: Any) -> None:
    """Input and parameters of different dtypes meet as in Linear's ``@``."""
    x = jnp.ones((3, 4), dtype)
    conv = nn.Conv1d(3, 2, 2, key=jr.key(0))
    y = conv(x)
    assert y.dtype == nn.Linear(3, 2, key=jr.key(0))(x[:, 0]).dtype == jnp.float32
    np.testing.assert_array_equal(y, conv(x.astype(jnp.float32)))


def test_mixed_dtypes_are_refused_under_strict_promotion() -> None:
    """Where JAX is told not to promote, neither does the layer."""
    conv = nn.Conv1d(3, 2, 2, key=jr.key(0))
    with pytest.raises(ValueError, match="no available implicit dtype promotion"):
        conv(jnp.ones((3, 4), jnp.bfloat16))


def test_complex_and_integer_parameters() -> None:
    """Parameters and the input may be complex, or all integers."""
    conv = nn.Conv1d(1, 1, 2, dtype=jnp.complex64, key=jr.key(0))
    assert conv.weight.dtype == conv.bias.dtype == jnp.complex64
    z = with_parameters(conv, jnp.array([[[1j, 2]]]), jnp.array([[1 + 0j]]))
    x = jnp.array([[1, 1j, 2]])
    np.testing.assert_allclose(z(x), np.array([[1 + 3j, 4]]))
    i = with_parameters(conv, jnp.array([[[1, 2]]]), jnp.array([[1]]))
    assert i(jnp.array([[1, 2, 3]])).tolist() == [[6, 9]]


GOOD = {"num_spatial_dims": 2, "in_channels": 4, "out_channels": 6, "kernel_size": 3}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_spatial_dims", 0),
        ("in_channels", 0),
        ("in_channels", 2.0),
        ("out_channels", -1),
        ("out_channels", True),
        ("kernel_size", 0),
        ("kernel_size", (3, 3, 3)),
        ("kernel_size", (3, 0)),
        ("kernel_size", "33"),
        ("kernel_size", None),
        ("stride", 0),
        ("stride", (1,)),
        ("stride", 1.5),
        ("dilation", 0),
        ("dilation", (1, -1)),
        ("padding", -1),
        ("padding", (1, 2, 3)),
        ("padding", ((0, 1), (0, -1))),
        ("padding", ((0, 1), (0, 1, 2))),
        ("padding", "FULL"),
        ("padding", None),
        ("groups", 0),
        ("groups", 3),
        ("groups", 4),
        ("padding_mode", "MIRROR"),
        ("padding_mode", None),
    ],
)
def test_bad_arguments(name: str, value: Any) -> None:
    """Each argument is checked at construction, and named."""
    with pytest.raises(HyperparameterError, match=f"Conv: bad argument `{name}`"):
        nn.Conv(**{**GOOD, name: value}, key=jr.key(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"groups": 4},
            "Conv: bad argument `groups`.\n"
            "  expected: an int ≥ 1 that divides in_channels = 4 and out_channels = 6\n"
            "  got:      4 (int)",
        ),
        (
            {"stride": (2, 0)},
            "Conv: bad argument `stride`.\n"
            "  expected: an int ≥ 1, or 2 of them\n"
            "  got:      (2, 0) (tuple)",
        ),
        (
            {"padding": (1, 2, 3)},
            "Conv: bad argument `padding`.\n"
            "  expected: an int ≥ 0, 2 of them or of pairs (before, after), "
            'or "SAME", "SAME_LOWER" or "VALID"\n'
            "  got:      (1, 2, 3) (tuple)",
        ),
    ],
)
def test_bad_argument_messages(options: dict[str, Any], message: str) -> None:
    """A message names layer, argument, range and value."""
    with pytest.raises(HyperparameterError) as caught:
        nn.Conv(**GOOD, **options, key=jr.key(0))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            jnp.ones((10, 4, 8, 8)),
            "Conv2d: the input has the wrong shape.\n"
            "  expected: (in_channels, height, width) with in_channels = 4\n"
            "  got:      (10, 4, 8, 8), float32\n"
            "  fix:      layers take one example; for a batch use jax.vmap(layer)",
        ),
        (
            jnp.ones((3, 8, 8)),
            "Conv2d: the input has the wrong shape.\n"
            "  expected: (in_channels, height, width) with in_channels = 4\n"
            "  got:      (3, 8, 8), float32",
        ),
        (
            jnp.ones((4, 8, 2)),
            "Conv2d: the kernel does not fit into the input.\n"
            "  expected: spatial sizes of at least (5, 5) after padding\n"
            "  got:      (10, 4)",
        ),
        (
            [[1.0]],
            "Conv2d: the input is not an array.\n"
            "  expected: a JAX or NumPy array\n"
            "  got:      list\n"
            "  fix:      convert it with jnp.asarray",
        ),
    ],
    ids=["batch", "channels", "small", "list"],
)
def test_bad_input_messages(x: Any, message: str) -> None:
    """Wrong inputs are met with what was expected, given, and the way out."""
    conv = nn.Conv2d(4, 6, 3, padding=1, dilation=2, key=jr.key(0))
    with pytest.raises(InputError) as caught:
        conv(x)
    assert str(caught.value) == message


def test_axes_beyond_three_are_numbered() -> None:
    """Messages have names for any number of axes."""
    conv = nn.Conv(4, 1, 1, 1, key=jr.key(0))
    with pytest.raises(InputError, match="in_channels, dim_1, dim_2, dim_3, dim_4"):
        conv(jnp.ones((1, 2)))


def test_the_smallest_input() -> None:
    """A kernel that just fits has one position, and one entry less has none."""
    conv = nn.Conv1d(1, 1, 3, dilation=2, key=jr.key(0))
    assert conv(jnp.ones((1, 5))).shape == (1, 1)
    with pytest.raises(InputError, match="does not fit"):
        conv(jnp.ones((1, 4)))
