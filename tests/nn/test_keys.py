"""Keys out of the state: different wherever they must be, and the same again."""

import copy
import functools
import io
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec as P

import vernal as vn
from vernal import nn
from vernal.errors import AxisNameError, HyperparameterError, InputError

STEPS = 3


def build(axis_name: Any = "batch", p: float = 0.5, **kwargs: Any) -> Any:
    options = {"key": jr.key(0), **kwargs}
    return nn.make_with_state(nn.Keyed)(nn.Dropout(p), axis_name, **options)


def test_the_formula():
    """The t-th key of the i-th example folds t and i into the first key."""
    keys, state = nn.make_with_state(nn.KeyStream)("batch", key=jr.key(5))
    draw = jax.vmap(
        lambda _, state: keys.next(state), (0, None), (0, None), axis_name="batch"
    )
    for t in range(STEPS):
        got, state = draw(jnp.zeros(4), state)
        for i in range(4):
            expected = jr.fold_in(jr.fold_in(jr.key(5), t), i)
            np.testing.assert_array_equal(jr.key_data(got[i]), jr.key_data(expected))
    assert int(state.get(keys.index)[1]) == STEPS


def test_several_axes():
    """Positions on nested axes count as one: all keys are different."""
    keys, state = nn.make_with_state(nn.KeyStream)(["a", "b"], key=jr.key(0))
    draw = lambda _, state: keys.next(state)  # noqa: E731
    axes = {"in_axes": (0, None), "out_axes": (0, None)}
    inner = jax.vmap(draw, axis_name="b", **axes)
    got, _ = jax.vmap(inner, axis_name="a", **axes)(jnp.zeros((3, 4)), state)
    data = np.asarray(jr.key_data(got)).reshape(12, -1)
    assert len(np.unique(data, axis=0)) == 12
    first = jr.fold_in(jr.key(0), 0)
    want = jr.key_data(jr.fold_in(first, 2 * 4 + 1))
    np.testing.assert_array_equal(data[9], want)


def test_every_step_example_and_device_differs():
    """Over 8 devices, 4 examples on each, and 3 steps, no two masks are the same."""
    layer, state = build(("batch", "device"))
    mesh = jax.make_mesh((8,), ("device",), axis_types=(AxisType.Auto,))
    call = jax.shard_map(
        nn.batched(layer),
        mesh=mesh,
        in_specs=(P("device"), P()),
        out_specs=(P("device"), P()),
    )
    step, masks = jax.jit(call), []
    for _ in range(STEPS):
        ys, state = step(jnp.ones((32, 64)), state)
        masks.append(np.asarray(ys) == 0)
    masks = np.concatenate(masks)
    assert len(np.unique(masks, axis=0)) == 32 * STEPS
    # Masks of independent draws differ in about half of their places.
    differing = np.mean(masks[:, None] != masks[None], axis=-1)
    off = differing[~np.eye(len(masks), dtype=bool)]
    assert off.min() > 0.15 and off.max() < 0.85
    assert abs(off.mean() - 0.5) < 0.01


@pytest.mark.parametrize("p", [0.1, 0.7])
def test_the_distribution(p):
    """Each unit is dropped with probability p, over the examples and over the steps."""
    layer, state = build(p=p)
    call = nn.batched(layer)

    def body(state: Any, _: Any) -> Any:
        ys, state = call(jnp.ones((20, 30)), state)
        return state, ys == 0

    _, dropped = jax.jit(lambda s: jax.lax.scan(body, s, length=50))(state)
    for axes in ((0, 1), (0, 2), (1, 2)):
        rates = np.asarray(dropped).mean(axes)
        count = dropped.size / rates.size
        assert np.all(np.abs(rates - p) < 5 * np.sqrt(p * (1 - p) / count))


def test_a_run_goes_on_from_a_checkpoint(tmp_path):
    """From a file, of either kind, come the masks of the run that was not stopped."""
    layer, state = build()
    step = jax.jit(nn.batched(layer))
    xs = jnp.ones((4, 32))
    for _ in range(2):
        _, state = step(xs, state)
    vn.save(tmp_path / "state", state)
    file = io.BytesIO()
    vn.tree_serialise_leaves(file, state)
    file.seek(0)
    want, _ = step(xs, state)
    like = build(key=jr.key(9))[1]
    for loaded in (
        vn.load(tmp_path / "state", like),
        vn.tree_deserialise_leaves(file, like),
    ):
        got, after = step(xs, loaded)
        np.testing.assert_array_equal(got, want)
        assert int(after.get(layer.keys.index)[1]) == 3


