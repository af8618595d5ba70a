"""CachedAttention beside a formula in NumPy, whole and in pieces."""

import copy
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import vernal as vn
from tests.strategies import refuses
from tests.world import x64
from vernal import nn
from vernal.errors import HyperparameterError, InputError

SIZE, LENGTH = 6, 12
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"length": LENGTH},
    "groups and rotary": {"length": LENGTH, "num_kv_heads": 2, "theta": 100.0},
    "one group and a window": {"window": 3, "num_kv_heads": 1},
    "window and rotary": {"window": 5, "num_kv_heads": 2, "theta": 10.0},
    "window of one": {"window": 1},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def build(
    kind: str = "plain", dtype: Any = jnp.float32, **changes: Any
) -> tuple[nn.CachedAttention, nn.State]:
    """A layer of four heads with biases, and its state for one sequence."""
    options = {"num_kv_heads": 4, "theta": None, **KINDS.get(kind, {}), **changes}
    biases = {"use_query_bias": True, "use_key_bias": True, "use_output_bias": True}
    sizes = {"num_kv_heads": options.pop("num_kv_heads"), "qk_size": 2, "vo_size": 3}
    theta = options.pop("theta")

    def make() -> nn.CachedAttention:
        heads = nn.MultiheadAttention(
            4, SIZE, **sizes, **biases, dtype=dtype, key=jr.key(0)
        )
        rotary = theta and nn.RotaryPositionalEmbedding(2, theta, dtype)
        return nn.CachedAttention(heads, rotary=rotary, **{"dtype": dtype} | options)

    return nn.make_with_state(make)()


def affine(linear: Any, x: Any, heads: int) -> Any:
    """``x Wᵀ + b`` in float64, head by head."""
    y = x @ np.asarray(linear.weight, float).T
    y = y if linear.bias is None else y + np.asarray(linear.bias, float)
    return y.reshape(len(x), heads, -1)


def turned(x: Any, theta: float | None) -> Any:
    """Pairs of channels as complex numbers, turned by their positions."""
    if theta is None:
        return x
    half = x.shape[-1] // 2
    angles = np.arange(len(x))[:, None] * theta ** (-np.arange(half) / half)
    z = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angles)[:, None]
    return np.concatenate([z.real, z.imag], axis=-1)


def formula(layer: nn.CachedAttention, x: Any) -> Any:
    """A loop over heads and positions, each with a softmax of its own, in float64."""
    m, x = layer.attention, np.asarray(x, float)
    theta = layer.rotary and layer.rotary.theta
    q = turned(affine(m.query_proj, x, m.num_heads), theta)
    k = turned(affine(m.key_proj, x, m.num_kv_heads), theta)
    v = affine(m.value_proj, x, m.num_kv_heads)
    y = np.zeros((len(x), m.num_heads, m.vo_size))
    for p in range(len(x)):
        first = 0 if layer.window is None else max(0, p - layer.window + 1)
        for i in range(m.num_heads):
            j = i * m.num_kv_heads // m.num_heads
            weights = np.exp(k[first : p + 1, j] @ q[p, i] / np.sqrt(m.qk_size))
            y[p, i] = weights @ v[first : p + 1, j] / weights.sum()
    return affine(m.output_proj, y.reshape(len(x), -1), 1)[:, 0]


def inputs(rows: int, length: int = LENGTH, dtype: Any = np.float32) -> Any:
    return np.random.default_rng(1).normal(size=(rows, length, SIZE)).astype(dtype)


def read(state: nn.State, index: Any) -> Any:
    """The values of all rows."""
    axes = nn.row_axes(state)
    return jax.vmap(lambda own: own.get(index), in_axes=(axes,))(state)


@jax.jit
def call(layer: Any, x: Any, state: Any, count: Any = None) -> Any:
    return layer(x, state, count=count)


rows_call = jax.jit(jax.vmap(call, in_axes=(None, 0, 0, 0)))


def decode(layer: Any, xs: Any, state: Any) -> Any:
    """All entries one by one, in a scan."""

    def step(state: Any, x: Any) -> Any:
        y, state = layer(x[None], state)
        return state, y[0]

    state, ys = jax.lax.scan(step, state, xs)
    return ys, state


