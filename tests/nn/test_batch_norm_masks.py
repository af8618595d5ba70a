"""BatchNorm with a mask: what does not count leaves no trace in the statistics."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec as P

import vernal as vn
from tests import oracles
from tests.nn.test_batch_norm import assert_close, average, build, draw, stored
from tests.nn.test_batch_norm_devices import count_sends
from tests.world import x64
from vernal.errors import InputError
from vernal.nn import BatchNorm, make_with_state

MODES = ["batch", "ema"]
SHAPES = [(8, 3), (6, 3, 4), (5, 3, 2, 4)]


@jax.jit
def call(norm: Any, xs: Any, state: Any, mask: Any) -> Any:
    """Calls the layer on a batch, with one mask for each example."""

    def one(x: Any, state: Any, mask: Any) -> Any:
        return norm(x, state, mask=mask)

    axes: Any = {"in_axes": (0, None, 0), "out_axes": (0, None)}
    return jax.vmap(one, axis_name="batch", **axes)(xs, state, mask)


def draw_mask(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Of (examples, channels, ...): which values count; some examples not at all."""
    rng = np.random.default_rng(seed)
    mask = rng.random((shape[0], *shape[2:])) > 0.3
    mask[0] = True
    mask[seed % 3 + 1] = False
    return mask


@pytest.mark.parametrize("shape", SHAPES, ids=len)
@pytest.mark.parametrize("mode", MODES)
def test_training_matches_the_formula(mode, shape):
    """Outputs and averages of each step are those of the values that count."""
    with x64():
        norm, state = build(mode=mode, momentum=0.7, eps=0.1)
        history = []
        for step in range(4):
            xs, mask = draw(shape, step), draw_mask(shape, step)
            ys, state = call(norm, xs, state, mask)
            now = oracles.batch_moments(xs, mask)
            history.append(now)
            expected = average(mode, history, 0.7)
            used = now if mode == "batch" else expected
            affine = (norm.weight, norm.bias)
            # The outputs of what does not count, too.
            assert_close(ys, oracles.batch_norm(xs, used, 0.1, *affine), 1e-12)
            assert_close(stored(norm, state), expected, 1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=len)
