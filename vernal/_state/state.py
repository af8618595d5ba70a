"""``State``: an immutable mapping from slots to values, handed from call to call."""

from collections.abc import Hashable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from .._tree.filters import is_array_like
from .._tree.format import tree_pformat
from .._tree.table import Table
from ..errors import (
    ConsumedStateError,
    ForeignStateError,
    StateError,
    StateValueError,
    report,
    short,
)
from ..typing import PyTree
from .display import state_table
from .index import Shapes, Slot, StateIndex, is_index, shapes_of, strong
from .naming import named_slots

T = TypeVar("T")


class Layout:
    """Which slots a State has: its pytree metadata, shared by all its successors."""

    def __init__(self, keys: tuple[Hashable, ...], names: tuple[str, ...], owner: str):
        self.keys = keys
        self.names = names
        self.owner = owner
        self.key_path = tuple(map(jtu.DictKey, names))
        self._hash = hash((keys, names))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Layout) and self.keys == other.keys

    def __repr__(self) -> str:
        return f"{self.owner}: {', '.join(self.names)}"


class State:
    """The state of a model: one value for each :class:`StateIndex` in it.

    A State is a pytree. It is passed into a model and comes back updated, as the
    second result. Nothing is changed in place: :meth:`set` and :meth:`update` return
    a new State and make the old one unusable, so that an update cannot be lost by
    going on with the old one. ``copy.copy(state)`` keeps one on purpose.

    Make it by :func:`make_with_state`. (``State(model)`` collects the initial values
    of a model that still has them; see :func:`delete_init_state`.)

    Arguments:
        model: any pytree with indices that have their initial values.

    Raises:
        StateError: the initial values were taken out already.

    >>> import vernal as vn
    >>> norm, state = vn.nn.make_with_state(vn.nn.BatchNorm)(3, axis_name="batch")
    >>> state
    State of BatchNorm with 2 slots
      batch_counter      i32[]
      batch_state_index  (f32[3], f32[3])
    >>> print(state)  # with values, or what they look like
    State of BatchNorm with 2 slots
      batch_counter           i32[]   0
      batch_state_index  [0]  f32[3]  0, 0, 0
                         [1]  f32[3]  1, 1, 1
    """

    __slots__ = ("__weakref__", "_consumed_by", "_layout", "_values")
    _values: dict[Hashable, Any] | None  # None once this State was consumed
    _layout: Layout
    _consumed_by: str

    def __init__(self, model: PyTree) -> None:
        keys, names, values = [], [], {}
        for index, slot in named_slots(model):
            if index.marker not in values:
                keys.append(index.marker)
                names.append(slot.path)
                values[index.marker] = index.init
        self._values = values
        self._layout = Layout(tuple(keys), tuple(names), type(model).__name__)

    def get(self, item: StateIndex[T]) -> T:
        """Returns the value of a slot.

        Arguments:
            item: the index that owns it.

        Raises:
            ConsumedStateError: this State was replaced by a newer one.
            ForeignStateError: this State has no such slot.
            StateValueError: the value has other shapes than it was made with.
        """
        value: T = self._lookup(item, "get")
        shapes = shapes_of(value)
        if shapes not in item.shapes and _is_misshapen(shapes, item.shapes):
            raise _wrong_shape(item, value)
        return value

    def set(self, item: StateIndex[T], value: T) -> "State":
        """Returns a new State in which one slot has another value.

        This State cannot be used any more; it takes constant time.

        Arguments:
            item: the index that owns the slot.
            value: a pytree with the structure, shapes and dtypes of the old value.

        Raises:
            ConsumedStateError: this State was replaced by a newer one.
            ForeignStateError: this State has no such slot.
            StateValueError: the value has another structure, shape or dtype.
        """
        old = self._lookup(item, "set")
        new = _like(old, value, self._name(item.marker), "set")
        return self._hand_over({item.marker: new}, "set", self._name(item.marker))

    def substate(self, pytree: PyTree) -> "State":
        """Returns a State of only those slots whose indices are in ``pytree``.

        This State stays usable.

        Arguments:
            pytree: usually a part of the model.

        Raises:
            ConsumedStateError: this State was replaced by a newer one.
            ForeignStateError: ``pytree`` has an index of another model.
        """
        indices = filter(is_index, jax.tree.leaves(pytree, is_leaf=is_index))
        values = {i.marker: self._lookup(i, "substate") for i in indices}
        names = tuple([self._name(key) for key in values])
        return _make(values, Layout(tuple(values), names, self._layout.owner))

    def update(self, substate: "State") -> "State":
        """Returns a new State with all values of ``substate`` put in.

        This State cannot be used any more; it takes time in the size of ``substate``.

        Arguments:
            substate: a State of some of these slots, usually made by
                :meth:`substate` and returned by a part of the model.

        Raises:
            ConsumedStateError: one of the two was replaced by a newer one.
            ForeignStateError: ``substate`` has a slot that this State has not.
            StateValueError: a value has another structure, shape or dtype.
        """
        if not isinstance(substate, State):
            raise StateError(
                report(
                    "State.update: the argument is not a State.",
                    expected="a State, as `state.substate(part)` returns",
                    got=type(substate).__name__,
                )
            )
        old, new = self._alive("update"), substate._alive("update")
        if foreign := [key for key in new if key not in old]:
            raise self._foreign(substate._name(foreign[0]), substate._layout.owner)
        new = {k: _like(old[k], v, self._name(k), "update") for k, v in new.items()}
        return self._hand_over(new, "update", ", ".join(substate._layout.names[:3]))

    def tree_flatten(self) -> tuple[tuple[Any, ...], Layout]:
        """The values in order, and the layout: for ``jax.tree_util``."""
        values = self._alive("flatten")
        return tuple([values[key] for key in self._layout.keys]), self._layout

    @classmethod
    def tree_unflatten(cls, keys: Layout, values: Any) -> "State":
        """The inverse of :meth:`tree_flatten`."""
        return _make(dict(zip(keys.keys, values, strict=True)), keys)

    def __copy__(self) -> "State":
        return _make(dict(self._alive("copy")), self._layout)

    def __repr__(self) -> str:
        if self._values is None:
            return f"State(replaced by {self._consumed_by})"
        names = self._layout.names
        width = max(map(len, names), default=0)
        texts = [_text(self._values[key]) for key in self._layout.keys]
        pairs = zip(names, texts, strict=True)
        rows = [f"  {name:<{width}}  {text}" for name, text in pairs]
        count = f"{len(rows)} slot{'' if len(rows) == 1 else 's'}"
        return "\n".join([f"State of {self._layout.owner} with {count}", *rows])

    def __str__(self) -> str:
        return repr(self) if self._values is None else str(self._table())

    def _repr_html_(self) -> str | None:
        return None if self._values is None else self._table()._repr_html_()

    def _table(self) -> Table:
        values = self._alive("print")
        layout = self._layout
        return state_table(layout.owner, layout.names, [values[k] for k in layout.keys])

    def _alive(self, verb: str) -> dict[Hashable, Any]:
        if self._values is None:
            raise ConsumedStateError(
                report(
                    f"State.{verb}: this State was replaced by {self._consumed_by}.",
                    expected="the State that was returned there",
                    got="the old one",
                    fix="state = state.set(…); to keep an old one on purpose, "
                    "copy.copy(state) before",
                )
            )
        return self._values

    def _lookup(self, item: Any, verb: str) -> Any:
        if not isinstance(item, StateIndex):
            raise StateError(
                report(
                    f"State.{verb}: the key is not a StateIndex.",
                    expected="the `StateIndex` that a layer holds, as `layer.index`",
                    got=f"{type(item).__name__}",
                )
            )
        values = self._alive(verb)
        try:
            return values[item.marker]
        except KeyError:
            new = Slot("a new slot", "a model that was not split yet")
            slot = item.marker if isinstance(item.marker, Slot) else new
            raise self._foreign(*slot) from None

    def _foreign(self, path: str, owner: str) -> ForeignStateError:
        names = self._layout.names
        shown = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
        return ForeignStateError(
            report(
                f"`{path}` of {owner} has no slot in this State.",
                expected=f"the State made together with {owner}",
                got=f"a State of {self._layout.owner} with: {shown or 'no slots'}",
                fix="model, state = make_with_state(…)(…); for a model changed since: "
                "split_state(join_state(model, state))",
            )
        )

    def _name(self, key: Hashable) -> str:
        if isinstance(key, Slot):
            return key.path
        return self._layout.names[self._layout.keys.index(key)]

    def _hand_over(self, new: dict[Hashable, Any], verb: str, name: str) -> "State":
        """Moves the dictionary into the next State: no copy, as this one is dead."""
        values = self._alive(verb)
        values.update(new)
        self._values = None
        self._consumed_by = f"`{verb}` of `{name}`"
        return _make(values, self._layout)


