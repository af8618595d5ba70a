"""Transposed convolutions beside PyTorch's, loops, the matrix of Conv, and Equinox."""

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

# Written by scripts/make_torch_fixtures/conv_transpose.py.
FILE = pathlib.Path(__file__).parents[1] / "fixtures" / "conv_transpose.npz"
FIXTURE = np.load(FILE)
CASES = json.loads(str(FIXTURE["cases"]))
LAYERS = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
MODES = ["ZEROS", "REFLECT", "REPLICATE", "CIRCULAR"]


def describe(case: dict[str, Any]) -> str:
    """A name for a test: what is not usual about the case."""
    usual = {"in_channels": 4, "out_channels": 2}
    return "-".join(f"{k}={v}" for k, v in case.items() if usual.get(k) != v)


def transposed(weight: Any, groups: int) -> Any:
    """Conv's and PyTorch's weight as that of the transpose: see the docstring."""
    outer, inner, *kernel = weight.shape
    split = weight.reshape(groups, outer // groups, inner, *kernel).swapaxes(1, 2)
    joined = split.reshape(groups * inner, outer // groups, *kernel)
    return np.flip(joined, range(2, joined.ndim))


def with_parameters(layer: Any, weight: Any, bias: Any = None) -> Any:
    """The same layer with given parameters."""
    layer = vn.tree_at(lambda c: c.weight, layer, jnp.asarray(weight))
    return layer if bias is None else vn.tree_at(lambda c: c.bias, layer, bias)


def load(case: dict[str, Any], dtype: Any) -> dict[str, Any]:
    """The arrays of a case, without those that it does not have, in our layout."""
    prefix = f"{CASES.index(case)}."
    names = [x.removeprefix(prefix) for x in FIXTURE if x.startswith(prefix)]
    arrays = {name: FIXTURE[prefix + name] for name in names}
    groups = case.get("groups", 1)
    for name in ("weight", "weight_grad"):
        arrays[name] = transposed(arrays[name], groups)
    return {name: jnp.asarray(array, dtype) for name, array in arrays.items()}


def assert_like_pytorch(case: dict[str, Any], dtype: Any, tolerance: float) -> None:
    """Output and all gradients are those of the fixture."""
    options = dict(case)
    layer = LAYERS[options.pop("num_spatial_dims")]
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


def scatter(x: Any, layer: Any, sizes: Any, before: Any) -> np.ndarray[Any, Any]:
    """The equation of the docstring in loops, in float64."""
    weight, x = np.asarray(layer.weight, float), np.asarray(x, float)
    y = np.zeros((layer.out_channels, *sizes))
    group_in = layer.in_channels // layer.groups
    group_out = layer.out_channels // layer.groups
    for o, c in itertools.product(range(layer.out_channels), range(group_in)):
        channel = x[o // group_out * group_in + c]
        for p in np.ndindex(*channel.shape):
            for k in np.ndindex(*layer.kernel_size):
                offset = np.multiply(layer.dilation, np.subtract(layer.kernel_size, k))
                offset -= np.add(layer.dilation, before)
                q = np.multiply(layer.stride, p) + offset
                if np.all((q >= 0) & (q < sizes)):
                    y[(o, *q)] += weight[(o, c, *k)] * channel[p]
    return y + np.asarray(layer.bias, float)


@pytest.mark.parametrize(
    ("padding", "extra", "numbers", "size", "before"),
    [
        # Numbers are kernel size, stride and dilation. With SAME the five entries
        # become 5 * stride - extra ones, and the odd one is cut off the end.
        ("SAME", 0, (3, 2, 1), 10, 0),
        ("SAME_LOWER", 0, (3, 2, 1), 10, 1),
        ("SAME", 1, (3, 2, 1), 9, 1),
        ("SAME", 0, (2, 1, 3), 5, 1),
        ("Same_Lower", 0, (2, 1, 3), 5, 2),
        ("SAME", 0, (2, 4, 1), 20, 0),
        ("SAME_LOWER", 3, (2, 4, 1), 17, 1),
        ("VALID", 0, (3, 2, 1), 11, 0),
        ("valid", 1, (3, 2, 1), 12, 0),
        ([(1, 0)], 0, (3, 2, 1), 10, 1),
        ([(0, 2)], 1, (3, 2, 2), 12, 0),
        ([(5, 1)], 0, (3, 2, 1), 5, 5),
        ([(0, 6)], 0, (3, 2, 1), 5, 0),
    ],
)
def test_padding_of_sides_and_by_name(
    padding: Any, extra: int, numbers: Any, size: int, before: int
) -> None:
    """Each end of an axis is cut by its own padding, which a name may stand for."""
    kernel, stride, dilation = numbers
    options = {"padding": padding, "output_padding": extra, "dilation": dilation}
    layer = nn.ConvTranspose1d(2, 3, kernel, stride, **options, key=jr.key(0))
    x = jr.normal(jr.key(1), (2, 5))
    want = scatter(x, layer, (size,), (before,))
    np.testing.assert_allclose(layer(x), want, rtol=1e-5, atol=1e-6)


def test_four_spatial_axes() -> None:
    """The general layer takes any number of spatial axes, and groups."""
    options = {"stride": 2, "padding": 1, "output_padding": (0, 1, 0, 1), "groups": 2}
    layer = nn.ConvTranspose(4, 4, 6, (2, 1, 3, 2), **options, key=jr.key(0))
    x = jr.normal(jr.key(1), (4, 3, 4, 3, 2))
    want = scatter(x, layer, (4, 6, 5, 3), (1,) * 4)
    np.testing.assert_allclose(layer(x), want, rtol=1e-5, atol=1e-6)


def matrix(layer: Any, x: Any) -> tuple[Any, Any]:
    """The matrix of a linear layer, by what it makes of unit vectors; and its ``x``."""
    inputs = jnp.concatenate([jnp.eye(x.size).reshape(x.size, *x.shape), x[None]])
    outputs = jax.jit(jax.vmap(layer))(inputs)
    return outputs[:-1].reshape(x.size, -1).T, outputs[-1]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("padding", "extra", "stride", "dilation", "groups", "sizes"),
    [
        # As `Conv` takes sizes to fewer ones: what its stride leaves over is extra.
        (((1, 2), (3, 0)), (0, 2), (2, 3), (1, 2), 2, (6, 5)),
        (((5, 0), (4, 9)), (1, 0), (3, 2), (1, 1), 1, (2, 3)),
        ("SAME", (1, 0), (2, 1), (2, 2), 1, (5, 4)),
    ],
)
def test_transpose_of_conv(
    mode: str,
    padding: Any,
    extra: Any,
    stride: Any,
    dilation: Any,
    groups: int,
    sizes: Any,
) -> None:
    """Its matrix is the transpose of that of Conv with the same arguments."""
    options = {
        "kernel_size": (3, 2),
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
        "use_bias": False,
        "padding_mode": mode,
    }
    with x64():
        conv = nn.Conv(2, 2, 4, **options, key=jr.key(0))
        up = nn.ConvTranspose(2, 4, 2, **options, output_padding=extra, key=jr.key(0))
        up = with_parameters(up, transposed(conv.weight, groups))
        x = jr.normal(jr.key(1), (2, *sizes))
        y = jr.normal(jr.key(2), jax.eval_shape(conv, x).shape)
        down_matrix, down = matrix(conv, x)
        up_matrix, back = matrix(up, y)
        np.testing.assert_allclose(up_matrix, down_matrix.T, rtol=0, atol=1e-12)
        # Hence <Conv(x), y> = <x, ConvTranspose(y)>.
        np.testing.assert_allclose(jnp.vdot(down, y), jnp.vdot(x, back), rtol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_the_gradient_is_conv(mode: str) -> None:
    """By the input, the gradient of the transpose is the convolution itself."""
    options = {"padding": 2, "stride": 2, "use_bias": False, "padding_mode": mode}
    conv = nn.Conv1d(2, 3, 4, **options, key=jr.key(0))
    up = nn.ConvTranspose1d(3, 2, 4, **options, output_padding=1, key=jr.key(0))
    up = with_parameters(up, transposed(conv.weight, 1))
    y = jr.normal(jr.key(1), (3, 5))
    cotangent = jr.normal(jr.key(2), (2, 9))
    _, pull = jax.vjp(up, y)
    np.testing.assert_allclose(pull(cotangent)[0], conv(cotangent), 1e-5, 1e-5)
    grad = jax.grad(lambda up: jnp.vdot(up(y), cotangent))(up).weight
    want = jax.grad(lambda conv: jnp.vdot(conv(cotangent), y))(conv).weight
    np.testing.assert_allclose(grad, transposed(want, 1), 1e-5, 1e-5)


def test_folding_in_numbers() -> None:
    """What a border was copied from receives it: zeros drop it, the others add it."""
    # With a b c in the output, REFLECT is the transpose of what makes c b a b c b a.
    x = 10 ** np.arange(7)
    want = {
        "ZEROS": [100, 1000, 10000],
        "REFLECT": [1000100, 101010, 10001],
        "REPLICATE": [111, 1000, 1110000],
        "CIRCULAR": [100100, 1001001, 10010],
    }
    for mode, numbers in want.items():
        layer = nn.ConvTranspose1d(
            1, 1, 1, padding=2, padding_mode=mode, use_bias=False, key=jr.key(0)
        )
        layer = with_parameters(layer, jnp.ones((1, 1, 1)))
        assert layer(jnp.asarray(x[None], jnp.float32))[0].tolist() == numbers


@pytest.mark.parametrize("n", [1, 2, 3])
def test_named_layers_are_the_general_one(n: int) -> None:
    """ConvTranspose2d has two spatial axes, and output_padding before padding."""
    named = LAYERS[n](2, 4, 3, 2, 1, 2, 2, 2, key=jr.key(0))
    general = nn.ConvTranspose(n, 2, 4, 3, 2, 2, 1, 2, 2, key=jr.key(0))
    assert isinstance(named, nn.ConvTranspose)
    for name in (f.name for f in dataclasses.fields(general)):
        assert np.all(getattr(named, name) == getattr(general, name))
    assert named.padding == ((2, 2),) * n and named.output_padding == (1,) * n
    assert type(named).__call__ is nn.ConvTranspose.__call__


def draw_options(rng: Any) -> dict[str, Any]:
    """Random hyperparameters that fit inputs of size 3 or more, and Equinox."""
    n = int(rng.integers(1, 4))
    groups = int(rng.integers(1, 3))
    stride = [int(i) for i in rng.integers(1, 4, n)]
    pairs = [tuple(map(int, rng.integers(0, 2, 2))) for _ in range(n)]
    per_axis = [int(i) for i in rng.integers(0, 2, n)]
    padding = [pairs, per_axis, "SAME", "SAME_LOWER", "VALID"][int(rng.integers(5))]
    is_circular = padding in ("SAME", "SAME_LOWER") and bool(rng.integers(3))
    extra = [0 if is_circular else int(rng.integers(s)) for s in stride]
    return {
        "num_spatial_dims": n,
        "in_channels": groups * int(rng.integers(1, 3)),
        "out_channels": groups * int(rng.integers(1, 3)),
        "kernel_size": [int(i) for i in rng.integers(1, 4, n)],
        "stride": stride,
        "padding": padding,
        "output_padding": extra,
        "dilation": [int(i) for i in rng.integers(1, 3, n)],
        "groups": groups,
        "use_bias": bool(rng.integers(2)),
        "padding_mode": "CIRCULAR" if is_circular else "ZEROS",
    }


@pytest.mark.parametrize("seed", range(10))
def test_equinox(seed: int) -> None:
    """With the same key, parameters and output are those of Equinox."""
    rng = np.random.default_rng(seed)
    options = draw_options(rng)
    ours = nn.ConvTranspose(**options, key=jr.key(seed))
    theirs = eqx.nn.ConvTranspose(**options, key=jr.key(seed))
    assert jnp.array_equal(ours.weight, theirs.weight)
    assert ours.bias is None or jnp.array_equal(ours.bias, theirs.bias)
    n = options["num_spatial_dims"]
    shape = (options["in_channels"], *rng.integers(3, 6, n))
    x = jnp.asarray(rng.normal(size=shape), jnp.float32)
    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_attributes() -> None:
    """Sizes are stored for each axis, and parameters have the documented shapes."""
    options = {"stride": [2, 3], "output_padding": np.int64(1), "padding_mode": "zeros"}
    layer = nn.ConvTranspose2d(4, 6, (3, 2), **options, groups=2, key=jr.key(0))
    assert layer.weight.shape == (6, 2, 3, 2) and layer.bias.shape == (6, 1, 1)
    assert (layer.stride, layer.output_padding) == ((2, 3), (1, 1))
    assert {type(size) for size in layer.output_padding} == {int}
    assert (layer.dilation, layer.padding) == ((1, 1), ((0, 0), (0, 0)))
    assert layer.padding_mode == "ZEROS"
    limit = 1 / np.sqrt(2 * 6)
    assert 0.8 * limit < jnp.abs(layer.weight).max() <= limit
    assert [f.name for f in dataclasses.fields(layer)] == [
        "num_spatial_dims",
        "weight",
        "bias",
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "output_padding",
        "dilation",
        "groups",
        "use_bias",
        "padding_mode",
    ]


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision(dtype: Any) -> None:
    """Half precision stays, and rounds once: sums are not taken in half precision."""
    layer = nn.ConvTranspose1d(64, 2, 3, padding=1, dtype=dtype, key=jr.key(0))
    x = jr.normal(jr.key(1), (64, 20)).astype(dtype)
    y = layer(x)
    wide = jax.tree.map(lambda a: a.astype(jnp.float32), layer)
    want = wide(x.astype(jnp.float32))
    assert y.dtype == dtype
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(y.astype(jnp.float32), want, rtol=2 * eps, atol=2 * eps)


@pytest.mark.parametrize("mode", MODES[1:])
def test_borders_are_summed_in_single_precision(mode: str) -> None:
    """What is copied into a wide border is summed in float32, and comes back in half.

    Looked up in the program: a CPU may sum so also where it was not asked to.
    """
    options = {"padding": 9, "padding_mode": mode, "use_bias": False}
    layer = nn.ConvTranspose1d(1, 1, 3, **options, dtype=jnp.bfloat16, key=jr.key(0))
    x = jnp.ones((1, 20), jnp.bfloat16)
    lines = str(jax.make_jaxpr(layer)(x)).splitlines()
    sums = [line for line in lines if "add_any" in line or "reduce_sum" in line]
    assert sums and all(":f32[" in line.split("=")[0] for line in sums)
    assert layer(x).dtype == jnp.bfloat16


def test_complex_and_integer_parameters() -> None:
    """Complex weights are not conjugated; integers stay what they are."""
    options = {"padding": [(1, 0)], "padding_mode": "CIRCULAR", "key": jr.key(0)}
    layer = nn.ConvTranspose1d(1, 1, 2, **options)
    z = with_parameters(layer, jnp.array([[[1j, 2]]]), jnp.array([[1 + 0j]]))
    # Two and 1j, from the end, at each entry; then the first sum joins the last one.
    np.testing.assert_array_equal(z(jnp.array([[1, 1j]])), np.array([[1 + 3j, 2 + 0j]]))
    i = with_parameters(layer, jnp.array([[[1, 2]]]), jnp.array([[1]]))
    assert i(jnp.array([[1, 10]])).tolist() == [[22, 13]]


@pytest.mark.relaxed
def test_mixed_dtypes_promote_as_in_matmul() -> None:
    """Input and parameters of different dtypes meet as in Linear's ``@``."""
    layer = nn.ConvTranspose1d(3, 2, 2, key=jr.key(0))
    for dtype in (jnp.bfloat16, jnp.int32):
        x = jnp.ones((3, 4), dtype)
        assert layer(x).dtype == nn.Linear(3, 2, key=jr.key(0))(x[:, 0]).dtype
        np.testing.assert_array_equal(layer(x), layer(x.astype(jnp.float32)))


def test_leaves_are_arrays() -> None:
    """Only the parameters are leaves; two equal layers have equal structure."""
    make = lambda: nn.ConvTranspose2d(1, 2, 3, padding="SAME", key=jr.key(0))  # noqa: E731
    leaves, treedef = jax.tree.flatten(make())
    assert [x.shape for x in leaves] == [(2, 1, 3, 3), (2, 1, 1)]
    other = jax.tree.structure(make())
    assert treedef == other and hash(treedef) == hash(other)


def test_files_of_equinox_load() -> None:
    """Leaf for leaf the layout is the peer's: no leaf changes its place or shape."""
    options = {"stride": 2, "groups": 2, "padding": "SAME", "key": jr.key(0)}
    ours = jax.tree.leaves(nn.ConvTranspose2d(4, 6, (3, 2), **options))
    theirs = jax.tree.leaves(eqx.nn.ConvTranspose2d(4, 6, (3, 2), **options))
    assert [x.shape for x in ours] == [x.shape for x in theirs]


@pytest.mark.parametrize("mode", ["ZEROS", "REFLECT"])
def test_vmap_is_a_loop(mode: str) -> None:
    """A batch of examples, or of layers, is what each of them gives by itself."""
    options = {"padding": 2, "padding_mode": mode, "groups": 2}
    make = lambda key: nn.ConvTranspose1d(4, 2, 3, 2, 1, **options, key=key)  # noqa: E731
    x = jr.normal(jr.key(1), (3, 4, 6))
    layers = [make(key) for key in jr.split(jr.key(0), 3)]
    want = jnp.stack([layers[0](one) for one in x])
    np.testing.assert_allclose(jax.vmap(layers[0])(x), want, rtol=1e-5, atol=1e-6)
    want = jnp.stack([layer(one) for layer, one in zip(layers, x, strict=True)])
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
    got = jax.vmap(lambda layer, x: layer(x))(stacked, x)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


GOOD = {"num_spatial_dims": 2, "in_channels": 4, "out_channels": 6, "kernel_size": 3}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_spatial_dims", 0),
        ("in_channels", 0),
        ("out_channels", True),
        ("kernel_size", (3, 0)),
        ("stride", 0),
        ("dilation", 1.5),
        ("padding", -1),
        ("padding", "FULL"),
        ("output_padding", -1),
        ("output_padding", 1),
        ("output_padding", (0, 0, 0)),
        ("output_padding", "SAME"),
        ("groups", 4),
        ("padding_mode", "MIRROR"),
    ],
)
def test_bad_arguments(name: str, value: Any) -> None:
    """Each argument is checked at construction, and named."""
    match = f"ConvTranspose: bad argument `{name}`"
    with pytest.raises(HyperparameterError, match=match):
        nn.ConvTranspose(**{**GOOD, name: value}, key=jr.key(0))


@pytest.mark.parametrize(
    ("value", "expected", "got"),
    [
        ((1, 1), "less than stride = (2, 1) on each axis", "(1, 1) (tuple)"),
        ((0, -1), "an int ≥ 0, or 2 of them", "(0, -1) (tuple)"),
    ],
)
def test_bad_argument_messages(value: Any, expected: str, got: str) -> None:
    """A message names layer, argument, range and value."""
    with pytest.raises(HyperparameterError) as caught:
        nn.ConvTranspose2d(4, 6, 3, (2, 1), value, key=jr.key(0))
    title = "ConvTranspose2d: bad argument `output_padding`."
    assert str(caught.value) == f"{title}\n  expected: {expected}\n  got:      {got}"


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            jnp.ones((10, 4, 8, 8)),
            "the input has the wrong shape.\n"
            "  expected: (in_channels, height, width) with in_channels = 4\n"
            "  got:      (10, 4, 8, 8), float32\n"
            "  fix:      layers take one example; for a batch use jax.vmap(layer)",
        ),
        (
            jnp.ones((4, 8, 1)),
            "nothing of the output is left.\n"
            "  expected: positive sizes, before and after padding ((2, 2), (1, 2))\n"
            "  got:      (8, 1), which becomes (13, 0)",
        ),
        (
            jnp.ones((4, 8, 0)),
            "nothing of the output is left.\n"
            "  expected: positive sizes, before and after padding ((2, 2), (1, 2))\n"
            "  got:      (8, 0), which becomes (13, -2)",
        ),
    ],
    ids=["batch", "small", "empty"],
)
def test_bad_input_messages(x: Any, message: str) -> None:
    """Wrong inputs are met with what was expected, given, and the way out."""
    padding = (2, (1, 2))
    layer = nn.ConvTranspose2d(4, 6, 3, 2, padding=padding, key=jr.key(0))
    with pytest.raises(InputError) as caught:
        layer(x)
    assert str(caught.value) == f"ConvTranspose2d: {message}"


def test_the_smallest_input() -> None:
    """One entry suffices, an empty axis does not, however large the kernel."""
    layer = nn.ConvTranspose1d(1, 1, 5, key=jr.key(0))
    assert layer(jnp.ones((1, 1))).shape == (1, 5)
    with pytest.raises(InputError, match="nothing of the output"):
        layer(jnp.ones((1, 0)))
