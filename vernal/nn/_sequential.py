"""Layers one after the other."""

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import jax.random as jr
from jaxtyping import Array

from .._module.register import is_function
from .._state.state import State
from .._tree.format import tree_pformat
from ..errors import short
from ..typing import Key
from ._checks import check_state, fail, require
from ._simple import Lambda
from ._stacking import has_slots
from ._stateful import MaybeState, StatefulLayer

_UNSET: Any = object()


class Sequential(StatefulLayer):
    """Applies layers in order.

    It is called as ``y = model(x)``, or with stateful layers as
    ``y, state = model(x, state)``: the state goes to those layers that have a
    :class:`StateIndex` somewhere; a :class:`StatefulLayer` says itself whether it wants
    it. A layer that accepts ``key`` is given one. Layers take one input each; for a
    network that branches, write a Module of your own.

    Arguments:
        layers: the layers. Plain functions are wrapped in :class:`Lambda`.

    Raises:
        HyperparameterError: a layer is not callable.
        InputError: a stateful layer is called without a state.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> k1, k2 = jax.random.split(jax.random.key(0))
    >>> model = vn.nn.Sequential(
    ...     [vn.nn.Linear(2, 8, key=k1), jax.nn.relu, vn.nn.Linear(8, 1, key=k2)]
    ... )
    >>> model(jnp.ones(2)).shape
    (1,)
    """

    layers: tuple[Callable[..., Any], ...]

    def __init__(self, layers: Sequence[Callable[..., Any]]) -> None:
        for layer in layers:
            require(callable(layer), "Sequential", "layers", "callables", layer)
        self.layers = tuple(Lambda(f) if is_function(f) else f for f in layers)

    def is_stateful(self) -> bool:
        """Whether any of the layers is."""
        return any(map(_is_stateful, self.layers))

    @overload
    def __call__(self, x: Array, *, key: Key | None = None) -> Array: ...
    @overload
    def __call__(
        self, x: Array, state: MaybeState, *, key: Key | None = None
    ) -> tuple[Array, MaybeState]: ...
    def __call__(
        self, x: Array, state: State | None = _UNSET, *, key: Key | None = None
    ) -> Array | tuple[Array, State | None]:
        """Applies all layers.

        Arguments:
            x: the input of the first layer.
            state: the state of the model; needed if any layer is stateful. None is
                for layers that can do without, such as :class:`CachedAttention`.
            key: a PRNG key, split into one for each layer; may be None.

        Returns:
            The output of the last layer, and the new state if one was given.
        """
        if state is not _UNSET and state is not None:
            check_state(self, state)
        n = len(self.layers)
        keys = [None] * n if key is None else jr.split(key, n)
        for i, (layer, subkey) in enumerate(zip(self.layers, keys, strict=True)):
            kind: Any = type(layer)
            extra = {"key": subkey} if _takes_key(kind) else {}
            if not _is_stateful(layer):
                x = layer(x, **extra)
            elif state is _UNSET:
                _fail_stateless(self, i)
            else:
                x, state = _pair(self, i, layer(x, state=state, **extra), type(state))
        return x if state is _UNSET else (x, state)

    @overload
    def __getitem__(self, i: int) -> Callable[..., Any]: ...
    @overload
    def __getitem__(self, i: slice) -> "Sequential": ...
    def __getitem__(self, i: int | slice) -> Callable[..., Any]:
        """One layer, or for a slice a Sequential of some."""
        return Sequential(self.layers[i]) if isinstance(i, slice) else self.layers[i]

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)


def _is_stateful(layer: Any) -> bool:
    if isinstance(layer, StatefulLayer):
        return layer.is_stateful()
    return has_slots(layer)


@functools.cache
def _takes_key(kind: Any) -> bool:
    """Whether layers of this type accept ``key=``; built-in ones all do."""
    try:
        parameters = inspect.signature(kind.__call__).parameters.values()
    except (TypeError, ValueError):  # what has no signature is asked
        return True
    return any(p.name == "key" or p.kind == p.VAR_KEYWORD for p in parameters)


def _pair(model: Sequential, i: int, out: Any, kind: type) -> tuple[Any, Any]:
    """What a stateful layer returned, which must be two things."""
    if isinstance(out, tuple) and len(out) == 2 and isinstance(out[1], kind):
        return out
    fail(
        model,
        f"layers[{i}], {type(model.layers[i]).__name__}, did not return its state",
        expected="(y, state), as it has a StateIndex or is a StatefulLayer",
        got=short(tree_pformat(out)),
        fix="return y, state",
    )


def _fail_stateless(model: Sequential, i: int) -> None:
    fail(
        model,
        f"layers[{i}] is stateful, and no state was passed",
        expected=f"a State, for {type(model.layers[i]).__name__}",
        got="no second argument",
        fix="y, state = model(x, state), with the state from `make_with_state`",
    )
