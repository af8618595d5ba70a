"""Taking the state out of a model, and putting it back."""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax

from .index import Fresh, changed_index, is_index, renewed_index, shapes_of
from .naming import named_slots
from .state import State, require_state

_P = ParamSpec("_P")
_T = TypeVar("_T")


def make_with_state(make_model: Callable[_P, _T]) -> Callable[_P, tuple[_T, State]]:
    """Makes a constructor return the model and its initial state, separately.

    ``make_with_state(Model)(*args)`` is ``split_state(Model(*args))``.

    Arguments:
        make_model: any callable that returns a pytree, usually a Module class.

    Returns:
        A callable with the same arguments that returns ``(model, state)``.

    >>> import vernal as vn
    >>> model, state = vn.nn.make_with_state(vn.nn.BatchNorm)(4, axis_name="batch")
    >>> model.batch_counter.init is None
    True
    """

    def make(*args: _P.args, **kwargs: _P.kwargs) -> tuple[_T, State]:
        return split_state(make_model(*args, **kwargs))

    return make


def split_state(tree: _T) -> tuple[_T, State]:
    """Takes the initial values out of a tree; returns the rest and a State of them.

    The slots are named by the paths of their indices. Undone by :func:`join_state`.

    Arguments:
        tree: any pytree, usually a model.

    Raises:
        StateError: a part was split before; join it with its state first.

    >>> import vernal as vn
    >>> tree = {"a": vn.nn.BatchNorm(4, "batch"), "b": vn.nn.BatchNorm(2, "batch")}
    >>> model, state = split_state(tree)
    >>> state
    State of dict with 4 slots
      ['a'].batch_counter      i32[]
      ['a'].batch_state_index  (f32[4], f32[4])
      ['b'].batch_counter      i32[]
      ['b'].batch_state_index  (f32[2], f32[2])
    """
    slots = {id(index): slot for index, slot in named_slots(tree)}

    def name(x: Any) -> Any:
        if not is_index(x):
            return x
        home = shapes_of(x.init)
        shapes = x.shapes if home == x.shapes[0] else (x.shapes[0], home)
        return changed_index(x, marker=slots[id(x)], shapes=shapes)

    named = jax.tree.map(name, tree, is_leaf=is_index)
    return delete_init_state(named), State(named)


def join_state(model: _T, state: State) -> _T:
    """Puts a state into a model as its initial values: undoes :func:`split_state`.

    The result is like a newly constructed model that starts from these values. It can
    become part of another model, which :func:`make_with_state` then splits as a whole.
    Indices that still have an initial value, such as those of a layer added since,
    keep it.

    Arguments:
        model: a model without its state.
        state: its state; may have more slots than the model. It stays usable.

    Raises:
        ForeignStateError: the state lacks a slot of the model.

    >>> import vernal as vn
    >>> body, body_state = vn.nn.make_with_state(vn.nn.BatchNorm)(4, "batch")
    >>> body = vn.nn.join_state(body, body_state)
    >>> model, state = vn.nn.split_state({"body": body, "head": vn.nn.Identity()})
    """
    require_state("join_state", state)
    markers: dict[Any, Fresh] = {}

    def fill(x: Any) -> Any:
        if not is_index(x) or not x.is_stripped:
            return x
        marker = markers.setdefault(x.marker, Fresh())
        return renewed_index(x, marker, state._lookup(x, "join_state"))

    return jax.tree.map(fill, model, is_leaf=is_index)


def delete_init_state(model: _T) -> _T:
    """Drops the initial values that a model keeps, for the memory that they take.

    With ``State(model)`` it makes up :func:`make_with_state`, which is simpler.

    >>> import vernal as vn
    >>> norm = vn.nn.BatchNorm(4, "batch")
    >>> state = vn.nn.State(norm)
    >>> norm = vn.nn.delete_init_state(norm)
    >>> int(state.get(norm.batch_counter))
    0
    """

    def strip(x: Any) -> Any:
        if not is_index(x):
            return x
        return changed_index(x, init=None, is_stripped=True)

    return jax.tree.map(strip, model, is_leaf=is_index)
