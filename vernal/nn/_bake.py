"""Replacing weights that are computed at each call by their values."""

from typing import Any, TypeVar

import jax

from .._state.state import State
from ..errors import TreeError, report
from ._replace import is_called_as, replaced, unaliased
from ._spectral_norm import SpectralNorm
from ._weight_norm import WeightNorm

_T = TypeVar("_T")


def bake(model: _T, state: State) -> tuple[_T, State]:
    r"""Puts normalized weights into the layers themselves, for inference.

    Each :class:`SpectralNorm` and :class:`WeightNorm` becomes the layer that it wraps,
    with the weight that this is called with in inference: W/σ, for the u and v of the
    state, or g v/‖v‖. The model gives what it gave in inference, with less work; its
    weights are parameters like any others, no longer normalized as they are trained.

    In a :class:`Sequential` the plain layer takes the place of the wrapper. Elsewhere
    a SpectralNorm becomes a layer that is called in the same way, as
    ``y, state = layer(x, state)``, passes the state on, and has the plain one as its
    ``layer``; so the code around it stays as it is.

    PyTorch's ``remove_spectral_norm`` and ``remove_parametrizations`` do it for one
    layer in place; Flax has nothing of the kind.

    Arguments:
        model: any pytree with such layers.
        state: its state; it stays usable.

    Returns:
        The model, and the state without the slots of these layers.

    Raises:
        TreeError: there are no such layers, or one of them is in a :class:`Shared`.
        StateError: the state is not that of the model.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> k1, k2 = jax.random.split(jax.random.key(0))
    >>> linear = vn.nn.SpectralNorm(vn.nn.Linear(2, 3, key=k1), "weight", key=k2)
    >>> make = vn.nn.make_with_state(vn.nn.Sequential)
    >>> model, state = make([linear, jax.nn.relu])
    >>> baked, state = vn.nn.bake(model, state)
    >>> baked.layers[0]
    Linear(
      weight=f32[3,2], bias=f32[3], in_features=2, out_features=3, use_bias=True
    )
    >>> print(state)
    State of Sequential with 0 slots
    """
    tree = unaliased("bake", model, state)
    found = filter(_is_wrapper, jax.tree.leaves(tree, is_leaf=_is_wrapper))
    changes = [(wrapper, _plain(wrapper, state)) for wrapper in found]
    if not changes:
        raise TreeError(
            report(
                "bake: there is nothing to bake.",
                expected="a SpectralNorm or WeightNorm somewhere in the model",
                got=f"{type(model).__name__} without any",
            )
        )
    return replaced("bake", tree, state, changes)


def _plain(node: Any, state: State) -> Any:
    """The node without the wrapper that it is, and without those inside of that."""
    if not _is_wrapper(node):
        return node
    is_spectral = isinstance(node, SpectralNorm)
    layer = node.normalized(state) if is_spectral else node.normalized()
    return jax.tree.map(lambda x: _plain(x, state), layer, is_leaf=_is_wrapper)


def _is_wrapper(x: Any) -> bool:
    return is_called_as(x, SpectralNorm, WeightNorm)
