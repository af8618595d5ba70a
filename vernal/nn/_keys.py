"""Random keys out of the state."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, UInt32

from .._module.fields import field
from .._module.module import Module
from .._state.index import StateIndex
from .._state.state import State
from ..typing import AxisName, Key
from ._axes import position, read_axis_name
from ._checks import check_state, require, require_key
from ._stacking import has_slots
from ._stateful import StatefulLayer

_Layer = TypeVar("_Layer", bound=Callable[..., Any])
_Slot = tuple[UInt32[Array, "..."], UInt32[Array, ""]]


class KeyStream(Module):
    r"""Hands out a new random key at each call, out of the state.

    $$k_{t, i} = \mathrm{fold\_in}(\mathrm{fold\_in}(k, t), i)$$

    for the t-th key and the i-th example on the named axes. The state holds k and t,
    so a run that goes on from a checkpoint draws what it would have drawn. All
    examples of a batch share the state and are still given different keys: under
    ``jax.vmap``, on several devices, or both. In inference there are no keys.

    A layer uses it as ``key, state = self.keys.next(state)``; to give keys to a layer
    or model that takes ``key=``, see :class:`Keyed`. Flax's ``nnx.Rngs`` counts in the
    same way, and changes in place; it is split by hand for the examples of a batch.

    Arguments:
        axis_name: the name of the batch axis, or several names, such as of a ``vmap``
            axis and a device axis. With None, the examples of a mapped batch are given
            the same key: right only where one call takes the whole batch.
        inference: give None in the place of a key, and leave the state as it is. See
            :func:`inference_mode`.
        key: k, a PRNG key.

    Attributes:
        index: the slot of k, as plain numbers, and of t. Keys repeat after 2**32.

    Raises:
        HyperparameterError: an argument is not what it should be.
        AxisNameError: no axis of that name is in scope.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> make = vn.nn.make_with_state(vn.nn.KeyStream)
    >>> keys, state = make(None, key=jax.random.key(0))
    >>> key, state = keys.next(state)
    >>> other, state = keys.next(state)
    >>> bool(key == other)
    False
    """

    index: StateIndex[_Slot]
    axis_name: Hashable = field(static=True)
    implementation: Hashable = field(static=True)
    inference: bool = field(static=True, stored=True)

    def __init__(
        self, axis_name: AxisName | None, inference: bool = False, *, key: Key
    ) -> None:
        require_key("KeyStream", key)
        # Keys as numbers can be stored, copied and averaged over by everything.
        is_old = jnp.issubdtype(key.dtype, jnp.integer)
        data = key if is_old else jr.key_data(key)
        value = (data, jnp.zeros((), jnp.uint32))
        self.index = StateIndex(value, merge=_merge_keys)
        self.axis_name = read_axis_name("KeyStream", axis_name)
        self.implementation = jr.key_impl(key)
        self.inference = inference

    def next(
        self, state: State, *, inference: bool | None = None
    ) -> tuple[Key | None, State]:
        """Draws a key.

        Arguments:
            state: the state of the model.
            inference: overrides the field of that name, if not None.

        Returns:
            A key of the new kind, or None in inference; and the new state.
        """
        check_state(self, state)
        if self.inference if inference is None else inference:
            return None, state
        data, count = state.get(self.index)
        key = jr.wrap_key_data(data, impl=self.implementation)
        key = jr.fold_in(key, count)
        if self.axis_name is not None:
            key = jr.fold_in(key, position(self))
        return key, state.set(self.index, (data, count + 1))


def _merge_keys(values: Sequence[_Slot], _: Any) -> _Slot:
    """Goes on after the last key of any worker, so that none is used again."""
    return values[0][0], jnp.max(jnp.stack([count for _, count in values]))


class Keyed(StatefulLayer, Generic[_Layer]):
    """Gives a layer, or a whole model, the keys that it needs out of the state.

    It calls ``layer(x, key=key)`` with a new key from a :class:`KeyStream`; or with the
    state too, if the layer has some. So no keys are threaded through a training step:
    wrap a :class:`Dropout`, or once the :class:`Sequential` it is in, which splits the
    key for its layers. In inference the layer is called with ``key=None``.

    Arguments:
        layer: what to call; it accepts ``key=``.
        axis_name: as for :class:`KeyStream`. ``Keyed(batched(model), None, key=key)``
            takes a whole batch; :func:`batched` splits the key for the examples.
        key: a PRNG key, from which the others are made.

    Attributes:
        keys: the KeyStream.

    Raises:
        HyperparameterError: an argument is not what it should be.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> k1, k2 = jax.random.split(jax.random.key(0))
    >>> net = vn.nn.Sequential([vn.nn.Linear(3, 8, key=k1), vn.nn.Dropout(0.5)])
    >>> model, state = vn.nn.make_with_state(vn.nn.Keyed)(net, "batch", key=k2)
    >>> ys, state = vn.nn.batched(model)(jnp.ones((4, 3)), state)
    >>> key, count = state.get(model.keys.index)
    >>> int(count)
    1
    """

    layer: _Layer
    keys: KeyStream

    def __init__(self, layer: _Layer, axis_name: AxisName | None, *, key: Key) -> None:
        require(callable(layer), "Keyed", "layer", "a callable layer", layer)
        require_key("Keyed", key)
        self.layer = layer
        self.keys = KeyStream(read_axis_name("Keyed", axis_name), key=key)

    def __call__(
        self, x: Any, state: State, *, key: Key | None = None
    ) -> tuple[Any, State]:
        """Calls the layer.

        Arguments:
            x: the input of the layer.
            state: the state of the model.
            key: used in the place of a drawn one, if not None.

        Returns:
            The output of the layer and the new state.
        """
        check_state(self, state)
        if key is None:
            key, state = self.keys.next(state)
        layer: Any = self.layer
        own = layer.is_stateful() if isinstance(layer, StatefulLayer) else None
        if has_slots(layer) if own is None else own:
            y, state = layer(x, state, key=key)
            return y, state
        return layer(x, key=key), state
