"""CachedAttention beside a formula in NumPy, whole and in pieces."""

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
    options = {"num_kv_heads": 4, "theta": None, **KINDS[kind], **changes}
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


def inputs(rows: int, length: int = LENGTH, dtype: Any = jnp.float32) -> Any:
    return jr.normal(jr.key(1), (rows, length, SIZE), dtype)


@jax.jit
def call(layer: Any, x: Any, state: Any, count: Any = None) -> Any:
    return layer(x, state, count=count)


@jax.jit
def decode(layer: Any, xs: Any, state: Any) -> Any:
    """All entries one by one, in a scan."""

    def step(state: Any, x: Any) -> Any:
        y, state = layer(x[None], state)
        return state, y[0]

    state, ys = jax.lax.scan(step, state, xs)
    return ys, state


@every_kind
def test_formula(kind: str) -> None:
    """Whole, in pieces of several sizes, and one by one, it is the formula."""
    with x64():
        for dtype, tolerance in ((jnp.float32, 1e-5), (jnp.float64, 1e-12)):
            layer, state = build(kind, dtype)
            x = inputs(1, dtype=dtype)[0]
            want = formula(layer, x)
            close = {"rtol": tolerance, "atol": tolerance}
            y, none = call(layer, x, None)
            assert none is None and y.dtype == dtype
            np.testing.assert_allclose(y, want, **close)
            initial = jax.tree.map(jnp.copy, state)
            np.testing.assert_allclose(decode(layer, x, initial)[0], want, **close)
            pieces = []
            for piece in jnp.split(x, [6, 7, 9]):
                y, state = call(layer, piece, state)
                pieces.append(y)
            assert int(state.get(layer.position)) == LENGTH
            np.testing.assert_allclose(jnp.concatenate(pieces), want, **close)


@every_kind
def test_rows_at_positions_of_their_own(kind: str) -> None:
    """Prompts of different lengths go on from where each of them ends."""
    layer, state = build(kind)
    counts = jnp.array([1, 4, 7, 3])
    xs, rows = inputs(4), jnp.arange(4)
    prompts = jnp.where(
        jnp.arange(7)[None, :, None] < counts[:, None, None], xs[:, :7], 9
    )
    axes = {"in_axes": (None, 0, 0, 0)}
    ys, state = jax.vmap(call, **axes)(layer, prompts, nn.with_rows(state, 4), counts)
    rest = jax.vmap(lambda x, n: jax.lax.dynamic_slice_in_dim(x, n, 5))(xs, counts)
    more, state = jax.vmap(decode, in_axes=(None, 0, 0))(layer, rest, state)
    assert state.get(layer.position).tolist() == [6, 9, 12, 8]
    for row, n, x in zip(rows, counts, xs, strict=True):
        want = formula(layer, x)
        np.testing.assert_allclose(ys[row, :n], want[:n], 1e-5, 1e-5)
        np.testing.assert_allclose(more[row], want[n : n + 5], 1e-5, 1e-5)
    whole, _ = call(layer, prompts[1], None, 4)
    np.testing.assert_allclose(whole[:4], ys[1, :4], 1e-5, 1e-6)


def test_what_is_kept() -> None:
    """Keys, turned, and values lie at their positions; in a ring, at the remainder."""
    x = inputs(1, 7)[0]
    for kind, order in (
        ("groups and rotary", range(7)),
        ("window and rotary", [5, 6, 2, 3, 4]),
    ):
        layer, state = build(kind)
        m = layer.attention
        keys = turned(affine(m.key_proj, np.asarray(x, float), 2), layer.rotary.theta)
        values = affine(m.value_proj, np.asarray(x, float), 2)
        for _, new in (
            call(layer, x, nn.State.__copy__(state)),
            decode(layer, x, state),
        ):
            kept = new.get(layer.cache)
            for array, want in zip(kept, (keys, values), strict=True):
                want = want[list(order)].swapaxes(0, 1)
                np.testing.assert_allclose(array[:, : len(order)], want, 1e-5, 1e-6)
                assert not array[:, len(order) :].any()


def test_the_thousandth_step() -> None:
    """A ring has turned many times by then, and nothing has drifted."""
    layer, state = build("window and rotary")
    x = inputs(1, 1003)[0]
    ys, state = decode(layer, x[:1000], state)
    more, _ = call(layer, x[1000:], state)
    want = formula(layer, x)[900:]
    np.testing.assert_allclose(jnp.concatenate([ys, more])[900:], want, 1e-4, 1e-4)


def test_gradients_through_a_prompt() -> None:
    """They are those of the attention with a mask, for parameters and input."""
    with x64():
        for kind in ("groups and rotary", "window and rotary"):
            layer, state = build(kind, jnp.float64)
            x = inputs(1, 7, jnp.float64)[0]
            distance = np.subtract.outer(np.arange(7), np.arange(7))
            mask = (distance >= 0) & (distance < (layer.window or 99))
            turn = jax.vmap(layer.rotary, in_axes=1, out_axes=1)

            def plain(m: Any, x: Any, mask: Any = mask, turn: Any = turn) -> Any:
                heads = lambda q, k, v: (turn(q), turn(k), v)  # noqa: E731
                return jnp.sum(jnp.sin(m(x, x, x, mask, process_heads=heads)))

            def ours(layer: Any, x: Any, state: Any) -> Any:
                return jnp.sum(jnp.sin(layer(x, state)[0]))

            want = jax.grad(plain, (0, 1))(layer.attention, x)
            for own in (state, None):
                got, by_x = jax.jit(jax.grad(ours, (0, 1)))(layer, x, own)
                pairs = zip(
                    jax.tree.leaves((got.attention, by_x)),
                    jax.tree.leaves(want),
                    strict=True,
                )
                for a, b in pairs:
                    np.testing.assert_allclose(a, b, 1e-10, 1e-12)


