"""VectorQuantizer beside the paper's formulas in float64 NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.sharding import AxisType

import vernal as vn
from tests import oracles
from tests.nn import devices
from tests.nn.devices import batched
from tests.world import x64
from vernal.errors import AxisNameError, HyperparameterError, InputError
from vernal.nn import (
    Quantized,
    VectorQuantizer,
    batched as batched_layer,
    make_with_state,
)

CODES, SIZE = 6, 3

step = jax.jit(batched)
with_keys = jax.jit(
    lambda layer, xs, state, key: batched_layer(layer)(xs, state, key=key)
)


def build(axis_name: Any = "batch", codes: int = CODES, **kwargs: Any) -> Any:
    make = make_with_state(VectorQuantizer)
    return make(codes, SIZE, axis_name, **{"key": jr.key(0), **kwargs})


def draw(seed: int, size: int = 8, spatial: Any = (2,)) -> Any:
    """A batch of vectors, channels first, whose spread grows from step to step."""
    noise = np.random.default_rng(seed).normal(size=(size, SIZE, *spatial))
    return (1 + 0.01 * seed) * noise


def book_of(layer: Any, state: Any) -> Any:
    return state.get(layer.codebook_index)


def with_codes(layer: Any, state: Any, vectors: Any, sizes: Any = None) -> Any:
    """The state with these codes, and perhaps sizes, after one step."""
    book = book_of(layer, state)
    sizes = book.sizes if sizes is None else jnp.asarray(sizes, book.sizes.dtype)
    new = (jnp.array(1, jnp.int32), sizes, jnp.asarray(vectors, book.vectors.dtype))
    return state.set(layer.codebook_index, type(book)(*new))


def rows_of(xs: Any) -> Any:
    """All vectors of a batch, one in each row."""
    return np.moveaxis(oracles.to_float64(xs), 1, -1).reshape(-1, SIZE)


class Paper:
    """Appendix A.1 of the paper, on plain sums; codes that nothing chose stay."""

    def __init__(self, vectors: Any, decay: float) -> None:
        self.vectors, self.decay = oracles.to_float64(vectors), decay
        self.n, self.m, self.steps = np.zeros(len(self.vectors)), 0 * self.vectors, 0

    def step(self, xs: Any) -> Any:
        """Codes, vectors, losses by example, and the perplexity after the step."""
        rows = rows_of(xs)
        distances = np.square(rows[:, None] - self.vectors[None]).sum(-1)
        codes = distances.argmin(1)
        chosen = self.vectors[codes]
        losses = np.square(rows - chosen).reshape(len(xs), -1).mean(1)
        one_hot = np.eye(len(self.vectors))[codes]
        keep = 1 - self.decay if self.decay < 1 else 1
        self.n = self.decay * self.n + keep * one_hot.sum(0)
        self.m = self.decay * self.m + keep * one_hot.T @ rows
        used = self.n > 0
        self.vectors = self.vectors.copy()
        self.vectors[used] = self.m[used] / self.n[used][:, None]
        self.steps += 1
        share = self.n[used] / self.n.sum()
        return codes, chosen, losses, np.exp(-np.sum(share * np.log(share)))

    def sizes(self) -> Any:
        """The average number of vectors by code, corrected for its bias."""
        if self.decay == 1:
            return self.n / self.steps
        return self.n / (1 - self.decay**self.steps)


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.99, 1.0])
def test_a_thousand_steps(decay):
    """Codes, outputs, losses, perplexity and codebook are those of the paper."""
    with x64():
        layer, state = build(decay=decay)
        paper = Paper(book_of(layer, state).vectors, decay)
        batches = jnp.asarray(np.stack([draw(i) for i in range(1000)]))

        def body(state: Any, xs: Any) -> Any:
            out, state = batched(layer, xs, state)
            return state, out

        state, outs = jax.jit(lambda s: jax.lax.scan(body, s, batches))(state)
        for i, xs in enumerate(batches):
            codes, chosen, losses, perplexity = paper.step(xs)
            if i not in (0, 1, 10, 999):
                continue
            out = jax.tree.map(lambda a, i=i: a[i], outs)
            np.testing.assert_array_equal(out.codes.ravel(), codes)
            np.testing.assert_allclose(rows_of(out.vectors), chosen, 1e-9)
            np.testing.assert_allclose(out.loss, losses, 1e-9)
            np.testing.assert_allclose(out.perplexity, perplexity, 1e-9)
        book = book_of(layer, state)
        np.testing.assert_allclose(book.vectors, paper.vectors, 1e-9)
        np.testing.assert_allclose(book.sizes, paper.sizes(), 1e-9)


@pytest.mark.parametrize("spatial", [(), (5,), (2, 3)], ids=str)
def test_float32(spatial):
    """The same in float32, with any number of spatial axes, for the first steps."""
    layer, state = build()
    paper = Paper(book_of(layer, state).vectors, 0.99)
    for i in range(3):
        xs = jnp.asarray(draw(i, spatial=spatial), jnp.float32)
        out, state = step(layer, xs, state)
        codes, chosen, losses, perplexity = paper.step(xs)
        assert (out.codes.shape, out.codes.dtype) == ((8, *spatial), jnp.int32)
        np.testing.assert_array_equal(out.codes.ravel(), codes)
        np.testing.assert_allclose(rows_of(out.vectors), chosen, 1e-4, 1e-6)
        np.testing.assert_allclose(out.loss, losses, 1e-4)
        np.testing.assert_allclose(out.perplexity, perplexity, 1e-4)
    np.testing.assert_allclose(book_of(layer, state).vectors, paper.vectors, 1e-4, 1e-6)


def test_codes_far_from_the_origin():
    """Near each other at 1000 they are told apart, where plain float32 terms cancel."""
    layer, state = build(codes=64, inference=True)
    rng = np.random.default_rng(0)
    vectors = np.float32(1000 + rng.normal(size=(64, SIZE)))
    state = with_codes(layer, state, vectors)
    xs = jnp.asarray(1000 + rng.normal(size=(256, SIZE)), jnp.float32)
    out, _ = step(layer, xs, state)
    difference = oracles.to_float64(xs)[:, None] - oracles.to_float64(vectors)[None]
    distances = np.square(difference).sum(-1)
    excess = distances[np.arange(256), out.codes] - distances.min(1)
    assert excess.max() < 1e-4


def test_gradients_pass_straight_through():
    """That of the output becomes that of the input; that of the loss is 2(z - e)/n.

    The codebook gets none.
    """
    layer, state = build()
    xs, weights = (jnp.asarray(draw(i), jnp.float32) for i in range(2))

    def through(xs: Any) -> Any:
        out, new = batched(layer, xs, state)
        book = book_of(layer, new)
        return jnp.sum(weights * out.vectors) + book.vectors.sum() + book.sizes.sum()

    np.testing.assert_allclose(jax.grad(through)(xs), weights, 1e-6)
    loss = lambda xs: batched(layer, xs, state)[0].loss.sum()  # noqa: E731
    out, _ = step(layer, xs, state)
    expected = 2 * (xs - out.vectors) / xs[0].size
    np.testing.assert_allclose(jax.grad(loss)(xs), expected, 1e-5)

    def by_codes(vectors: Any) -> Any:
        state = with_codes(*build(), vectors)
        out, _ = batched(layer, xs, state)
        return jnp.sum(weights * out.vectors) + out.loss.sum()

    vectors = jnp.asarray(draw(3)[:CODES, :, 0], jnp.float32)
    np.testing.assert_array_equal(jax.grad(by_codes)(vectors), jnp.zeros_like(vectors))


def test_a_code_that_nothing_chooses_stays():
    """After thousands of steps it is the same in every bit, though its size is 0."""
    layer, state = build(decay=0.9)
    vectors = np.concatenate([np.eye(3), 100 + np.eye(3)])
    state = with_codes(layer, state, vectors, np.ones(CODES))
    xs = jnp.asarray(draw(0), jnp.float32)
    body = lambda _, state: batched(layer, xs, state)[1]  # noqa: E731
    state = jax.jit(lambda s: jax.lax.fori_loop(0, 3000, body, s))(state)
    book = book_of(layer, state)
    np.testing.assert_array_equal(book.vectors[3:], np.float32(vectors[3:]))
    assert float(book.sizes[3:].max()) < 1e-30
    near = jnp.full((4, SIZE, 1), 100.0)
    _, state = step(layer, near, state)  # one of them lives again
    book = book_of(layer, state)
    assert int(jnp.sum(jnp.all(book.vectors == 100, axis=1))) == 1


def test_inference():
    """Nothing changes, no axis or key is needed, and a batch is its examples."""
    layer, state = build(revive_below=1.0)
    xs = jnp.asarray(draw(0), jnp.float32)
    _, state = with_keys(layer, xs, state, jr.key(1))
    frozen = vn.nn.inference_mode(layer)
    before = jax.tree.leaves(state)
    out, new = step(frozen, xs, state)
    for a, b in zip(before, jax.tree.leaves(new), strict=True):
        np.testing.assert_array_equal(a, b)
    for call in (frozen, lambda *a: layer(*a, inference=True)):
        one, _ = call(xs[0], new)
        assert isinstance(one, Quantized)
        np.testing.assert_array_equal(one.codes, out.codes[0])
        np.testing.assert_array_equal(one.vectors, out.vectors[0])
        np.testing.assert_allclose(one.perplexity, out.perplexity[0], 1e-6)


def test_decode():
    """Codes become exactly the vectors of the call; what is no code becomes NaN."""
    layer, state = build(inference=True)
    xs = jnp.asarray(draw(0, spatial=(2, 2)), jnp.float32)
    out, _ = step(layer, xs, state)
    decode = jax.jit(lambda codes: layer.decode(codes, state))
    for codes, vectors in zip(out.codes, out.vectors, strict=True):
        np.testing.assert_array_equal(layer.decode(codes, state), vectors)
        np.testing.assert_array_equal(decode(codes.astype(jnp.uint8)), vectors)
    assert layer.decode(3, state).shape == (SIZE,)
    wrong = decode(jnp.array([-1, 0, CODES]))
    np.testing.assert_array_equal(jnp.isnan(wrong), [[True, False, True]] * SIZE)


def test_perplexity():
    """It counts the codes in use: all, two, one, or none yet."""
    layer, state = build(inference=True)
    x = jnp.zeros((SIZE,))
    for sizes, expected in (([3.0] * 6, 6), ([5, 5, 0, 0, 0, 0], 2), ([0] * 6, 1)):
        state = with_codes(layer, state, jnp.ones((CODES, SIZE)), sizes)
        out, _ = layer(x, state)
        np.testing.assert_allclose(out.perplexity, expected, 1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_vectors_that_are_not_finite_change_no_code(bad):
    """The codebook is as if they were not there, and none of them revives a code."""
    layer, state = build()
    xs = jnp.asarray(draw(0, spatial=()), jnp.float32)
    paper = Paper(book_of(layer, state).vectors, 0.99)
    paper.step(np.delete(np.asarray(xs), 3, axis=0))
    _, state = step(layer, xs.at[3, 1].set(bad), state)
    book = book_of(layer, state)
    np.testing.assert_allclose(book.vectors, paper.vectors, 1e-4, 1e-6)
    np.testing.assert_allclose(book.sizes, paper.sizes(), 1e-6)

    layer, state = build(codes=40, revive_below=0.5)
    _, state = with_keys(layer, xs.at[3:, 1].set(bad), state, jr.key(1))
    assert float(jnp.abs(book_of(layer, state).vectors).max()) < 100


def test_the_first_step_starts_from_the_batch():
    """With revival the codes come from the whole batch, each as likely as another."""
    layer, state = build(codes=1024, revive_below=1e-3)
    xs = jnp.asarray(draw(0, 8, (4,)), jnp.float32)
    out, state = with_keys(layer, xs, state, jr.key(1))
    np.testing.assert_array_equal(out.vectors, xs)  # each has become a code
    np.testing.assert_array_equal(out.loss, jnp.zeros(8))
    vectors = oracles.to_float64(book_of(layer, state).vectors)
    distances = np.square(vectors[:, None] - rows_of(xs)[None]).sum(-1)
    counts = np.bincount(distances.argmin(1), minlength=32)
    assert distances.min(1).max() < 1e-12 and 10 < counts.min() < counts.max() < 60


def test_revival():
    """Only codes below the bound are replaced; they begin with the bound as size."""
    layer, state = build(revive_below=2.0, decay=0.5)
    far = np.concatenate([np.eye(3), 100 + np.eye(3)])
    state = with_codes(layer, state, far, [9, 9, 9, 2, 1.9, 0])
    xs = jnp.asarray(draw(0), jnp.float32)
    out, after = with_keys(layer, xs, state, jr.key(1))
    book = book_of(layer, after)
    np.testing.assert_array_equal(book.vectors[3], np.float32(far[3]))
    assert float(jnp.abs(book.vectors[4:]).max()) < 10
    rate = (1 - 0.5) / (1 - 0.5**2)  # of the second step
    old = np.array([9, 9, 9, 2, 2, 2])
    counts = np.bincount(np.asarray(out.codes).ravel(), minlength=CODES)
    np.testing.assert_allclose(book.sizes, (1 - rate) * old + rate * counts, 1e-6)
    assert counts[4] > 0 and counts[5] > 0  # they are used at once
    _, other = with_keys(layer, xs, state, jr.key(2))
    assert bool(jnp.any(book_of(layer, other).vectors != book.vectors))


def test_keys_of_the_examples():
    """One key for all examples does as well as one for each; the first one decides."""
    layer, state = build(revive_below=1.0)
    xs = jnp.asarray(draw(0), jnp.float32)
    call = lambda x, state, key: layer(x, state, key=key)  # noqa: E731
    keys = jr.split(jr.key(1), 8)
    results = []
    for given, axis in ((keys, 0), (keys[0], None)):
        axes: Any = {"in_axes": (0, None, axis), "out_axes": (0, None)}
        _, new = jax.vmap(call, axis_name="batch", **axes)(xs, state, given)
        results.append(book_of(layer, new).vectors)
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision(dtype):
    """Outputs are exactly the codes, rounded; codebook and loss are in float32."""
    layer, state = build(dtype=dtype)
    xs = jnp.asarray(30000 * np.sign(draw(0)) + 100 * draw(0), dtype)
    state = with_codes(layer, state, 30000 * np.sign(draw(1)[:CODES, :, 0]) + 0.1)
    out, new = step(layer, xs, state)
    book = book_of(layer, new)
    dtypes = (out.vectors.dtype, out.loss.dtype, book.vectors.dtype)
    assert dtypes == (dtype, jnp.float32, jnp.float32)
    expected = jax.vmap(lambda c: layer.decode(c, state).astype(dtype))(out.codes)
    np.testing.assert_array_equal(out.vectors, expected)
    paper = Paper(book_of(layer, state).vectors, 0.99)
    paper.n, paper.m = 0.01 * paper.n, 0.01 * paper.m
    np.testing.assert_allclose(out.loss, paper.step(xs)[2], 1e-4)
    assert bool(jnp.all(jnp.isfinite(book.vectors)))


@pytest.mark.parametrize("check", [True, False])
def test_shard_map(check):
    """Over vmap and eight devices it learns and revives as on one."""
    one, state = build(codes=16, revive_below=1.0)
    # In this order of the names examples have the same positions as on one device.
    many, many_state = build(["d", "batch"], codes=16, revive_below=1.0)

    def call(layer: Any, pair: Any, state: Any) -> Any:
        axes: Any = {"in_axes": (0, None, 0), "out_axes": (0, None)}
        run = lambda x, state, key: layer(x, state, key=key)  # noqa: E731
        return jax.vmap(run, axis_name="batch", **axes)(pair[0], state, pair[1])

    for i in range(3):
        xs = jnp.asarray(draw(i, 16), jnp.float32)
        pair = (xs, jr.split(jr.key(i), 16))
        expected, state = jax.jit(call)(one, pair, state)
        got, many_state = devices.on_devices(call, check)(many, pair, many_state)
        books = book_of(one, state), book_of(many, many_state)
        assert int(books[1].steps) == i + 1
        for a, b in zip(*books, strict=True):
            np.testing.assert_allclose(b, a, 1e-5, 1e-6)
        np.testing.assert_array_equal(got.codes, expected.codes)


# JAX (0.10) has no positions of examples along an explicit axis, as revival needs.
@pytest.mark.parametrize(
    "types, revive_below", [(AxisType.Auto, 1.0), (AxisType.Explicit, 0.0)]
)
def test_a_batch_spread_over_devices(types, revive_below):
    """Under jit alone a batch on eight devices counts as a whole, in revival too."""
    layer, state = build(codes=16, revive_below=revive_below)
    xs = jnp.asarray(draw(0, 16), jnp.float32)

    @jax.jit
    def call(layer: Any, xs: Any, state: Any) -> Any:
        return batched(lambda x, s: layer(x, s, key=jr.key(1)), xs, state)

    expected, new = call(layer, xs, state)
    book = book_of(layer, new)
    layer, state = devices.everywhere((layer, state), types)
    out, state = call(layer, devices.spread(xs, types), state)
    assert len(out.vectors.sharding.device_set) == 8
    np.testing.assert_array_equal(out.codes, expected.codes)
    for a, b in zip(book_of(layer, state), book, strict=True):
        np.testing.assert_allclose(a, b, 1e-5, 1e-6)


BAD_ARGUMENTS = [
    ("num_codes", 0),
    ("code_size", 1.5),
    ("axis_name", None),
    ("decay", 1.5),
    ("decay", float("nan")),
    ("revive_below", -1.0),
    ("dtype", jnp.int32),
    ("dtype", jnp.complex64),
    ("key", None),
]


@pytest.mark.parametrize("name, value", BAD_ARGUMENTS, ids=str)
def test_bad_arguments(name, value):
    """Refused when the layer is built; the message names the argument."""
    arguments = {"num_codes": 4, "code_size": 2, "axis_name": "batch", "key": jr.key(0)}
    text = f"VectorQuantizer: bad argument `{name}`"
    with pytest.raises(HyperparameterError, match=text):
        VectorQuantizer(**(arguments | {name: value}))


def test_misuse_at_the_call():
    """Wrong size, integers, no state, no axis, no key, and what is no code."""
    layer, state = build(revive_below=1.0)
    x = jnp.zeros((SIZE, 2))
    with pytest.raises(InputError, match="the input has the wrong shape"):
        layer(x.T, state)
    with pytest.raises(InputError, match="is not real floating-point"):
        layer(x.astype(int), state)
    with pytest.raises(InputError, match="the second argument is not a State"):
        layer(x, None)
    for revive_below in (0.0, 1.0):
        other, new = build(revive_below=revive_below)
        with pytest.raises(AxisNameError, match="no axis named 'batch'"):
            other(x, new, key=jr.key(0))
    with pytest.raises(InputError, match="VectorQuantizer: no key"):
        batched(layer, x[None], state)
    two = lambda x, state: layer(x, state, key=jr.split(jr.key(0)))  # noqa: E731
    with pytest.raises(InputError, match="the key is not a single PRNG key"):
        batched(two, x[None], state)
    for codes in (jnp.array([0, CODES]), -1):
        with pytest.raises(InputError, match="a code is outside of the codebook"):
            layer.decode(codes, state)
    with pytest.raises(InputError, match="not integer codes"):
        layer.decode(jnp.ones(2), state)
    with pytest.raises(InputError, match="the second argument is not a State"):
        layer.decode(0, None)
