"""Every stateful layer under every transformation gives what it gives without.

One test is one cell of the table: a layer and a transformation. The reference is the
same step, run eagerly.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import vernal as vn
from tests.catalogue import STATEFUL, Row
from tests.laws.test_layers import assert_close

STEPS = 3
Run = Callable[[Row, Any, Any, Any], Any]


def steps(row: Row, layer: Any, state: Any, batches: Any) -> Any:
    """The reference: outputs of the last step, and the state after all."""
    for xs in batches:
        y, state = row.call(layer, state, xs)
    return y, state


def with_jit(row: Row, layer: Any, state: Any, batches: Any) -> Any:
    step = jax.jit(row.call)
    for xs in batches:
        y, state = step(layer, state, xs)
    return y, state


def with_donation(row: Row, layer: Any, state: Any, batches: Any) -> Any:
    step = vn.filter_jit(lambda xs, s: row.call(layer, s, xs), donate="all")
    state = jax.tree.map(jnp.copy, state)
    for xs in batches:
        y, state = step(jnp.copy(xs), state)
    return y, state


def with_grad(row: Row, layer: Any, state: Any, batches: Any) -> Any:
    def loss(layer: Any, state: Any, xs: Any) -> Any:
        y, state = row.call(layer, state, xs)
        return jnp.sum(y), (y, state)

    for xs in batches:
        _, (y, state) = jax.grad(loss, has_aux=True)(layer, state, xs)
    return y, state


def with_vmap(row: Row, layer: Any, state: Any, batches: Any) -> Any:
    def member(scale: Any, state: Any) -> Any:
        return steps(row, layer, state, [scale * xs for xs in batches])

    both = jax.vmap(member, in_axes=(0, None))(jnp.array([1.0, -2.0]), state)
    other = member(jnp.array(-2.0), state)
    assert_close(jax.tree.map(lambda a: a[1], both), other)
    return jax.tree.map(lambda a: a[0], both)


def with_scan(row: Row, layer: Any, state: Any, batches: Any) -> Any:
    def body(state: Any, xs: Any) -> Any:
        y, state = row.call(layer, state, xs)
        return state, y

    state, ys = jax.lax.scan(body, state, batches)
    return ys[-1], state


def with_while(row: Row, layer: Any, state: Any, batches: Any) -> Any:
    def body(carry: Any) -> Any:
        i, _, state = carry
        return i + 1, *row.call(layer, state, batches[i])

    y = jnp.zeros_like(row.call(layer, state, batches[0])[0])
    start = (jnp.array(0), y, state)
    _, y, state = jax.lax.while_loop(lambda c: c[0] < STEPS, body, start)
    return y, state


def with_cond(row: Row, layer: Any, state: Any, batches: Any) -> Any:
    def skip(state: Any, xs: Any) -> Any:
        return jnp.zeros_like(row.call(layer, state, xs)[0]), state

    def step(state: Any, xs: Any) -> Any:
        return row.call(layer, state, xs)

    _, state = jax.lax.cond(jnp.array(False), step, skip, state, batches[0])
    for xs in batches:
        y, state = jax.lax.cond(jnp.array(True), step, skip, state, xs)
    return y, state


def with_checkpoint(row: Row, layer: Any, state: Any, batches: Any) -> Any:
    @jax.checkpoint
    def step(layer: Any, state: Any, xs: Any) -> Any:
        return row.call(layer, state, xs)

    def loss(layer: Any, state: Any, xs: Any) -> Any:
        y, state = step(layer, state, xs)
        return jnp.sum(y), (y, state)

    for xs in batches:
        _, (y, state) = jax.grad(loss, has_aux=True)(layer, state, xs)
    return y, state


def with_custom_vjp(row: Row, layer: Any, state: Any, batches: Any) -> Any:
    @jax.custom_vjp
    def step(state: Any, xs: Any) -> Any:
        return row.call(layer, state, xs)

    def forward(state: Any, xs: Any) -> Any:
        return step(state, xs), None

    def backward(residuals: Any, cotangents: Any) -> Any:
        return None, 2 * jnp.ones_like(batches[0])

    step.defvjp(forward, backward)

    def loss(xs: Any, state: Any) -> Any:
        y, state = step(state, xs)
        return jnp.sum(y), (y, state)

    for xs in batches:
        grad, (y, state) = jax.grad(loss, has_aux=True)(xs, state)
        np.testing.assert_array_equal(grad, 2)
    return y, state


def with_shard_map(row: Row, layer: Any, state: Any, batches: Any) -> Any:
    """Each of 8 devices has one example, and the name of the devices is the batch's."""
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    split, whole = PartitionSpec("batch"), PartitionSpec()
    rows = split if row.per_row else whole

    keys = jax.random.split(jax.random.key(7), 8)  # as in `row.call`

    def local(layer: Any, state: Any, xs: Any, keys: Any) -> Any:
        if row.per_row:
            return jax.vmap(layer)(xs, state)
        extra = {"key": keys[0]} if row.has_key else {}
        y, state = row.apply(layer, xs[0], state, **extra)
        return y[None], state

    step = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(whole, rows, split, split),
        out_specs=(split, rows),
    )
    for xs in batches:
        y, state = jax.jit(step)(layer, state, xs, keys)
    return y, state


def with_sharded_batch(row: Row, layer: Any, state: Any, batches: Any) -> Any:
    """The batch is spread over 8 devices, and jit does the rest."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    spread = NamedSharding(mesh, PartitionSpec("data"))
    step = jax.jit(row.call)
    for xs in batches:
        y, state = step(layer, state, jax.device_put(xs, spread))
    return y, state


RUNS = {
    "jit": with_jit,
    "donation": with_donation,
    "grad": with_grad,
    "vmap": with_vmap,
    "scan": with_scan,
    "while": with_while,
    "cond": with_cond,
    "checkpoint": with_checkpoint,
    "custom_vjp": with_custom_vjp,
    "shard_map": with_shard_map,
    "sharded batch": with_sharded_batch,
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS.keys())
@pytest.mark.parametrize("row", STATEFUL, ids=str)
def test_equals_eager(row: Row, run: Run) -> None:
    """Outputs and state after three steps are those of the eager steps."""
    layer, state = row.split(size=8)
    batches = jnp.stack([row.batch(8, seed=i) for i in range(STEPS)])
    want = steps(row, layer, state, batches)
    assert_close(run(row, layer, state, batches), want)


@pytest.mark.parametrize("row", STATEFUL, ids=str)
def test_steps_change_the_state(row: Row) -> None:
    """The table compares something: each step moves the state."""
    layer, state = row.split(size=8)
    _, new = row.call(layer, state, row.batch(8))
    pairs = zip(jax.tree.leaves(state), jax.tree.leaves(new), strict=True)
    assert any(jnp.any(a != b) for a, b in pairs)