@jax.jit
def all_ways(layer: Any, x: Any, state: Any) -> Any:
    """Whole, one by one, and in pieces of several sizes; and the last states."""
    whole, none = layer(x, None)
    assert none is None
    by_one, last = decode(layer, x, copy.copy(state))
    pieces = []
    for start, stop in itertools.pairwise([0, 6, 7, 9, LENGTH]):
        y, state = layer(x[start:stop], state)
        pieces.append(y)
    return (whole, by_one, jnp.concatenate(pieces)), state, last


@every_kind
def test_formula(kind: str) -> None:
    """However the sequence is cut, it is the formula, in float64."""
    with x64():
        layer, state = build(kind, jnp.float64)
        x = inputs(1, dtype=float)[0]
        ys, state, _ = all_ways(layer, x, state)
        for y in ys:
            assert y.dtype == jnp.float64
            np.testing.assert_allclose(y, formula(layer, x), 1e-12, 1e-12)
        assert int(state.get(layer.position)) == LENGTH


@jax.jit
def go_on(layer: Any, prompts: Any, counts: Any, rest: Any, state: Any) -> Any:
    """Reads prompts that end where each ends, and then one by one, in all rows."""
    ys, state = jax.vmap(call, in_axes=(None, 0, 0, 0))(layer, prompts, state, counts)
    return ys, *jax.vmap(decode, in_axes=(None, 0, 0))(layer, rest, state)


@pytest.mark.parametrize("kind", list(KINDS)[1:4])
def test_rows_at_positions_of_their_own(kind: str) -> None:
    """Prompts of different lengths go on from where each of them ends."""
    layer, state = build(kind)
    counts, xs = np.array([1, 4, 7, 3], np.int32), inputs(4)
    prompts = np.where(
        np.arange(7)[None, :, None] < counts[:, None, None], xs[:, :7], 9
    )
    rest = np.stack([x[n : n + 5] for x, n in zip(xs, counts, strict=True)])
    ys, more, state = go_on(layer, prompts, counts, rest, nn.with_rows(state, 4))
    assert read(state, layer.position).tolist() == [6, 9, 12, 8]
    for row, n in enumerate(counts):
        want = formula(layer, xs[row])
        np.testing.assert_allclose(ys[row, :n], want[:n], 1e-5, 1e-5)
        np.testing.assert_allclose(more[row], want[n : n + 5], 1e-5, 1e-5)
    whole, _ = call(layer, prompts[1], None, counts[1])
    np.testing.assert_allclose(whole[:4], ys[1, :4], 1e-5, 1e-6)


def test_what_is_kept() -> None:
    """Keys, turned, and values lie at their positions; in a ring, at the remainder."""
    x = inputs(1)[0]
    for kind, order in {
        "groups and rotary": list(range(12)),
        "window and rotary": [10, 11, 7, 8, 9],
    }.items():
        layer, state = build(kind)
        m, wide = layer.attention, np.asarray(x, float)
        assert layer.rotary is not None
        keys = turned(affine(m.key_proj, wide, 2), layer.rotary.theta)
        values = affine(m.value_proj, wide, 2)
        _, by_piece, by_one = all_ways(layer, x, state)
        for new in (by_piece, by_one):
            for array, want in zip(new.get(layer.cache), (keys, values), strict=True):
                want = want[order].swapaxes(0, 1)
                np.testing.assert_allclose(array, want, 1e-5, 1e-6)


def test_the_thousandth_step() -> None:
    """A ring has turned many times by then, and nothing has drifted."""
    layer, state = build("window and rotary")
    x = inputs(1, 1003)[0]
    ys, state = jax.jit(decode)(layer, x[:1000], state)
    more, _ = call(layer, x[1000:], state)
    want = formula(layer, x)[900:]
    np.testing.assert_allclose(np.concatenate([ys, more])[900:], want, 1e-4, 1e-4)


