"""A State with a slot more, or a slot less."""

from typing import Any

from .index import Slot, StateIndex, changed_index
from .state import Layout, State, make_state


def add_slot(
    state: State, name: str, owner: str, value: Any
) -> tuple[StateIndex[Any], State]:
    """Returns an index for a new slot, and the state with it; the old stays usable.

    Where there is a slot of this name, the new one gets a number.
    """
    layout, values = state._layout, state._alive("add_slot")
    slot, count = Slot(name, owner), 1
    while slot in values or slot.path in layout.names:
        count += 1
        slot = Slot(f"{name}{count}", owner)
    index = StateIndex(value)
    larger = Layout(
        (*layout.keys, slot),
        (*layout.names, slot.path),
        (*layout.kinds, index.kind),
        layout.owner,
    )
    state = make_state({**values, slot: index.init}, larger)
    return changed_index(index, marker=slot, init=None, is_stripped=True), state


def drop_slot(state: State, index: StateIndex[Any]) -> State:
    """Returns the state without the slot of an index; the old one stays usable."""
    values = dict(state._alive("drop_slot"))
    del values[index.marker]
    return make_state(values, state._layout.only(tuple(values)))
