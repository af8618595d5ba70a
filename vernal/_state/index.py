"""``StateIndex``: the place in a model that owns one slot of the state."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp

from .._module.fields import field
from .._module.instance import assemble
from .._module.module import Module
from .._tree.filters import is_array_like
from ..errors import StateValueError, report, short
from ..typing import PyTree

T = TypeVar("T")
Shapes: TypeAlias = tuple[tuple[int, ...] | None, ...]
Merge: TypeAlias = Callable[[Sequence[Any], Callable[[str], Sequence[Any]]], Any]


class Slot(NamedTuple):
    """The identity of a slot once it has a name: equal models have equal slots."""

    path: str
    """Where its index stands in the model: ``norm1.batch_state_index``."""

    owner: str
    """The class name of the model."""


class Kind(NamedTuple):
    """What else is fixed for a slot, besides its shapes."""

    merge: Merge | None = None
    """How ``merge_states`` makes one value of several."""

    per_row: bool = False
    """Whether each example of a batch may have a value of its own."""


class Fresh:
    """The identity of a slot that has no name yet; only the very same one is equal."""

    def __init__(self) -> None:
        # What jit returns can carry the identity of an earlier call's slot. (Under
        # jit a constant is a tracer; under vmap alone it is not.)
        self.under_jit = isinstance(jnp.zeros(()), jax.core.Tracer)


class StateIndex(Module, Generic[T]):
    """Owns one slot of the state: its identity, and its initial value.

    Create one in the ``__init__`` of a stateful layer, and use it there as the key for
    :meth:`State.get` and :meth:`State.set`. One index is one slot, also where the
    layer that has it appears at several places of the model.

    Arguments:
        init: the initial value: any pytree of arrays, numbers and PRNG keys. It is
            made strongly typed, so that a training loop compiles once.
        merge: how :func:`merge_states` makes one value of several: a function of the
            list of values, and of a function that gives the list of values of another
            slot of the layer, by the name of its attribute.
        per_row: whether each example of a batch has a value of its own, as a cache
            has; see :func:`with_rows`. By default all examples share one.

    Attributes:
        marker: the identity of the slot; after :func:`make_with_state` its name.
        init: the initial value, or None after :func:`make_with_state` took it out.

    Raises:
        StateValueError: ``init`` has a leaf that cannot be stored in an array.

    >>> import vernal as vn, jax.numpy as jnp
    >>> class Counter(vn.Module):
    ...     index: vn.nn.StateIndex
    ...
    ...     def __init__(self):
    ...         self.index = vn.nn.StateIndex(jnp.array(0))
    ...
    ...     def __call__(self, x, state):
    ...         count = state.get(self.index)
    ...         return x + count, state.set(self.index, count + 1)
    >>> counter, state = vn.nn.make_with_state(Counter)()
    >>> _, state = counter(jnp.array(5), state)
    >>> int(state.get(counter.index))
    1
    """

    marker: Hashable = field(static=True, repr=False)
    # The shapes that the leaves may have: as seen by the layer, and (if the layer was
    # built under vmap) as seen where the model was completed.
    shapes: tuple[Shapes, ...] = field(static=True, repr=False)
    is_stripped: bool = field(static=True, repr=False)
    kind: Kind = field(static=True, repr=False)
    init: T | None

    def __init__(
        self, init: T, *, merge: Merge | None = None, per_row: bool = False
    ) -> None:
        value = jax.tree.map(_to_array, init)
        self.marker = Fresh()
        self.shapes = (shapes_of(value),)
        self.is_stripped = False
        self.kind = Kind(merge, per_row)
        self.init = value


def changed_index(index: StateIndex[Any], **changes: Any) -> StateIndex[Any]:
    """A copy with other fields; ``StateIndex(init)`` always makes a new identity."""
    return assemble(StateIndex, index.__dict__ | changes)


def renewed_index(
    index: StateIndex[Any], marker: Hashable, init: Any
) -> StateIndex[Any]:
    """A copy with an initial value, as a layer has it before it is split."""
    return changed_index(
        index, marker=marker, shapes=index.shapes[:1], init=init, is_stripped=False
    )


def shapes_of(value: PyTree) -> Shapes:
    """The shapes of the leaves, where all of them have one."""
    return tuple([getattr(x, "shape", None) for x in jax.tree.leaves(value)])


def is_index(x: Any) -> bool:
    """Whether ``x`` is a StateIndex."""
    return isinstance(x, StateIndex)


def same_arrays(x: PyTree, y: PyTree) -> bool:
    """Whether two values consist of the very same array objects."""
    xs, ys = jax.tree.leaves(x), jax.tree.leaves(y)
    return all(a is b for a, b in zip(xs, ys, strict=True))


def _to_array(x: Any) -> jax.Array:
    if not is_array_like(x):
        raise StateValueError(
            report(
                "StateIndex: the initial value has a leaf that is no array.",
                expected="a pytree of arrays, numbers and PRNG keys",
                got=f"{short(repr(x))} of type {type(x).__name__}",
                fix="keep what is not data in a static field of the layer",
            )
        )
    return strong(jnp.asarray(x))


def strong(x: jax.Array) -> jax.Array:
    """Drops weak typing: a weak value would come back strong, and compile anew."""
    weak = getattr(x, "weak_type", False)
    return jax.lax.convert_element_type(x, x.dtype) if weak else x