def test_gradients_through_a_prompt() -> None:
    """They are those of the attention with a mask, for parameters and input."""
    layer, state = build("window and rotary")
    x = inputs(1, 7)[0]
    distance = np.subtract.outer(np.arange(7), np.arange(7))
    mask = (distance >= 0) & (distance < 5)

    @jax.jit
    def gradients(layer: Any, x: Any, state: Any) -> Any:
        turn = jax.vmap(layer.rotary, in_axes=1, out_axes=1)

        def plain(m: Any, x: Any) -> Any:
            heads = lambda q, k, v: (turn(q), turn(k), v)  # noqa: E731
            return jnp.sum(jnp.sin(m(x, x, x, mask, process_heads=heads)))

        def ours(m: Any, x: Any, state: Any) -> Any:
            changed = vn.tree_at(lambda layer: layer.attention, layer, m)
            return jnp.sum(jnp.sin(changed(x, state)[0]))

        args = layer.attention, x
        return jax.grad(plain, (0, 1))(*args), [
            jax.grad(ours, (0, 1))(*args, own) for own in (state, None)
        ]

    with x64():
        layer, state = build("window and rotary", jnp.float64)
        want, ours = gradients(layer, x.astype(float), state)
        for got in ours:
            pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
            for a, b in pairs:
                np.testing.assert_allclose(a, b, 1e-10, 1e-12)


def test_a_row_begins_anew() -> None:
    """After a reset a row is as at first; the others go on."""
    layer, state = build("window and rotary")
    xs, initial = inputs(2, 10), nn.with_rows(state, 2)
    all_five = np.array([5, 5], np.int32)
    _, state = rows_call(layer, xs[:, :5], initial, all_five)
    state = nn.reset_rows(state, initial, np.array([True, False]))
    ys, state = rows_call(layer, xs[:, 5:], state, all_five)
    np.testing.assert_allclose(ys[0], formula(layer, xs[0, 5:]), 1e-5, 1e-6)
    np.testing.assert_allclose(ys[1], formula(layer, xs[1])[5:], 1e-5, 1e-6)


def test_a_full_cache() -> None:
    """What finds no room is NaN from then on, in its row; nothing is overwritten."""
    layer, state = build("groups and rotary")
    xs, state = inputs(2, LENGTH + 8), nn.with_rows(state, 2)
    n = np.array([5, 1], np.int32)
    _, state = rows_call(layer, xs[:, :5], state, n)
    _, state = rows_call(layer, xs[:, 5:10], state, n)
    kept = [np.asarray(a) for a in read(state, layer.cache)]
    ys, state = rows_call(layer, xs[:, 10:15], state, n)
    ys = np.asarray(ys)
    np.testing.assert_allclose(ys[0, :2], formula(layer, xs[0, :12])[10:], 1e-5, 1e-6)
    assert np.isnan(ys[0, 2:]).all() and not np.isnan(ys[1]).any()
    for old, new in zip(kept, read(state, layer.cache), strict=True):
        assert np.array_equal(old[0, :, :10], new[0, :, :10])
    full = [np.asarray(a) for a in read(state, layer.cache)]
    ys, state = rows_call(layer, xs[:, 15:], state, n)
    assert np.isnan(np.asarray(ys[0])).all() and not np.isnan(np.asarray(ys[1])).any()
    for old, new in zip(full, read(state, layer.cache), strict=True):
        assert np.array_equal(old[0], new[0])
    ys, _ = rows_call(layer, xs[:, 15:], state, 0 * n)  # which need no room
    assert not np.isnan(np.asarray(ys)).any()


def test_half_the_memory() -> None:
    """A cache in bfloat16 costs its rounding, once, however the input is cut."""
    layer, state = build("window and rotary", dtype=jnp.bfloat16)
    layer = jax.tree.map(lambda a: a.astype(jnp.float32), layer)
    x = inputs(1)[0]
    (_, by_one, pieces), new, _ = all_ways(layer, x, state)
    assert pieces.dtype == jnp.float32
    assert {a.dtype for a in new.get(layer.cache)} == {jnp.dtype("bfloat16")}
    want = formula(layer, x)
    np.testing.assert_allclose(pieces, want, atol=0.02)
    assert np.abs(pieces - want).max() > 1e-4
    np.testing.assert_allclose(pieces, by_one, 1e-5, 1e-6)


