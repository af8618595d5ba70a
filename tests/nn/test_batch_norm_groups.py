"""BatchNorm over groups of devices or examples: each group is a batch of its own."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec as P

import vernal as vn
from tests import oracles
from tests.nn.test_batch_norm import assert_close, draw, stored
from tests.nn.test_batch_norm_devices import count_sends
from tests.nn.test_batch_norm_masks import draw_mask
from vernal.errors import HyperparameterError, InputError
from vernal.nn import BatchNorm, make_with_state

GROUPS = [[0, 3, 5], [1, 2, 4, 6, 7]]  # of eight
SHAPE = (16, 3, 4)  # two examples for each
EXAMPLES = [np.sort(np.r_[2 * np.array(g), 2 * np.array(g) + 1]) for g in GROUPS]


def build(**kwargs: Any) -> Any:
    options = {"axis_index_groups": GROUPS, "momentum": 0.7} | kwargs
    return make_with_state(BatchNorm)(3, ("batch", "d"), **options)


def one_group(norm: Any, xs: Any, state: Any, mask: Any) -> Any:
    def one(x: Any, state: Any, mask: Any) -> Any:
        return norm(x, state, mask=mask)

    axes: Any = {"in_axes": (0, None, 0), "out_axes": (0, None)}
    return jax.vmap(one, axis_name="batch", **axes)(xs, state, mask)


def with_vmap(norm: Any, xs: Any, state: Any, mask: Any) -> Any:
    """The eight are positions of an axis of vmap."""
    axes: Any = {"in_axes": (None, 0, None, 0), "out_axes": (0, None)}
    xs, mask = (a.reshape(8, 2, *a.shape[1:]) for a in (xs, mask))
    call = jax.vmap(one_group, axis_name="d", **axes)
    ys, state = call(norm, xs, state, mask)
    return ys.reshape(-1, *ys.shape[2:]), state


def on_devices(check: bool) -> Any:
    mesh = Mesh(np.array(jax.devices()), ("d",))
    specs: Any = {"in_specs": (P(), P("d"), P(), P("d")), "out_specs": (P("d"), P())}
    return jax.shard_map(one_group, mesh=mesh, check_vma=check, **specs)


PLACES = {
    "vmap": with_vmap,
    "shard_map": on_devices(True),
    "shard_map, unchecked": on_devices(False),
}


@pytest.mark.parametrize("has_mask", [False, True])
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_each_group_by_itself(place, has_mask):
    """Outputs and gradients are those of the groups one by one, the state their mean.

    The mean of the groups' statistics, each with the weight of its values.
    """
    norm, state = build()
    mask = draw_mask(SHAPE) if has_mask else np.full((16, 4), True)
    cotangents = draw(SHAPE, 8)

    def loss(xs: Any, state: Any) -> Any:
        ys, new = place(norm, xs, state, mask)
        return jnp.sum(ys * cotangents), (ys, new)

    step = jax.jit(jax.grad(loss, has_aux=True))
    history = []
    for i in range(3):
        xs = draw(SHAPE, i)
        grads, (ys, state) = step(xs, state)
        parts, weights = [], []
        for members in EXAMPLES:
            x, m = xs[members], mask[members]
            now = oracles.batch_moments(x, m)
            assert_close(ys[members], oracles.batch_norm(x, now), 1e-5)
            expected = oracles.batch_norm_gradients(
                x, cotangents[members], norm.weight, 1e-5, m
            )
            assert_close(grads[members], expected.xs, 1e-5)
            parts.append(now)
            weights.append(m.sum() / mask.sum())
        moments = [weights @ np.stack(rows) for rows in zip(*parts, strict=True)]
        history.append(oracles.Moments(*moments))
        expected = oracles.weighted_average(history, 0.7)
        assert_close(stored(norm, state), expected, 1e-5)


def test_no_mask_at_all():
    """Without a mask the groups are counted all the same."""
    norm, state = build()
    masked_state = state
    xs = draw(SHAPE)
    axes: Any = {"in_axes": (0, None), "out_axes": (0, None)}
    inner = jax.vmap(norm, axis_name="batch", **axes)
    call = jax.vmap(inner, axis_name="d", **axes)
    ys, state = call(xs.reshape(8, 2, 3, 4), state)
    expected = with_vmap(norm, xs, masked_state, jnp.full((16, 4), True))
    assert_close((ys.reshape(SHAPE), state), expected, 1e-6)


def test_an_empty_group():
    """It is normalized by the running averages, and has no part in them."""
    norm, state = build(unbiased=True)
    full = jnp.full((16, 4), True)
    _, state = with_vmap(norm, draw(SHAPE), state, full)
    old = stored(norm, state)
    xs = draw(SHAPE, 1)
    left = full.at[EXAMPLES[0]].set(False).at[0, 0].set(True)  # but for one value
    ys, after = with_vmap(norm, xs, state, left)
    assert_close(ys[EXAMPLES[0]], oracles.batch_norm(xs[EXAMPLES[0]], old), 1e-5)
    now = oracles.batch_moments(xs[EXAMPLES[1]])
    assert_close(ys[EXAMPLES[1]], oracles.batch_norm(xs[EXAMPLES[1]], now), 1e-5)
    rate = 0.3 / (1 - 0.7**2)
    now = oracles.unbiased(now, 10 * 4)
    expected = [a + rate * (b - a) for a, b in zip(old, now, strict=True)]
    assert_close(stored(norm, after), expected, 1e-5)
    _, nothing = with_vmap(norm, xs, after, jnp.zeros_like(full))
    assert vn.tree_equal(nothing, after)


@pytest.mark.parametrize("unbiased", [False, True])
def test_cumulative_groups(unbiased):
    """With momentum=None all values count alike, whatever group they are in."""
    norm, state = build(momentum=None, unbiased=unbiased)
    mask = draw_mask(SHAPE)
    for i in range(2):
        _, state = jax.jit(with_vmap)(norm, draw(SHAPE, i), state, mask)
    both = jnp.concatenate([draw(SHAPE, i) for i in range(2)])
    expected = oracles.batch_moments(both, np.concatenate([mask, mask]))
    if unbiased:
        expected = oracles.unbiased(expected, 2 * mask.sum())
    assert_close(stored(norm, state), expected, 1e-5)


def test_bad_values_stay_in_their_group():
    """A NaN in one group spoils no output of the other."""
    norm, state = build()
    full = jnp.full((16, 4), True)
    ys, _ = with_vmap(norm, draw(SHAPE).at[0, 0, 0].set(np.nan), state, full)
    expected, _ = with_vmap(norm, draw(SHAPE), state, full)
    assert jnp.all(jnp.isnan(ys[EXAMPLES[0], 0]))
    np.testing.assert_array_equal(ys[EXAMPLES[1]], expected[EXAMPLES[1]])


def test_one_collective():
    """All groups are summed at once."""
    norm, state = build()
    args = (norm, draw(SHAPE), state, np.full((16, 4), True))
    assert count_sends(on_devices(True), *args) == (1, 1)


@pytest.mark.parametrize("guess", [0.0, 1e4])
def test_a_large_mean(guess):
    """Each group has a shift of its own in further passes."""
    norm, state = build()
    noise = np.random.default_rng(0).normal(size=SHAPE)
    xs = noise.copy()
    xs[EXAMPLES[0]] += 1e4
    running = (jnp.full(3, guess), jnp.ones(3))
    state = state.set(norm.batch_state_index, running)
    ys, _ = with_vmap(norm, jnp.asarray(xs, float), state, jnp.full((16, 4), True))
    for members, atol in zip(EXAMPLES, (3e-3, 1e-5), strict=True):
        part = np.asarray(xs[members], np.float32)
        expected = oracles.batch_norm(part, oracles.batch_moments(part))
        np.testing.assert_allclose(ys[members], expected, atol=atol)


BAD = [
    [],
    [[]],
    [[0, 1], []],
    [[0, 1], [1, 2]],
    [[0], [2]],
    [[-1, 0]],
    [[0.0, 1.0]],
    [0, 1],
    "01",
]


@pytest.mark.parametrize("groups", BAD, ids=str)
def test_bad_groups(groups):
    """Refused when the layer is built: each position belongs to one group."""
    with pytest.raises(HyperparameterError, match="`axis_index_groups`"):
        BatchNorm(3, "d", axis_index_groups=groups)


@pytest.mark.parametrize("name, mode", [(None, "batch"), ("d", "ema")])
def test_no_groups_of_this(name, mode):
    """Groups are of a named axis, and of mode "batch"."""
    with pytest.raises(HyperparameterError, match="`axis_index_groups`"):
        BatchNorm(3, name, axis_index_groups=[[0, 1]], mode=mode)


def test_groups_of_another_axis():
    """Too many or too few positions are told with both numbers."""
    norm, state = make_with_state(BatchNorm)(3, "d", axis_index_groups=[[0], [1, 2]])
    axes: Any = {"in_axes": (0, None), "out_axes": (0, None)}
    with pytest.raises(InputError, match="3 positions on the axis 'd'") as caught:
        jax.vmap(norm, axis_name="d", **axes)(draw((4, 3)), state)
    assert "got:      4" in str(caught.value)


def test_a_group_of_one_value():
    """Two values per channel must be in every group."""
    norm, state = make_with_state(BatchNorm)(3, "d", axis_index_groups=[[0], [1, 2]])
    axes: Any = {"in_axes": (0, None), "out_axes": (0, None)}
    with pytest.raises(InputError, match="a group has fewer than two"):
        jax.vmap(norm, axis_name="d", **axes)(draw((3, 3)), state)
