"""Which slots a model has, and what they are called."""

from typing import Any

import jax
import jax.tree_util as jtu

from .._tree.paths import path_text
from ..errors import StateError, report
from ..typing import PyTree
from .index import Fresh, Slot, StateIndex, is_index, same_arrays


def indices(tree: PyTree) -> list[StateIndex[Any]]:
    """All indices of a tree in order, one for each place where one stands."""
    return list(filter(is_index, jax.tree.leaves(tree, is_leaf=is_index)))


def named_slots(tree: PyTree) -> list[tuple[StateIndex[Any], Slot]]:
    """All indices of a tree in order, each with the slot that it belongs to.

    A slot is called after the path of its first index. Indices with one identity are
    one slot.

    Raises:
        StateError: an index has no initial value any more, or two indices cannot be
            told apart.
    """
    owner = type(tree).__name__
    firsts: dict[Any, tuple[StateIndex[Any], Slot]] = {}
    found = []
    for path, index in jtu.tree_leaves_with_path(tree, is_leaf=is_index):
        if not is_index(index):
            continue
        slot = Slot(path_text(path) or "index", owner)
        if index.is_stripped:
            raise _already_split(index, slot)
        first, name = firsts.setdefault(index.marker, (index, slot))
        _check_same(first, name, index, slot)
        found.append((index, name))
    return found


def _check_same(
    first: StateIndex[Any], name: Slot, index: StateIndex[Any], slot: Slot
) -> None:
    """Refuses two indices that were one while jit traced, and may be two by now.

    A compiled constructor returns the identity from its trace at every call.
    """
    marker = first.marker
    may_differ = isinstance(marker, Fresh) and marker.under_jit
    if may_differ and not same_arrays(first.init, index.init):
        raise StateError(
            report(
                f"cannot tell whether `{name.path}` and `{slot.path}` are one slot.",
                expected="layers made outside `jit`, or wholly split inside it",
                got="two indices that came out of one compiled function",
                fix="compile the whole: filter_jit(make_with_state(Model))(…)",
            )
        )


def _already_split(index: StateIndex[Any], slot: Slot) -> StateError:
    was = index.marker.path if isinstance(index.marker, Slot) else slot.path
    return StateError(
        report(
            f"`{slot.path}` of {slot.owner} has no initial value.",
            expected="a model that still has its initial state",
            got=f"a part that was split before, where it was `{was}`",
            fix="put its state back first: part = join_state(part, part_state)",
        )
    )
