"""Parts of a model that training leaves as they are."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import jax
import jax.tree_util as jtu

from .._module.fields import field
from .._module.instance import assemble
from .._state.index import StateIndex
from .._state.naming import indices
from .._state.slots import add_slot, drop_slot
from .._state.state import State, require_state
from .._tree.filters import is_inexact_array
from .._tree.paths import path_text
from .._tree.select import Path, Where, select, walk
from ..errors import StateError, report
from ._checks import fail
from ._mode import inference_mode
from ._stateful import StatefulLayer

_Model = TypeVar("_Model", bound=Callable[..., Any])


class Frozen(StatefulLayer, Generic[_Model]):
    # Made by `freeze`, which has the documentation.

    model: _Model  # with None in the place of each frozen array
    frozen: StateIndex[dict[str, Any]]  # the frozen arrays by their names
    names: tuple[str, ...] = field(static=True)  # of the parts that were chosen

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the model; returns its output and the state, frozen slots as before.

        Arguments:
            *args, **kwargs: those of the model, and the state. A model without any
                state of its own is called without it.

        Returns:
            What the model returns; for one without state ``(output, state)``.
        """
        state = _only_state(self, args, kwargs)
        model = self.whole(state)
        if not indices(model):
            args = tuple([x for x in args if x is not state])
            kwargs = {k: x for k, x in kwargs.items() if x is not state}
            return model(*args, **kwargs), state
        parts = [part for path, part in walk(model) if path_text(path) in self.names]
        kept = state.substate(parts)

        def restore(x: Any) -> Any:
            return x.update(kept) if isinstance(x, State) else x

        out = model(*args, **kwargs)
        return jax.tree.map(restore, out, is_leaf=lambda x: isinstance(x, State))

    def whole(self, state: State) -> _Model:
        """The model with its frozen arrays, and frozen parts as in inference."""
        model = _filled(self.model, state.get(self.frozen))
        return _switched_off(model, self.names)


def freeze(model: _Model, state: State, where: Where) -> tuple[Frozen[_Model], State]:
    """Takes parts of a model out of training.

    Their parameters move from the model into the state, where neither a gradient nor an
    optimizer finds them: no momentum and no weight decay moves them. The parts run as
    in inference, also after ``inference_mode(model, False)``, and their slots stay as
    they are: running statistics, singular vectors.

    The result is called like the model, always with the state: ``y, state = model(x,
    state)``. The model inside is ``.model``. Make the optimizer's state anew, as there
    are fewer parameters. To freeze more, freeze again. To go to another precision, cast
    the model before, as what is in the state is no longer reached.

    Arguments:
        model: the model, or one that has frozen parts already.
        state: its state; for a model without slots the empty one of
            ``make_with_state``. It stays usable.
        where: which parts: a class of layers, a name (``*`` stands for anything), a
            regular expression, a function such as ``lambda m: m.body``, or a list of
            these.

    Returns:
        The model with frozen parts, and its state, which holds their parameters.

    Raises:
        TreeError: ``where`` means nothing in this model.
        StateError: ``state`` is no State.
        ForeignStateError: it is not the state of this model.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> def build(key):
    ...     layers = [vn.nn.Linear(3, 3, key=key), vn.nn.BatchNorm(3, "batch")]
    ...     return vn.nn.Sequential([*layers, vn.nn.Linear(3, 1, key=key)])
    >>> model, state = vn.nn.make_with_state(build)(jax.random.key(0))
    >>> model, state = vn.nn.freeze(model, state, ["layers[0]", vn.nn.BatchNorm])
    >>> [leaf.shape for leaf in jax.tree.leaves(model)]
    [(1, 3), (1,)]
    >>> ys, state = vn.nn.batched(model)(jnp.ones((4, 3)), state)
    >>> model, state = vn.nn.unfreeze(model, state)
    >>> len(jax.tree.leaves(model))
    6
    """
    require_state("freeze", state)
    paths: list[Path] = []
    if isinstance(model, Frozen):
        names = model.names
        model, state = unfreeze(model, state)
        paths = [path for path, _ in walk(model) if path_text(path) in names]
    paths += [path for path, _ in select("freeze", model, where)]
    state.substate(model)  # refuses a state of another model

    values: dict[str, Any] = {}

    def take(path: Path, leaf: Any) -> Any:
        is_chosen = any(path[: len(part)] == part for part in paths)
        if not (is_chosen and is_inexact_array(leaf)):
            return leaf
        values[path_text(path)] = leaf
        return None

    rest = jtu.tree_map_with_path(take, model)
    index, state = add_slot(state, "frozen", type(model).__name__, values)
    names = tuple(sorted({path_text(path) for path in paths}))
    return assemble(Frozen, {"model": rest, "frozen": index, "names": names}), state