def _make(values: dict[Hashable, Any], layout: Layout) -> State:
    state = object.__new__(State)
    state._values = values
    state._layout = layout
    return state


def _flatten_with_keys(state: State) -> tuple[Any, Layout]:
    values, layout = state.tree_flatten()
    return tuple(zip(layout.key_path, values, strict=True)), layout


jtu.register_pytree_with_keys(
    State, _flatten_with_keys, State.tree_unflatten, State.tree_flatten
)


def _like(old: PyTree, new: PyTree, name: str, verb: str) -> PyTree:
    """Makes ``new`` strongly typed arrays, or refuses if it does not fit ``old``."""
    olds, news = jax.tree.leaves(old), jax.tree.leaves(new)
    treedef: Any = jax.tree.structure(old)
    if treedef == jax.tree.structure(new):
        fitted = [_fit(a, b) for a, b in zip(olds, news, strict=True)]
        if all(x is not None for x in fitted):
            return treedef.unflatten(fitted)
    shapes = [(jnp.ndim(a), jnp.ndim(b)) for a, b in zip(olds, news, strict=False)]
    gained = any(a != b for a, b in shapes)
    raise StateValueError(
        report(
            f"State.{verb}: the new value of `{name}` does not fit the old one.",
            expected=_text(old),
            got=_text(new),
            fix=_AXIS_FIX if gained else "keep structure, shapes and dtypes",
        )
    )