def test_gradients_match_the_formula(shape):
    """By input, weight and bias, from outputs everywhere; in float32."""
    norm, state = build(eps=0.1)
    xs, cotangents, mask = draw(shape), draw(shape, 5), draw_mask(shape)

    def loss(xs: Any, norm: Any) -> Any:
        return jnp.sum(call(norm, xs, state, mask)[0] * cotangents)

    xs_grad, norm_grad = jax.grad(loss, argnums=(0, 1))(xs, norm)
    got = (xs_grad, norm_grad.weight, norm_grad.bias)
    expected = oracles.batch_norm_gradients(xs, cotangents, norm.weight, 0.1, mask)
    assert_close(got, tuple(expected), 1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_what_does_not_count_has_no_influence(mode):
    """Garbage there changes no other output and no average; its gradient is 0."""
    norm, state = build(mode=mode)
    xs, mask = draw((6, 3, 4)), draw_mask((6, 3, 4))
    where = mask[:, None]

    @jax.jit
    def run(xs: Any) -> Any:
        def loss(xs: Any) -> Any:
            ys, new = call(norm, xs, state, mask)
            return jnp.sum(jnp.where(where, jnp.sin(ys), 0)), (
                jnp.where(where, ys, 0),
                new,
            )

        return jax.grad(loss, has_aux=True)(xs)

    expected = run(xs)
    assert np.any(expected[0]) and not np.any(np.where(where, 0, expected[0]))
    for garbage in (1e9, -3.0):
        got = run(jnp.where(where, xs, garbage))
        assert vn.tree_equal(got, expected)
    for garbage in (np.nan, np.inf):  # finite in the state, whatever it is
        _, (ys, new) = run(jnp.where(where, xs, garbage))
        assert vn.tree_equal((ys, new), expected[1])


@pytest.mark.parametrize("mode", MODES)
def test_a_mask_of_true_is_no_mask(mode):
    """All counted, outputs, averages and steps equal those without a mask."""
    norm, state = build(mode=mode)
    plain = state
    axes: Any = {"in_axes": (0, None), "out_axes": (0, None), "axis_name": "batch"}
    for step in range(2):
        xs = draw((6, 3, 4), step)
        got, state = call(norm, xs, state, np.full(6, True))
        expected, plain = jax.vmap(norm, **axes)(xs, plain)
        assert_close((got, state), (expected, plain), 1e-6)


@pytest.mark.parametrize("steps, left", [(0, 0), (2, 0), (2, 1)])
@pytest.mark.parametrize(
    "mode, unbiased", [("batch", False), ("batch", True), ("ema", False)]
)
def test_a_batch_without_values(mode, unbiased, steps, left):
    """No value, or one, moves no bit of the state; the running averages are used."""
    norm, state = build(mode=mode, unbiased=unbiased)
    for step in range(steps):
        _, state = call(norm, draw((6, 3), step), state, draw_mask((6, 3), step))
    xs, mask = draw((6, 3), 9), np.arange(6) < left

    def loss(norm: Any, xs: Any, where: Any) -> Any:
        ys, new = call(norm, xs, state, mask)
        return jnp.sum(jnp.where(where, jnp.sin(ys), 0)), (ys, new)

    grad = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
    grads, (ys, after) = grad(norm, xs, mask[:, None])
    assert vn.tree_equal(after, state)
    running = stored(norm, state)
    expected = oracles.batch_norm(xs, running, 1e-5, norm.weight, norm.bias)
    assert_close(ys, expected, 1e-6)
    if left == 0:
        assert not any(np.any(g) for g in jax.tree.leaves(grads))
    # Nor is anything wrong where a loss takes the outputs.
    (norm_grad, xs_grad), _ = grad(norm, xs, np.full((6, 1), True))
    scale = norm.weight / np.sqrt(oracles.to_float64(running.variance) + 1e-5)
    assert_close(xs_grad, np.cos(expected) * oracles.to_float64(scale), 1e-5)
    assert_close(norm_grad.bias, np.cos(expected).sum(0), 1e-5)
    # The next step is as if it had not been.
    _, later = call(norm, draw((6, 3)), after, np.full(6, True))
    _, wanted = call(norm, draw((6, 3)), state, np.full(6, True))
    assert vn.tree_equal(later, wanted)


@pytest.mark.parametrize("shape", [(), (1, 1), (4,), (1, 4), (2, 1), (2, 4)], ids=str)
def test_masks_broadcast(shape):
    """A mask for each example broadcasts to the spatial axes, as in NumPy."""
    norm, state = build()
    xs = draw((5, 3, 2, 4))
    mask = np.random.default_rng(3).random((5, *shape)) > 0.4
    full = mask.reshape(5, *[1] * (2 - len(shape)), *shape)
    full = np.broadcast_to(full, (5, 2, 4))
    _, after = call(norm, xs, state, mask)
    assert_close(stored(norm, after), oracles.batch_moments(xs, full), 1e-6)


def test_python_booleans():
    """True and False count all and none; they need not be arrays."""
    norm, state = build()
    axes: Any = {"in_axes": (0, None), "out_axes": (0, None), "axis_name": "batch"}
    for mask in (True, False):
        one = functools.partial(norm, mask=mask)
        _, after = jax.vmap(one, **axes)(draw((5, 3)), state)
        moved = not vn.tree_equal(after, state)
        assert moved == mask


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision(dtype):
    """Sums and counts are float32: more values than a half counts, at its edge."""
    norm, state = make_with_state(BatchNorm)(2, "batch")
    signs = np.sign(np.random.default_rng(0).normal(size=(70, 2, 64)))
    xs = jnp.asarray(6e4 * signs, dtype)
    mask = draw_mask(xs.shape)
    ys, state = call(norm, xs, state, mask)
    expected = oracles.batch_moments(xs, mask)
    running = stored(norm, state)
    assert ys.dtype == dtype and running.mean.dtype == jnp.float32
    np.testing.assert_allclose(running.variance, expected.variance, rtol=1e-6)
    got = oracles.to_float64(ys)
    np.testing.assert_allclose(got, oracles.batch_norm(xs, expected), rtol=1e-2)


def test_a_large_mean():
    """The second pass leaves out what the first left out."""
    norm, state = make_with_state(BatchNorm)(3, "batch")
    noise = np.random.default_rng(0).normal(size=(32, 3, 2))
    mask = draw_mask(noise.shape)
    xs = jnp.asarray(np.where(mask[:, None], 1e4 + noise, -50), jnp.float32)
    _, state = call(norm, xs, state, mask)
    expected = oracles.batch_moments(xs, mask)
    np.testing.assert_allclose(stored(norm, state).mean, expected.mean, rtol=1e-7)
    variance = stored(norm, state).variance
    np.testing.assert_allclose(variance, expected.variance, rtol=1e-3)


def sharded(check: bool) -> Any:
    """Two examples on each of eight devices, each with its mask."""

    def one(norm: Any, xs: Any, state: Any, mask: Any) -> Any:
        return call(norm, xs, state, mask)

    mesh = Mesh(np.array(jax.devices()), ("d",))
    specs: Any = {"in_specs": (P(), P("d"), P(), P("d")), "out_specs": (P("d"), P())}
    return jax.shard_map(one, mesh=mesh, check_vma=check, **specs)


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_uneven_masks_over_devices(mode, check):
    """Counts are global: devices with many, few and no values make one batch."""
    shape = (16, 3, 5)
    mask = draw_mask(shape)
    mask[4:6] = False  # the third device has nothing
    mask[6:8] = True
    norm, state = build(mode=mode)
    norm = vn.tree_at(lambda m: m.axis_name, norm, ("batch", "d"))
    plain, plain_state = build(mode=mode)
    where = mask[:, None]

    def train(run: Any) -> Any:
        def loss(norm: Any, xs: Any, state: Any) -> Any:
            ys, new = run(norm, xs, state, mask)
            return jnp.sum(jnp.where(where, jnp.sin(ys), 0)), (ys, new)

        return jax.jit(jax.grad(loss, (0, 1), has_aux=True))

    got_step, step = train(sharded(check)), train(call)
    for i in range(2):
        xs = draw(shape, i)
        got_grads, (got, state) = got_step(norm, xs, state)
        grads, (ys, plain_state) = step(plain, xs, plain_state)
        leaves = jax.tree.leaves((got_grads, got, state))
        assert_close(leaves, jax.tree.leaves((grads, ys, plain_state)), 1e-5)
    _, after = jax.jit(sharded(check))(norm, xs, state, np.full(16, False))
    assert vn.tree_equal(after, state)


@pytest.mark.parametrize("mode", MODES)
def test_one_collective(mode):
    """The counts travel with the sums."""
    norm, state = build(mode=mode)
    norm = vn.tree_at(lambda m: m.axis_name, norm, ("batch", "d"))
    args = (norm, draw((16, 3)), state, np.full(16, True))
    assert count_sends(sharded(True), *args) == (1, 1)


def test_scan_over_padded_batches():
    """The last, partly filled batch of an epoch, with the state carried along."""
    norm, state = build(momentum=1.0)
    xs = draw((20, 3)).reshape(5, 4, 3)
    mask = np.arange(20).reshape(5, 4) < 18

    def body(state: Any, batch: Any) -> Any:
        ys, state = call(norm, batch[0], state, batch[1])
        return state, ys

    state, _ = jax.jit(lambda s: jax.lax.scan(body, s, (xs, mask)))(state)
    parts = [oracles.batch_moments(x, m) for x, m in zip(xs, mask, strict=True)]
    assert_close(stored(norm, state), oracles.weighted_average(parts, 1.0), 1e-6)


def test_inference_takes_a_mask():
    """In inference it is checked, and changes nothing."""
    norm, state = build(inference=True)
    x = draw((5, 3, 4))[0]
    got, _ = norm(x, state, mask=np.full(4, False))
    expected, _ = norm(x, state)
    np.testing.assert_array_equal(got, expected)
    with pytest.raises(InputError, match="mask"):
        norm(x, state, mask=np.full(3, False))


BAD = {
    "numbers": (np.ones(4), ["(*spatial)", "(4,), float64", "mask != 0"]),
    "a wrong size": (np.full(3, True), ["to (4,)", "(3,), bool"]),
    "too many axes": (np.full((1, 4), True), ["to (4,)", "(1, 4), bool"]),
    "channels": (np.full((3, 4), True), ["(3, 4), bool"]),
    "no array": ([True], ["not an array", "list"]),
}


@pytest.mark.parametrize("mask, texts", BAD.values(), ids=BAD)
def test_wrong_masks(mask, texts):
    """The message says which shapes there are, and how numbers become booleans."""
    norm, state = build()
    axes: Any = {"in_axes": (0, None), "out_axes": (0, None), "axis_name": "batch"}
    with pytest.raises(InputError, match="BatchNorm: the mask") as caught:
        one = functools.partial(norm, mask=mask)
        jax.vmap(one, **axes)(draw((5, 3, 4)), state)
    message = str(caught.value)
    for text in texts:
        assert text in message
    assert len(message.splitlines()) <= 6


def test_one_value_per_channel_stays_an_error():
    """What no mask can mend is told when tracing."""
    norm, state = build()
    with pytest.raises(InputError, match="fewer than two values"):
        call(norm, draw((1, 3)), state, np.full(1, True))