def unfreeze(model: Any, state: State) -> tuple[Any, State]:
    """Puts everything that :func:`freeze` took out of training back into it.

    Arguments:
        model: a model with frozen parts, also one that has such models inside.
        state: its state; stays usable.

    Returns:
        The model as it was before it was frozen, but for what was trained since; and
        its state.

    Raises:
        StateError: nothing in the model is frozen.

    >>> import vernal as vn, jax
    >>> model, state = vn.nn.make_with_state(vn.nn.Linear)(3, 1, key=jax.random.key(0))
    >>> model, state = vn.nn.freeze(model, state, "weight")
    >>> model, state = vn.nn.unfreeze(model, state)
    >>> model.weight.shape
    (1, 3)
    """
    require_state("unfreeze", state)
    found: list[Frozen[Any]] = []

    def thaw(node: Any) -> Any:
        if not isinstance(node, Frozen):
            return node
        found.append(node)
        return thaw_all(_filled(node.model, state.get(node.frozen)))

    def thaw_all(tree: Any) -> Any:  # what is frozen may have frozen parts
        return jax.tree.map(thaw, tree, is_leaf=lambda x: isinstance(x, Frozen))

    whole = thaw_all(model)
    if not found:
        raise StateError(
            report(
                f"unfreeze: nothing in this {type(model).__name__} is frozen.",
                expected="what `freeze` returned",
            )
        )
    for node in found:
        state = drop_slot(state, node.frozen)
    return whole, state


def frozen_paths(model: Any) -> set[Path]:
    """The paths of the parts that are frozen, anywhere in a model."""
    found = set()
    for path, node in walk(model):
        if isinstance(node, Frozen):
            inside = (*path, jtu.GetAttrKey("model"))
            parts = walk(node.model)
            found |= {inside + p for p, _ in parts if path_text(p) in node.names}
    return found


def _filled(model: Any, values: dict[str, Any]) -> Any:
    """Puts the frozen arrays back to their places."""

    def fill(path: Path, leaf: Any) -> Any:
        return values.get(path_text(path)) if leaf is None else leaf

    return jtu.tree_map_with_path(fill, model, is_leaf=lambda x: x is None)


def _switched_off(model: Any, names: tuple[str, ...]) -> Any:
    """Puts the parts of these names in inference mode; all Modules are distinct."""
    chosen = {id(part) for path, part in walk(model) if path_text(path) in names}

    def is_chosen(node: Any) -> bool:
        return id(node) in chosen

    def switch(node: Any) -> Any:
        return inference_mode(node) if is_chosen(node) else node

    return jax.tree.map(switch, model, is_leaf=is_chosen)


def _only_state(layer: Frozen[Any], args: Any, kwargs: Any) -> State:
    for x in (*args, *kwargs.values()):
        if isinstance(x, State):
            return x
    fail(
        layer,
        "a model with frozen parts is called without its state",
        error=StateError,
        expected="y, state = model(x, state), as the state has the frozen parameters",
        got=f"{len(args) + len(kwargs)} argument(s), none of them a State",
    )