def test_memory() -> None:
    """The state grows with the cache and the heads of keys; no step is quadratic."""
    for groups in (1, 4):
        for name, n in (("length", 50), ("window", 50), ("length", 100)):
            layer, state = build("none", num_kv_heads=groups, **{name: n})
            count = sum(a.size for a in jax.tree.leaves(state))
            assert count == groups * n * (2 + 3) + 1
            program = jax.make_jaxpr(layer)(inputs(1, 1)[0], state)
            arrays = [v.aval for e in program.eqns for v in e.outvars]
            # At most the weights of all four heads, and what is kept.
            assert max(a.size for a in arrays) <= 4 * n * 3


def test_dropout_and_process_heads() -> None:
    """Both are handed to the attention, with and without a cache."""
    heads = nn.MultiheadAttention(2, 4, dropout_p=0.5, key=jr.key(0))
    layer, state = nn.make_with_state(nn.CachedAttention)(heads, 5)
    x, key, causal = inputs(1, 5)[0][:, :4], jr.key(3), np.tri(5, dtype=bool)
    double = lambda q, k, v: (q, -k, 2 * v)  # noqa: E731
    want = heads(x, x, x, causal, key=key, process_heads=double)
    dry = heads(x, x, x, causal, inference=True)
    assert not jnp.allclose(want, dry)
    for own in (None, state):
        spare = copy.copy(own)
        y, _ = layer(x, own, key=key, process_heads=double)
        np.testing.assert_allclose(y, want, 1e-5, 1e-6)
        y, _ = layer(x, spare, inference=True)
        np.testing.assert_allclose(y, dry, 1e-5, 1e-6)


def test_arrays_of_numpy() -> None:
    """A state that came from a file, as NumPy arrays, works without jit."""
    layer, state = build()
    x = inputs(1, 3)[0]
    want, _ = layer(x, copy.copy(state))
    got, _ = layer(np.asarray(x), jax.tree.map(np.asarray, state), count=np.int64(3))
    np.testing.assert_allclose(got, want, 1e-6)


HEADS = nn.MultiheadAttention(2, 4, key=jr.key(0))


@pytest.mark.parametrize(
    ("args", "options", "name"),
    [
        ((nn.Identity(), 3), {}, "attention"),
        ((nn.MultiheadAttention(2, 4, 5, key=jr.key(0)), 3), {}, "attention"),
        ((HEADS,), {}, "length"),
        ((HEADS, 0), {}, "length"),
        ((HEADS, 2.0), {}, "length"),
        ((HEADS,), {"window": True}, "window"),
        ((HEADS,), {"window": 0}, "window"),
        ((HEADS, 3), {"window": 2}, "window"),
        ((HEADS, 3), {"rotary": nn.Identity()}, "rotary"),
        ((HEADS, 3), {"rotary": nn.RotaryPositionalEmbedding(4)}, "rotary"),
        ((HEADS, 3), {"dtype": jnp.int32}, "dtype"),
    ],
)
def test_bad_arguments(args: Any, options: Any, name: str) -> None:
    """What is outside its range is refused, by name."""
    with refuses(HyperparameterError, "CachedAttention", f"`{name}`"):
        nn.CachedAttention(*args, **options)


def test_bad_inputs() -> None:
    """Wrong shapes, dtypes and too many entries are refused; the state stays."""
    layer, state = build()
    for x, *words in (
        (jnp.ones((2, 5)), "channels = 6", "(2, 5)"),
        (jnp.ones((2, 3, SIZE)), "jax.vmap"),
        (jnp.ones((3, SIZE), int), "int32"),
        (jnp.ones((13, SIZE)), "n ≤ length = 12", "(13, 6)", "layer(x, None)"),
    ):
        with refuses(InputError, "CachedAttention", *words):
            layer(x, state)
    with refuses(InputError, "CachedAttention", "not a State"):
        layer(jnp.ones((3, SIZE)), 3)
    layer(jnp.ones((3, SIZE)), state)
