"""``State``: an immutable mapping from slots to values, handed from call to call."""

from collections.abc import Hashable
from typing import Any, TypeVar

import jax.tree_util as jtu

from .._tree.table import Table
from ..errors import ConsumedStateError, ForeignStateError, StateError, report
from ..typing import PyTree
from .display import state_table
from .index import Kind, Slot, StateIndex, shapes_of
from .marks import marked
from .naming import indices, named_slots
from .values import fit, is_misshapen, value_text, wrong_shape

T = TypeVar("T")


class Layout:
    """Which slots a State has: its pytree metadata, shared by all its successors."""

    def __init__(
        self,
        keys: tuple[Hashable, ...],
        names: tuple[str, ...],
        kinds: tuple[Kind, ...],
        owner: str,
    ) -> None:
        self.keys = keys
        self.names = names
        self.kinds = kinds
        self.owner = owner
        self.key_path = tuple(map(jtu.DictKey, names))
        self.places = {key: i for i, key in enumerate(keys)}
        self._hash = hash((keys, names))

    def only(self, keys: tuple[Hashable, ...]) -> "Layout":
        """The layout of some of these slots."""
        chosen = [self.places[key] for key in keys]
        names = tuple([self.names[i] for i in chosen])
        return Layout(keys, names, tuple([self.kinds[i] for i in chosen]), self.owner)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Layout):
            return False
        return self.keys == other.keys and self.kinds == other.kinds

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
        names, kinds, values = [], [], {}
        for index, slot in named_slots(model):
            if index.marker not in values:
                names.append(slot.path)
                kinds.append(index.kind)
                values[index.marker] = index.init
        owner = type(model).__name__
        self._values = values
        self._layout = Layout(tuple(values), tuple(names), tuple(kinds), owner)

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
        if shapes not in item.shapes and is_misshapen(shapes, item.shapes):
            raise wrong_shape(item, value)
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
        name = self._name(item.marker)
        new = marked(name, fit(old, value, name, "set"))
        return self._hand_over({item.marker: new}, "set", name)

    def substate(self, pytree: PyTree) -> "State":
        """Returns a State of only those slots whose indices are in ``pytree``.

        This State stays usable.

        Arguments:
            pytree: usually a part of the model.

        Raises:
            ConsumedStateError: this State was replaced by a newer one.
            ForeignStateError: ``pytree`` has an index of another model.
        """
        values = {i.marker: self._lookup(i, "substate") for i in indices(pytree)}
        return make_state(values, self._layout.only(tuple(values)))

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
        new = {k: fit(old[k], v, self._name(k), "update") for k, v in new.items()}
        return self._hand_over(new, "update", ", ".join(substate._layout.names[:3]))

    def tree_flatten(self) -> tuple[tuple[Any, ...], Layout]:
        """The values in order, and the layout: for ``jax.tree_util``."""
        return tuple(self._alive("flatten").values()), self._layout

    @classmethod
    def tree_unflatten(cls, keys: Layout, values: Any) -> "State":
        """The inverse of :meth:`tree_flatten`."""
        return make_state(dict(zip(keys.keys, values, strict=True)), keys)

    def __copy__(self) -> "State":
        return make_state(dict(self._alive("copy")), self._layout)

    def __repr__(self) -> str:
        if self._values is None:
            return f"State(replaced by {self._consumed_by})"
        names = self._layout.names
        width = max(map(len, names), default=0)
        texts = [value_text(self._values[key]) for key in self._layout.keys]
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
        return self._layout.names[self._layout.places[key]]

    def _hand_over(self, new: dict[Hashable, Any], verb: str, name: str) -> "State":
        """Moves the dictionary into the next State: no copy, as this one is dead."""
        values = self._alive(verb)
        values.update(new)
        self._values = None
        self._consumed_by = f"`{verb}` of `{name}`"
        return make_state(values, self._layout)


def require_state(what: str, state: Any, name: str = "state") -> None:
    """Refuses what is no State: the argument ``name`` of the function ``what``."""
    if not isinstance(state, State):
        raise StateError(
            report(
                f"{what}: `{name}` is not a State.",
                expected="a State of the model, as make_with_state returns it",
                got=type(state).__name__,
                fix="model, state = make_with_state(…)(…)",
            )
        )


def make_state(values: dict[Hashable, Any], layout: Layout) -> State:
    """A State with these values, in the order of the layout's keys."""
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
