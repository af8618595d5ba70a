"""A sharded training step sends between devices as often as one written by hand."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P

from tests.costs.by_hand import (
    as_dicts,
    data,
    in_vernal,
    loss,
    loss_by_hand,
    training_step,
)

pytestmark = pytest.mark.relaxed  # the code by hand broadcasts freely

MESH = Mesh(np.array(jax.devices()), ("d",), axis_types=(AxisType.Auto,))


def always_run(hlo: str) -> list[str]:
    """The lines of the main computation, without the branches of conditionals."""
    _, _, entry = hlo.partition("\nENTRY ")
    return entry.splitlines()


def count_sends(step: Any, *args: Any) -> int:
    """How many collectives each call of the compiled step runs."""
    hlo = jax.jit(step).lower(*args).compile().as_text()
    return sum(" all-reduce" in line.partition(" = ")[2] for line in always_run(hlo))


def sharded(step: Any) -> Any:
    """The step on each device's part of the batch."""
    specs: Any = {"in_specs": (P(), P(), P("d"), P("d")), "out_specs": P()}
    return jax.shard_map(step, mesh=MESH, check_vma=False, **specs)


def close(a: Any, b: Any) -> bool:
    """Whether two sets of arrays are the same up to rounding."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.allclose(x, y, atol=1e-5) for x, y in pairs)


@pytest.fixture
def batch() -> Any:
    """Images and targets, spread over the devices."""
    return jax.device_put(data(), NamedSharding(MESH, P("d")))


def test_under_jit(batch: Any) -> None:
    """Under ``jax.jit`` the compiler sends once forward, and for all gradients."""
    net, state = in_vernal()
    dicts = as_dicts(net)
    ours, by_hand = training_step(loss), training_step(loss_by_hand)
    assert count_sends(ours, net, state, *batch) == 3
    assert count_sends(by_hand, *dicts, *batch) == 3
    new, _ = ours(net, state, *batch)
    assert close(as_dicts(new)[0], by_hand(*dicts, *batch)[0])


def test_under_shard_map(batch: Any) -> None:
    """Inside of ``shard_map`` too, where the axis of devices is named."""
    net, state = in_vernal(("batch", "d"))
    dicts = as_dicts(net)
    by_hand = functools.partial(loss_by_hand, across="d")
    ours = sharded(training_step(loss, across="d"))
    theirs = sharded(training_step(by_hand, across="d"))
    counts = count_sends(ours, net, state, *batch), count_sends(theirs, *dicts, *batch)
    assert counts[0] == counts[1] == 3
    new, _ = jax.jit(ours)(net, state, *batch)
    assert close(as_dicts(new)[0], jax.jit(theirs)(*dicts, *batch)[0])


def test_the_second_pass_is_not_always_run() -> None:
    """What is counted leaves out the branch of a conditional, and nothing else."""

    def step(x: Any) -> Any:
        total = jax.lax.psum(x, "d")
        again = lambda x: jax.lax.psum(2 * x, "d")  # noqa: E731
        return jax.lax.cond(total[0] > 0, again, lambda x: x, total)

    specs: Any = {"in_specs": P("d"), "out_specs": P(), "check_vma": False}
    fun = jax.shard_map(step, mesh=MESH, **specs)
    hlo = jax.jit(fun).lower(jnp.ones(8)).compile().as_text()
    assert hlo.count(" all-reduce(") == 2
    assert count_sends(fun, jnp.ones(8)) == 1