def test_a_row_begins_anew() -> None:
    """After a reset a row is as at first; the others go on."""
    layer, state = build("window and rotary")
    xs, initial = inputs(2, 9), nn.with_rows(state, 2)
    step = jax.vmap(call, in_axes=(None, 0, 0))
    _, state = step(layer, xs[:, :6], initial)
    state = nn.reset_rows(state, initial, jnp.array([True, False]))
    ys, state = step(layer, xs[:, 6:], state)
    np.testing.assert_allclose(ys[0], formula(layer, xs[0, 6:]), 1e-5, 1e-6)
    np.testing.assert_allclose(ys[1], formula(layer, xs[1])[6:], 1e-5, 1e-6)


def test_a_full_cache() -> None:
    """What finds no room is NaN from then on, in its row; nothing is overwritten."""
    layer, state = build("groups and rotary")
    xs = inputs(2, LENGTH + 3)
    step = jax.vmap(call, in_axes=(None, 0, 0, 0))
    state = nn.with_rows(state, 2)
    _, state = step(layer, xs[:, :10], state, jnp.array([10, 2]))
    kept = jax.tree.map(np.asarray, state.get(layer.cache))
    both = jnp.array([4, 4])
    ys, state = step(layer, xs[:, 10:14], state, both)
    np.testing.assert_allclose(ys[0, :2], formula(layer, xs[0, :12])[10:], 1e-5, 1e-6)
    assert jnp.isnan(ys[0, 2:]).all() and not jnp.isnan(ys[1]).any()
    for old, new in zip(kept, state.get(layer.cache), strict=True):
        assert jnp.array_equal(old[0, :, :10], new[0, :, :10])
    last = np.asarray(state.get(layer.cache)[0][0])
    ys, state = step(layer, xs[:, 14:], state, both // 4)
    assert jnp.isnan(ys[0]).all() and not jnp.isnan(ys[1]).any()
    assert jnp.array_equal(state.get(layer.cache)[0][0], last)
    # What is not there needs no room.
    ys, _ = step(layer, xs[:, :4], state, both * 0)
    assert not jnp.isnan(ys).any()


def test_half_the_memory() -> None:
    """A cache in bfloat16 costs its rounding, once, however the input is cut."""
    for kind in ("groups and rotary", "window and rotary"):
        layer, state = build(kind, dtype=jnp.bfloat16)
        layer = jax.tree.map(lambda a: a.astype(jnp.float32), layer)
        x = inputs(1)[0]
        copy = jax.tree.map(jnp.copy, state)
        y, new = call(layer, x, state)
        ys, _ = decode(layer, x, copy)
        assert y.dtype == jnp.float32
        assert {a.dtype for a in new.get(layer.cache)} == {jnp.dtype("bfloat16")}
        want = formula(layer, x)
        np.testing.assert_allclose(y, want, atol=0.02)
        assert np.abs(y - want).max() > 1e-4
        np.testing.assert_allclose(y, ys, 1e-5, 1e-6)


def test_memory() -> None:
    """The state grows with the cache and the heads of keys; no step is quadratic."""
    for groups in (1, 4):
        for name, n in (("length", 50), ("window", 50), ("length", 100)):
            layer, state = build(length=None, num_kv_heads=groups, **{name: n})
            count = sum(a.size for a in jax.tree.leaves(state))
            assert count == groups * n * (2 + 3) + 1
            program = jax.make_jaxpr(layer)(inputs(1, 1)[0], state)
            arrays = [v.aval for e in program.eqns for v in e.outvars]
            # At most the weights of all four heads, and what is kept.
            assert max(a.size for a in arrays) <= 4 * n * 3


def test_one_compilation() -> None:
    """Steps of one size are one program."""
    layer, state = build("window and rotary")
    step = vn.debug.assert_max_traces(jax.jit(lambda *args: layer(*args)), max_traces=1)
    for x in inputs(1)[0]:
        _, state = step(x[None], state)


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
        copy = jax.tree.map(jnp.copy, own)
        y, _ = layer(x, own, key=key, process_heads=double)
        np.testing.assert_allclose(y, want, 1e-5, 1e-6)
        y, _ = layer(x, copy, inference=True)
        np.testing.assert_allclose(y, dry, 1e-5, 1e-6)


def test_arrays_of_numpy() -> None:
    """A state that came from a file, as NumPy arrays, works without jit."""
    layer, state = build()
    x = inputs(1, 3)[0]
    want, _ = layer(x, jax.tree.map(jnp.copy, state))
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
