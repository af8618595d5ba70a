"""A training step keeps no more arrays than one written by hand."""

from typing import Any

import jax
import pytest

import vernal as vn
from tests.costs.by_hand import (
    as_dicts,
    data,
    in_vernal,
    loss,
    loss_by_hand,
    training_step,
)

pytestmark = pytest.mark.relaxed  # the code by hand broadcasts freely


def temporary_bytes(step: Any, *args: Any) -> int:
    """What the compiled step needs besides its arguments and results."""
    analysis = jax.jit(step).lower(*args).compile().memory_analysis()
    return int(analysis.temp_size_in_bytes)


@pytest.mark.skipif(
    jax.__version_info__ < (0, 10), reason="older XLA keeps an activation more"
)
@pytest.mark.parametrize("examples", [16, 64])
def test_temporary_buffers(examples: int) -> None:
    """Only a few numbers per channel are added, whatever the size of the batch."""
    net, state = in_vernal()
    batch = data(examples, 32)
    activation = examples * 4 * 32 * 32 * 4
    ours = temporary_bytes(training_step(loss), net, state, *batch)
    by_hand = temporary_bytes(training_step(loss_by_hand), *as_dicts(net), *batch)
    assert by_hand > activation  # it does count them
    assert ours - by_hand <= 1024


def test_statistics_are_not_kept_twice() -> None:
    """Under ``filter_jit`` with donation, the new state takes the place of the old."""
    net, state = in_vernal()

    @vn.filter_jit(donate="all")
    def step(net: Any, state: Any, xs: Any, ys: Any) -> Any:
        return training_step(loss)(net, state, xs, ys)

    analysis = step.lower(net, state, *data()).compile().compiled.memory_analysis()
    kept = sum(x.nbytes for x in jax.tree.leaves((net, state)))
    assert analysis.alias_size_in_bytes == kept
