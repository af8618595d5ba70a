"""Many layers of one kind, one after the other, as one loop."""

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, overload

import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax

from .._module.fields import field
from .._module.instance import assemble
from .._state.build import join_state
from .._state.index import same_arrays
from .._state.state import State
from .._transform.remat import filter_checkpoint
from .._transform.vmap import filter_vmap
from .._tree.filters import combine, is_array, partition
from .._tree.format import tree_pformat
from ..typing import Array, Key, PyTree
from ._checks import (
    check_state,
    fail,
    is_size,
    require,
    require_key,
)
from ._stacking import has_slots, renewed, stacked, take
from ._stateful import MaybeState, StatefulLayer

_Layer = TypeVar("_Layer", bound=Callable[..., Any])
_UNSET: Any = object()


class Stack(StatefulLayer, Generic[_Layer]):
    r"""Applies ``depth`` layers of one kind in order, in one ``lax.scan``.

    $$x_{i+1} = f_i(x_i), \qquad i = 0, \dots, \mathrm{depth} - 1$$

    Each layer has its own parameters and its own state. They are stored as arrays with
    an axis for the layers in front, so that one layer is traced and compiled whatever
    the depth. Layers must not change shape or dtype of what passes through them.

    It is called as ``y = stack(x)``, or with stateful layers as
    ``y, state = stack(x, state)``.

    Arguments:
        make_layer: makes a layer from a PRNG key.
        depth: number of layers, at least 1.
        remat: compute each layer again in the backward pass instead of storing its
            inside: True, or one of ``jax.checkpoint_policies``, which says what is
            stored after all.
        unroll: number of layers in one turn of the loop; they are compiled apart.
        key: a PRNG key; it is split for the layers.

    Attributes:
        layers: one layer with stacked parameters.

    Raises:
        HyperparameterError: an argument is outside its range, or ``make_layer`` does
            not return a layer.
        InputError: stateful layers are called without a state, or a layer changes
            shape or dtype of its input.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> def block(key):
    ...     linear = vn.nn.Linear(8, 8, key=key)
    ...     return vn.nn.Sequential([linear, vn.nn.BatchNorm(8, "batch"), jnp.tanh])
    >>> make = vn.nn.make_with_state(vn.nn.Stack)
    >>> stack, state = make(block, 16, key=jax.random.key(0))
    >>> axes = {"in_axes": (0, None), "out_axes": (0, None), "axis_name": "batch"}
    >>> y, state = jax.vmap(stack, **axes)(jnp.ones((4, 8)), state)
    >>> stack[3].layers[0].weight.shape
    (8, 8)
    """

    layers: _Layer
    depth: int = field(static=True)
    remat: bool | Callable[..., Any] = field(static=True)
    unroll: int = field(static=True)

    def __init__(
        self,
        make_layer: Callable[[Key], _Layer],
        depth: int,
        *,
        remat: bool | Callable[..., Any] = False,
        unroll: int = 1,
        key: Key,
    ) -> None:
        require(callable(make_layer), "Stack", "make_layer", "a function", make_layer)
        require(is_size(depth), "Stack", "depth", "an int ≥ 1", depth)
        require(is_size(unroll), "Stack", "unroll", "an int ≥ 1", unroll)
        ok = isinstance(remat, bool) or callable(remat)
        expected = "a bool, or one of jax.checkpoint_policies"
        require(ok, "Stack", "remat", expected, remat)
        require_key("Stack", key)
        layers = filter_vmap(make_layer)(jr.split(key, depth))
        require(callable(layers), "Stack", "make_layer", "a layer from it", layers)
        self.layers = layers
        self.depth = depth
        self.remat = remat
        self.unroll = unroll

    def is_stateful(self) -> bool:
        """Whether the layers have state."""
        return has_slots(self.layers)

    @overload
    def __call__(self, x: Array, *, key: Key | None = None) -> Array: ...
    @overload
    def __call__(
        self, x: Array, state: MaybeState, *, key: Key | None = None
    ) -> tuple[Array, MaybeState]: ...
    def __call__(
        self, x: PyTree, state: Any = _UNSET, *, key: Key | None = None
    ) -> Any:
        """Applies the layers.

        Arguments:
            x: the input of the first layer, any pytree of arrays.
            state: the state, if the layers are stateful; None for layers that can do
                without, such as :class:`CachedAttention`.
            key: a PRNG key; each layer gets its own. None passes none.

        Returns:
            The output of the last layer, and the new state if one was passed.
        """
        is_stateful = self.is_stateful()
        if is_stateful and state is not None:  # which layers may take, or refuse
            check_state(self, None if state is _UNSET else state)
        has_state = is_stateful and state is not None
        parts = state.substate(self.layers) if has_state else None
        keys = None if key is None else jr.split(key, self.depth)
        arrays, rest = partition(self.layers, is_array)

        changes: list[bool] = []

        def step(x: Any, own: Any) -> Any:
            layer, old = combine(own[0], rest), jax.tree.leaves(own[1])
            args = (x, own[1]) if is_stateful else (x,)
            out = layer(*args, **({} if key is None else {"key": own[2]}))
            y, part = out if is_stateful else (out, None)
            _check_unchanged(self, x, y)
            changes.append(not same_arrays(part, old))
            return y, part

        if self.remat is not False:
            policy = None if self.remat is True else self.remat
            # The loop itself keeps the two computations apart.
            step = filter_checkpoint(step, prevent_cse=False, policy=policy)
        x = jax.tree.map(jnp.asarray, x)
        y, parts = lax.scan(
            step, x, (arrays, parts, keys), self.depth, unroll=self.unroll
        )
        if state is _UNSET:
            return y
        # In inference nothing changes, and the state stays usable, as with one layer.
        return y, state.update(parts) if parts is not None and any(changes) else state

    def __len__(self) -> int:
        return self.depth

    def __getitem__(self, i: int) -> _Layer:
        """One layer with its parameters; :meth:`unstack` gives its state too."""
        if not (is_size(i, -self.depth) and i < self.depth):
            raise IndexError(f"Stack has layers 0 to {self.depth - 1}, not {i!r}")
        return take(self.layers, i)

    def unstack(self, state: State | None = None) -> list[_Layer]:
        """Takes the stack apart; undone by :meth:`from_layers`.

        Arguments:
            state: the state of the stack, if its layers are stateful.

        Returns:
            The layers, each with its state as initial values: ``split_state`` takes
            them out again.
        """
        whole = self.layers if state is None else join_state(self.layers, state)
        return [renewed(take(whole, i)) for i in range(self.depth)]

    @classmethod
    def from_layers(
        cls,
        layers: Sequence[_Layer],
        *,
        remat: bool | Callable[..., Any] = False,
        unroll: int = 1,
    ) -> "Stack[_Layer]":
        """Makes a stack of given layers, which still have their initial state.

        Arguments:
            layers: layers of one structure, shapes and dtypes; at least one. A layer
                that was split from its state is put together by ``join_state``.
            remat: as above.
            unroll: as above.

        Raises:
            HyperparameterError: the layers differ in more than values.
        """
        require(len(layers) > 0, "Stack", "layers", "at least one layer", layers)
        values = {"layers": stacked("Stack.from_layers", layers), "depth": len(layers)}
        return assemble(cls, values | {"remat": remat, "unroll": unroll})


def _check_unchanged(stack: Stack[Any], x: PyTree, y: PyTree) -> None:
    """Refuses layers whose output cannot be the input of the next one."""
    forms = [jax.tree.map(lambda a: (a.shape, a.dtype), tree) for tree in (x, y)]
    if forms[0] != forms[1]:
        fail(
            stack,
            "a layer changes what passes through it",
            expected=f"an output like the input: {tree_pformat(x)}",
            got=tree_pformat(y),
            fix="put layers that change shapes before or after the stack",
        )