_AXIS_FIX = (
    "a batch axis came in: under `vmap` pass and return the state with "
    "in_axes=None, out_axes=None"
)


def _fit(old: Any, new: Any) -> Any:
    """``new`` as a strongly typed array like ``old``; None if it does not fit."""
    if not is_array_like(new):
        return None
    new = jnp.asarray(new)
    if new.shape != old.shape:
        return None
    if new.dtype == old.dtype:
        return strong(new)
    # Python's numbers, and what is computed from them alone, fit as in arithmetic.
    weak = getattr(new, "weak_type", False)
    if weak and 0 < _kind(new.dtype) <= _kind(old.dtype):
        return jax.lax.convert_element_type(new, old.dtype)
    return None


def _kind(dtype: Any) -> int:
    """0 for bool and keys, 1 for integers, 2 for real and 3 for complex numbers."""
    kinds = (jnp.integer, jnp.floating, jnp.complexfloating)
    found = [i for i, kind in enumerate(kinds, 1) if jnp.issubdtype(dtype, kind)]
    return found[0] if found else 0


def _text(value: PyTree) -> str:
    return short(tree_pformat(value, width=10_000, struct_as_array=True), 200)


def _is_misshapen(shapes: Shapes, known: tuple[Shapes, ...]) -> bool:
    """Whether a value with these shapes is not what a layer may expect.

    Masks and specs in the place of a value have no shapes. Within ``shard_map`` a
    layer may see a part of each array, with as many axes.
    """
    if None in shapes or len(shapes) != len(known[0]):
        return False
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return True
    ndims = [[len(shape or ()) for shape in value] for value in (shapes, *known)]
    return ndims[0] not in ndims[1:]


def _wrong_shape(item: StateIndex[Any], value: PyTree) -> StateValueError:
    marker = item.marker
    name = marker.path if isinstance(marker, Slot) else "a slot"
    wanted, found = item.shapes[-1], shapes_of(value)
    both = zip(found, wanted, strict=True)
    gained = any(len(a or ()) > len(b or ()) for a, b in both)
    what = "gained an axis since it was made" if gained else "has another shape"
    return StateValueError(
        report(
            f"State.get: the value of `{name}` {what}.",
            expected=f"arrays of shape {', '.join(map(str, wanted))}",
            got=_text(value),
            fix=_GAINED_FIX if gained else _SHAPE_FIX,
        )
    )


_GAINED_FIX = (
    "return the state with out_axes=None: jax.vmap(model, in_axes=(0, None), "
    "out_axes=(0, None), axis_name=…); read an ensemble's state under vmap"
)
_SHAPE_FIX = "use the State that was made together with this model"
