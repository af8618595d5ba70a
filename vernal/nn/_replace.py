"""Putting layers without state in the places of layers with state."""

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, overload

import jax
import jax.tree_util as jtu

from .._module.module import Module
from .._state.state import State, require_state
from .._tree._handles import visit
from .._tree.paths import path_text
from ..errors import TreeError, report
from ..typing import Array, Key, PyTree
from ._sequential import Sequential
from ._shared import Shared
from ._stacking import has_slots

_T = TypeVar("_T")
_Layer = TypeVar("_Layer", bound=Callable[..., Any])
_UNSET: Any = object()


class Stateless(Module, Generic[_Layer]):
    # Stands where a layer with state stood, and is called as that was, so that the
    # code around it need not change. See `fold_norms` and `bake`.

    layer: _Layer

    @overload
    def __call__(
        self, x: Array, *, key: Key | None = ..., inference: bool | None = ...
    ) -> Array: ...
    @overload
    def __call__(
        self,
        x: Array,
        state: State,
        *,
        key: Key | None = ...,
        inference: bool | None = ...,
    ) -> tuple[Array, State]: ...
    def __call__(
        self,
        x: Array,
        state: State = _UNSET,
        *,
        key: Key | None = None,
        inference: bool | None = None,
    ) -> Any:
        """Applies the layer.

        Arguments:
            x: the input of the layer.
            state: any state; it is returned as it is.
            key: not used.
            inference: not used.

        Returns:
            The output of the layer, and the state if one was given.
        """
        y = self.layer(x)
        return y if state is _UNSET else (y, state)


def unaliased(name: str, model: _T, state: Any) -> _T:
    """A copy of the model in which each place has an object of its own.

    One layer may stand at several places; in the copy, an object tells which is meant.

    Raises:
        StateError: ``state``, an argument of the function ``name``, is no State.
    """
    require_state(name, state)
    return jax.tree.map(lambda x: x, model)


def nodes_of(tree: PyTree) -> list[Any]:
    """All nodes and leaves, parents first."""
    found: list[Any] = []
    visit(tree, found.append)
    return found


def place_of(tree: PyTree, node: Any) -> str:
    """Where a node stands, for messages: ``layers[0].norm``."""
    leaves = jtu.tree_leaves_with_path(tree, is_leaf=lambda x: x is node)
    return next((path_text(path) for path, x in leaves if x is node), "")


def is_called_as(x: Any, *kinds: type) -> bool:
    """Whether ``x`` is of one of these classes, and calling it does what they do.

    Calls of subclasses may do anything.
    """
    return any(isinstance(x, k) and type(x).__call__ is k.__call__ for k in kinds)


def replaced(
    name: str, tree: _T, state: State, changes: Sequence[tuple[Any, Any]]
) -> tuple[_T, State]:
    """Puts new layers without state in the place of old ones.

    Arguments:
        name: of the calling function, for messages.
        tree: a model, as :func:`unaliased` returns it.
        state: its state.
        changes: nodes of the tree, and what to put there.

    Returns:
        The changed model, and the state of what has still state.

    Raises:
        TreeError: a change would reach other places, too, by a :class:`Shared`.
    """
    nodes = nodes_of(tree)
    tied = {id(x) for node in nodes if isinstance(node, Shared) for x in nodes_of(node)}
    # A Sequential finds out by itself what has state.
    knowing = (x for x in nodes if is_called_as(x, Sequential))
    bare = {id(layer) for node in knowing for layer in node.layers}
    swaps: dict[int, Any] = {}
    for old, new in changes:
        if id(old) in tied:
            raise TreeError(
                report(
                    f"{name}: `{place_of(tree, old)}` is inside of a Shared.",
                    expected="layers whose parameters no other place uses",
                    got=f"{type(old).__name__}, which may be tied to another place",
                    fix="use it on parts of the model outside of the Shared",
                )
            )
        needs_state = has_slots(old) and id(old) not in bare
        swaps[id(old)] = Stateless(new) if needs_state else new
    out = jax.tree.map(
        lambda x: swaps.get(id(x), x), tree, is_leaf=lambda x: id(x) in swaps
    )
    return out, state.substate(out)
