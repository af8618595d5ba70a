"""State that each example of a batch has for itself: caches, hidden states."""

from typing import Any

import jax
import jax.numpy as jnp

from ..errors import StateError, StateValueError, report
from ..typing import Array
from .state import State, make_state, require_state


def with_rows(state: State, size: Any) -> State:
    """Gives each of ``size`` examples its own copy of the slots that are per row.

    A slot made by ``StateIndex(init, per_row=True)`` gets an axis of this size in
    front. All other slots stay, and are shared by the examples. The argument stays
    usable. For a batch of batches call it twice, with the inner size first.

    Arguments:
        state: the state of a model.
        size: the number of examples.

    Raises:
        StateError: ``size`` is not an int ≥ 1, or no slot is per row.

    >>> import vernal as vn, jax.numpy as jnp
    >>> class Sum(vn.nn.StatefulLayer):
    ...     total: vn.nn.StateIndex
    ...
    ...     def __init__(self):
    ...         self.total = vn.nn.StateIndex(0.0, per_row=True)
    ...
    ...     def __call__(self, x, state):
    ...         total = state.get(self.total) + x
    ...         return total, state.set(self.total, total)
    >>> layer, state = vn.nn.make_with_state(Sum)()
    >>> call = vn.nn.batched(layer)
    >>> initial = vn.nn.with_rows(state, 3)
    >>> ys, state = call(jnp.array([1.0, 2.0, 3.0]), initial)
    >>> state = vn.nn.reset_rows(state, initial, jnp.array([False, True, False]))
    >>> ys, state = call(jnp.array([1.0, 1.0, 1.0]), state)
    >>> ys
    Array([2., 1., 4.], dtype=float32)
    """
    require_state("with_rows", state)
    is_number = isinstance(size, int) and not isinstance(size, bool)
    if not is_number or size < 1:
        raise StateError(
            report(
                "with_rows: `size` is no number of rows.",
                expected="an int ≥ 1",
                got=repr(size),
            )
        )

    def expand(x: Array) -> Array:
        return jnp.broadcast_to(x, (size, *x.shape))

    return _map_rows("with_rows", expand, state)


def row_axes(state: State) -> Any:
    """The axes of a state for ``jax.vmap``: 0 for slots that are per row, else None.

    :func:`batched` takes them for itself; this is for a ``jax.vmap`` of one's own.

    >>> import vernal as vn
    >>> norm, state = vn.nn.make_with_state(vn.nn.BatchNorm)(3, "batch")
    >>> vn.nn.row_axes(state) is None
    True
    """
    require_state("row_axes", state)
    layout = state._layout
    if not any(kind.per_row for kind in layout.kinds):
        return None
    axes = [0 if kind.per_row else None for kind in layout.kinds]
    return make_state(dict(zip(layout.keys, axes, strict=True)), layout)


def reset_rows(state: State, initial: State, rows: Array) -> State:
    """Puts the initial values back where an example has come to its end.

    Arguments:
        state: a state with rows.
        initial: its first value, ``with_rows(state, size)``; stays usable.
        rows: which rows to reset: bools ``(size,)``, also under ``jit``.

    Returns:
        The new state; slots that are not per row are as in ``state``.

    Raises:
        StateError: the two states differ in their slots, or no slot is per row.
        StateValueError: a slot that is per row has no such rows.

    >>> import vernal as vn, jax.numpy as jnp
    >>> index = vn.nn.StateIndex(0.0, per_row=True)
    >>> index, state = vn.nn.split_state(index)
    >>> initial = vn.nn.with_rows(state, 2)
    >>> state = vn.nn.reset_rows(initial, initial, jnp.array([True, False]))
    """
    require_state("reset_rows", state)
    require_state("reset_rows", initial, "initial")
    if state._layout != initial._layout:
        raise StateError(
            report(
                "reset_rows: the two states have other slots.",
                expected=f"slots like {state._layout!r}",
                got=f"{initial._layout!r}",
            )
        )
    rows = jnp.asarray(rows)

    def choose(new: Array, old: Array) -> Array:
        shape = rows.shape + (1,) * (old.ndim - rows.ndim)
        return jnp.where(rows.reshape(shape), new, old)

    check_rows("reset_rows", state, rows.shape)
    return _map_rows("reset_rows", choose, initial, state)


def row_slots(state: State) -> dict[str, Any]:
    """The values that are per row, by the names of their slots."""
    layout, values = state._layout, state._alive("rows")
    slots = zip(layout.names, layout.kinds, values.values(), strict=True)
    return {name: value for name, kind, value in slots if kind.per_row}


def check_rows(what: str, state: State, shape: tuple[int, ...]) -> None:
    """Refuses a state whose values that are per row do not have these axes in front."""
    for name, value in row_slots(state).items():
        for x in jax.tree.leaves(value):
            if x.shape[: len(shape)] != shape:
                raise StateValueError(
                    report(
                        f"{what}: `{name}` has not one value per row.",
                        expected=f"arrays with {shape} in front",
                        got=f"an array of shape {x.shape}",
                        fix=f"state = with_rows(state, {shape[-1] if shape else 1}) "
                        "before the first call",
                    )
                )


def _map_rows(verb: str, function: Any, *states: State) -> State:
    """Maps the values that are per row; the others are those of the last state."""
    layout = states[0]._layout
    if not any(kind.per_row for kind in layout.kinds):
        raise StateError(
            report(
                f"{verb}: no slot of this State is per row.",
                expected="a slot made by StateIndex(init, per_row=True)",
                got=repr(layout),
            )
        )
    values = [state._alive(verb) for state in states]
    new = {}
    for key, kind in zip(layout.keys, layout.kinds, strict=True):
        own = [value[key] for value in values]
        new[key] = jax.tree.map(function, *own) if kind.per_row else own[-1]
    return make_state(new, layout)
