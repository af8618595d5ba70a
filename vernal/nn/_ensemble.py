"""Several models of one kind, side by side."""

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, overload

import jax
import jax.random as jr

from .._module.fields import field
from .._module.instance import assemble
from .._state.build import join_state
from .._state.index import same_arrays
from .._state.state import State
from .._transform.vmap import filter_vmap
from .._tree.filters import combine, is_array, partition
from ..typing import Array, Key, PyTree
from ._checks import (
    check_state,
    is_size,
    require,
    require_key,
)
from ._stacking import has_slots, renewed, stacked, take
from ._stateful import MaybeState, StatefulLayer

_Member = TypeVar("_Member", bound=Callable[..., Any])
_UNSET: Any = object()


class Ensemble(StatefulLayer, Generic[_Member]):
    r"""Applies ``size`` members of one kind side by side, in one ``jax.vmap``.

    $$y_i = f_i(x) \quad \text{or} \quad y_i = f_i(x_i), \qquad i = 0, \dots,
    \mathrm{size} - 1$$

    Each member has its own parameters and its own state. They are stored as arrays with
    an axis for the members in front. A :class:`BatchNorm` in a member averages over
    its batch, and knows nothing of the other members.

    It is called as ``ys = ensemble(x)``, or with stateful members as
    ``ys, state = ensemble(x, state)``; outputs have the members along the first axis.

    Arguments:
        make_member: makes a member from a PRNG key.
        size: number of members, at least 1.
        split: whether each member has an input of its own: then the arrays of the
            input have the members along their first axis. By default all members get
            the same.
        key: a PRNG key; it is split for the members.

    Attributes:
        members: one member with stacked parameters.

    Raises:
        HyperparameterError: an argument is outside its range, or ``make_member`` does
            not return a layer.
        InputError: stateful members are called without a state.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> def member(key):
    ...     linear = vn.nn.Linear(3, 2, key=key)
    ...     return vn.nn.Sequential([linear, vn.nn.BatchNorm(2, "batch")])
    >>> make = vn.nn.make_with_state(vn.nn.Ensemble)
    >>> ensemble, state = make(member, 5, key=jax.random.key(0))
    >>> ys, state = vn.nn.batched(ensemble)(jnp.ones((8, 3)), state)
    >>> ys.shape
    (8, 5, 2)
    """

    members: _Member
    size: int = field(static=True)
    split: bool = field(static=True)

    def __init__(
        self,
        make_member: Callable[[Key], _Member],
        size: int,
        *,
        split: bool = False,
        key: Key,
    ) -> None:
        is_function = callable(make_member)
        require(is_function, "Ensemble", "make_member", "a function", make_member)
        require(is_size(size), "Ensemble", "size", "an int ≥ 1", size)
        require(isinstance(split, bool), "Ensemble", "split", "a bool", split)
        require_key("Ensemble", key)
        members = filter_vmap(make_member)(jr.split(key, size))
        require(
            callable(members), "Ensemble", "make_member", "a layer from it", members
        )
        self.members = members
        self.size = size
        self.split = split

    def is_stateful(self) -> bool:
        """Whether the members have state."""
        return has_slots(self.members)

    @overload
    def __call__(self, x: PyTree, *, key: Key | None = None) -> Array: ...
    @overload
    def __call__(
        self, x: PyTree, state: MaybeState, *, key: Key | None = None
    ) -> tuple[Array, MaybeState]: ...
    def __call__(
        self, x: PyTree, state: Any = _UNSET, *, key: Key | None = None
    ) -> Any:
        """Applies the members.

        Arguments:
            x: the input, any pytree of arrays.
            state: the state, if the members are stateful; None for members that can
                do without, such as :class:`CachedAttention`.
            key: a PRNG key; each member gets its own. None passes none.

        Returns:
            The outputs, with the members along the first axis; and the new state if
            one was passed.
        """
        is_stateful = self.is_stateful()
        if is_stateful and state is not None:  # which members may take, or refuse
            check_state(self, None if state is _UNSET else state)
        has_state = is_stateful and state is not None
        parts = state.substate(self.members) if has_state else None
        keys = None if key is None else jr.split(key, self.size)
        arrays, rest = partition(self.members, is_array)
        changes: list[bool] = []

        def one(arrays: Any, part: Any, key: Any, x: Any) -> Any:
            member, old = combine(arrays, rest), jax.tree.leaves(part)
            args = (x, part) if is_stateful else (x,)
            out = member(*args, **({} if key is None else {"key": key}))
            y, part = out if is_stateful else (out, None)
            changes.append(not same_arrays(part, old))
            return y, part

        axes = (0, 0, 0, 0 if self.split else None)
        run = jax.vmap(one, in_axes=axes, axis_size=self.size)
        ys, parts = run(arrays, parts, keys, x)
        if state is _UNSET:
            return ys
        # In inference nothing changes, and the state stays usable, as with one member.
        return ys, state.update(parts) if parts is not None and any(changes) else state

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, i: int) -> _Member:
        """One member with its parameters; :meth:`unstack` gives its state too."""
        if not (is_size(i, -self.size) and i < self.size):
            raise IndexError(f"Ensemble has members 0 to {self.size - 1}, not {i!r}")
        return take(self.members, i)

    def unstack(self, state: State | None = None) -> list[_Member]:
        """Takes the ensemble apart; undone by :meth:`from_members`.

        Arguments:
            state: the state of the ensemble, if its members are stateful.

        Returns:
            The members, each with its state as initial values: ``split_state`` takes
            them out again.
        """
        whole = self.members if state is None else join_state(self.members, state)
        return [renewed(take(whole, i)) for i in range(self.size)]

    @classmethod
    def from_members(
        cls, members: Sequence[_Member], *, split: bool = False
    ) -> "Ensemble[_Member]":
        """Makes an ensemble of given members, which still have their initial state.

        Arguments:
            members: layers of one structure, shapes and dtypes; at least one. A model
                that was split from its state is put together by ``join_state``.
            split: as above.

        Raises:
            HyperparameterError: the members differ in more than values.
        """
        require(len(members) > 0, "Ensemble", "members", "at least one", members)
        values = {"members": stacked("Ensemble.from_members", members)}
        return assemble(cls, values | {"size": len(members), "split": split})
