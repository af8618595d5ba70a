"""Putting slots back to what they were at the start."""

import copy
from typing import Any

from .._tree.select import Where, select
from ..errors import StateError, report
from ..typing import PyTree
from .index import StateIndex
from .naming import indices
from .state import State, require_state


def reset(
    model: PyTree, state: State, initial: State, where: Where | None = None
) -> State:
    """Returns the state with some slots as they are in another state of the model.

    Arguments:
        model: the model that the states belong to.
        state: its state; stays usable.
        initial: where the values are taken from: a state as it was at the start, kept
            by ``copy.copy(state)`` or made anew by ``make_with_state``; or any other
            state of this model.
        where: whose slots: a class of layers, a name (``*`` stands for anything), a
            regular expression, a function such as ``lambda m: m.body``, or a list of
            these. By default all.

    Returns:
        The new state.

    Raises:
        TreeError: ``where`` means nothing in this model.
        ForeignStateError: a slot is missing in one of the states.
        StateValueError: a value does not fit.
        StateError: what ``where`` means has no slots.

    >>> import vernal as vn, copy, jax.numpy as jnp
    >>> make = vn.nn.make_with_state(vn.nn.BatchNorm)
    >>> norm, initial = make(1, axis_name="batch")
    >>> xs = jnp.array([[1.0], [3.0]])
    >>> _, state = vn.nn.batched(norm)(xs, copy.copy(initial))
    >>> state = vn.nn.reset(norm, state, initial, vn.nn.BatchNorm)
    >>> int(state.get(norm.batch_counter))
    0
    """
    require_state("reset", state)
    require_state("reset", initial, "initial")
    parts = select("reset", model, "*" if where is None else where)
    found: list[StateIndex[Any]] = [i for _, part in parts for i in indices(part)]
    if not found:
        raise StateError(
            report(
                "reset: what `where` means has no slots.",
                expected="stateful layers, or models that have some",
                got=f"{where!r} in {type(model).__name__}",
            )
        )
    return copy.copy(state).update(initial.substate(found))