@pytest.mark.parametrize("implementation", ["threefry2x32", "rbg"])
def test_keys_that_a_layer_stores_survive_files(tmp_path, implementation):
    """A slot may also hold keys of the new kind; both files give them back."""
    keys = jr.split(jr.key(3, impl=implementation), 2)
    index, state = nn.split_state(nn.StateIndex({"keys": keys, "count": 0}))
    vn.save(tmp_path / "state", state)
    file = io.BytesIO()
    vn.tree_serialise_leaves(file, state)
    file.seek(0)
    like = vn.filter_eval_shape(lambda: state)
    for loaded in (
        vn.load(tmp_path / "state", like),
        vn.tree_deserialise_leaves(file, like),
    ):
        got = loaded.get(index)["keys"]
        assert got.dtype == keys.dtype
        np.testing.assert_array_equal(jr.key_data(got), jr.key_data(keys))


def test_old_keys_and_other_implementations():
    """What is given out is a key of the new kind, of the same implementation."""
    for key in (jr.PRNGKey(3), jr.key(3), jr.key(3, impl="rbg")):
        keys, state = nn.make_with_state(nn.KeyStream)(None, key=key)
        got, _ = keys.next(state)
        is_old = key.dtype == jnp.uint32
        typed = jr.wrap_key_data(key) if is_old else key
        expected = jr.fold_in(typed, 0)
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(jr.key_data(got), jr.key_data(expected))


def test_inference_draws_nothing():
    """No key, and the very same state; the flag of the call wins over the field."""
    layer, state = build()
    fixed = nn.inference_mode(layer)
    x = jnp.ones(8)
    y, after = fixed(x, state)  # no axis is needed either
    assert y is x and after is state
    assert layer.keys.next(state, inference=True) == (None, state)
    free, state = nn.make_with_state(nn.KeyStream)(None, True, key=jr.key(0))
    key, after = free.next(state, inference=False)
    assert key is not None and after is not state


def test_models_with_state_and_keys_of_the_caller():
    """The wrapped model may have state; a key that is passed is used instead."""

    def make(key: Any) -> Any:
        net = nn.Sequential([nn.BatchNorm(16, "batch"), nn.Dropout(0.5)])
        return nn.Keyed(net, "batch", key=key)

    model, state = nn.make_with_state(make)(jr.key(0))
    before = copy.copy(state)
    xs = jr.normal(jr.key(1), (4, 16))
    ys, state = jax.jit(nn.batched(model))(xs, state)
    assert int(state.get(model.layer.layers[0].batch_counter)) == 1
    assert int(state.get(model.keys.index)[1]) == 1
    assert len(np.unique(np.asarray(ys) == 0, axis=0)) == 4
    same = jr.key(7)
    with_key = functools.partial(model, key=same)
    ys, state = nn.batched(with_key)(xs, before)
    masks = np.asarray(ys) == 0
    assert np.all(masks == masks[:1])
    assert int(state.get(model.keys.index)[1]) == 0


def test_a_whole_batch():
    """Around `batched` one key is drawn, and split for the examples."""
    dropout = nn.batched(nn.Dropout(0.5))
    make = nn.make_with_state(nn.Keyed)
    model, state = make(dropout, None, key=jr.key(0))
    ys, _ = model(jnp.ones((6, 32)), state)
    assert len(np.unique(np.asarray(ys) == 0, axis=0)) == 6


def test_one_trace():
    """Steps, and a state that was made from another key, share one compilation."""
    traces = []

    @jax.jit
    def step(layer: Any, state: Any) -> Any:
        traces.append(None)
        return nn.batched(layer)(jnp.ones((2, 4)), state)[1]

    for seed in range(2):
        layer, state = build(key=jr.key(seed))
        for _ in range(2):
            state = step(layer, state)
    assert len(traces) == 1


def test_merged_states_use_no_key_again():
    """Workers that drew 1 and 3 keys go on with the fourth."""
    layer, state = build(None)
    states = []
    for count in (1, 3):
        own = copy.copy(state)
        for _ in range(count):
            _, own = layer(jnp.ones(4), own)
        states.append(own)
    data, count = nn.merge_states(states).get(layer.keys.index)
    assert int(count) == 3
    np.testing.assert_array_equal(data, state.get(layer.keys.index)[0])


def test_errors():
    """An axis out of scope, bad names, no key, no layer and no state are told."""
    layer, state = build("examples")
    with pytest.raises(AxisNameError, match="KeyStream at `keys` of Keyed: no axis"):
        layer(jnp.ones(3), state)
    with pytest.raises(InputError, match="not a State"):
        layer(jnp.ones(3), None)
    for bad in (0, [], ["a", "a"], [None]):
        with pytest.raises(HyperparameterError, match="`axis_name`"):
            nn.KeyStream(bad, key=jr.key(0))
        with pytest.raises(HyperparameterError, match="Keyed: bad argument"):
            nn.Keyed(nn.Dropout(), bad, key=jr.key(0))
    for bad_key in (None, 0, jr.split(jr.key(0))):
        with pytest.raises(HyperparameterError, match="`key`"):
            nn.Keyed(nn.Dropout(), None, key=bad_key)
    with pytest.raises(HyperparameterError, match="`layer`"):
        nn.Keyed(3, None, key=jr.key(0))
