"""A State with a slot more or less."""

import jax.numpy as jnp

from vernal import nn
from vernal._state.slots import add_slot, drop_slot


def test_a_slot_more_and_less():
    """The new slot has its index, name and value; dropping it gives what was."""
    norm, state = nn.make_with_state(nn.BatchNorm)(3, "batch")
    index, larger = add_slot(state, "frozen", "BatchNorm", {"w": jnp.ones(2)})
    assert larger.get(index)["w"].shape == (2,)
    assert larger.get(norm.batch_counter) == 0
    assert larger._layout.names == (*state._layout.names, "frozen")
    assert index.is_stripped and index.init is None
    assert drop_slot(larger, index)._layout == state._layout
    assert state._values is not None and len(larger._values) == 3


def test_a_name_that_is_taken():
    """A second slot of one name gets a number."""
    _, state = nn.make_with_state(nn.BatchNorm)(3, "batch")
    first, state = add_slot(state, "frozen", "A", 1.0)
    second, state = add_slot(state, "frozen", "B", 2.0)
    third, state = add_slot(state, "frozen", "B", 3.0)
    assert state._layout.names[2:] == ("frozen", "frozen2", "frozen3")
    assert [float(state.get(i)) for i in (first, second, third)] == [1, 2, 3]
