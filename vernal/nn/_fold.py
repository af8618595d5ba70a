"""Folding batch normalization into the layers in front of it."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax.numpy as jnp

from .._state.state import State
from .._tree.surgery import tree_at
from ..errors import TreeError, report, short
from ..typing import Array, PyTree
from ._batch_norm import BatchNorm
from ._conv import Conv
from ._conv_transpose import ConvTranspose
from ._linear import Linear
from ._numerics import normalize
from ._replace import is_called_as, nodes_of, place_of, replaced, unaliased
from ._sequential import Sequential
from ._simple import Identity
from ._spectral_norm import SpectralNorm
from ._weight_norm import WeightNorm

_T = TypeVar("_T")
_Pairs = Sequence[tuple[Any, Any]]


def fold_norms(
    model: _T, state: State, pairs: Callable[[_T], _Pairs] | None = None
) -> tuple[_T, State]:
    r"""Makes one layer of each linear layer and the BatchNorm behind it, for inference.

    $$\tilde W = s W, \qquad \tilde b = s (b - \mu) + \beta, \qquad
    s = \gamma / \sqrt{\sigma^2 + \epsilon}$$

    with the running mean μ and variance σ² from the state. Up to rounding, the model
    then gives what it gave in inference, with less work and without this state. What
    is folded is the :class:`Linear`, :class:`Conv` or :class:`ConvTranspose` directly
    in front of a :class:`BatchNorm` in a :class:`Sequential`, wherever that is: nested,
    in a :class:`Stack`, an :class:`Ensemble`, or a Module of your own. There the norm
    becomes an :class:`Identity`, so that no layer moves to another index.

    What a Module of your own calls one after the other only you know: ``pairs`` names
    it. The code of the Module stays as it is: in the place of the norm is a layer that
    is called as ``x, state = norm(x, state)``, too, and passes both on. Neither layer
    may be called anywhere else; a norm after several layers is named with each of them.

    Weights keep their dtype, so in half precision they are rounded once more. Layers
    in a :class:`SpectralNorm` or :class:`WeightNorm` are left alone: :func:`bake` them
    first. What else differs in inference, such as :class:`Dropout`, is still to be
    switched by :func:`inference_mode`.

    Reference: Jacob et al., *Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference*, 2017, arXiv:1712.05877, section 3.2. PyTorch has
    ``fuse_conv_bn_eval`` for one pair; Flax has nothing of the kind.

    Arguments:
        model: any pytree with such layers.
        state: its state; it stays usable.
        pairs: from the model to a list of pairs (layer, norm) in it, as in
            ``lambda m: [(m.conv, m.norm)]``. Then just these are folded.

    Returns:
        The model, and the state without the slots of folded norms.

    Raises:
        TreeError: there is nothing to fold; ``pairs`` gives something else than pairs
            of such layers; sizes do not match; or a layer is in a :class:`Shared`.
        StateError: the state is not that of the model.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> k1, k2 = jax.random.split(jax.random.key(0))
    >>> conv, norm = vn.nn.Conv2d(3, 8, 3, key=k1), vn.nn.BatchNorm(8, "batch")
    >>> make = vn.nn.make_with_state(vn.nn.Sequential)
    >>> model, state = make([conv, norm, jax.nn.relu])
    >>> _, state = vn.nn.batched(model)(jax.random.normal(k2, (4, 3, 9, 9)), state)
    >>> folded, state = vn.nn.fold_norms(model, state)
    >>> print(state)
    State of Sequential with 0 slots
    >>> folded(jnp.ones((3, 9, 9))).shape
    (8, 7, 7)
    """
    tree = unaliased("fold_norms", model, state)
    found = _neighbors(tree) if pairs is None else _named(tree, pairs(tree))
    changes = []
    for layer, norm in found:
        mean, variance = state.get(_statistics(norm))
        _check_sizes(tree, layer, norm, mean)
        changes += [(layer, _folded(layer, norm, mean, variance)), (norm, Identity())]
    return replaced("fold_norms", tree, state, changes)


def _folded(layer: Any, norm: BatchNorm, mean: Array, variance: Array) -> Any:
    """The layer with the norm in its weight and bias, which it is linear in."""
    weight, bias = layer.weight, layer.bias
    if bias is None:
        ones = (1,) * (weight.ndim - mean.ndim - 1)
        bias = jnp.zeros((*mean.shape, *ones), weight.dtype)

    def fold(a: Array, mean: Array, shift: Array | None) -> Array:
        def expand(b: Any) -> Any:
            ones = (1,) * (a.ndim - mean.ndim)
            return None if b is None else b.reshape(*mean.shape, *ones)

        affine = expand(norm.weight), expand(shift)
        return normalize(a, expand(mean), expand(variance), norm.eps, *affine)

    new = (fold(weight, jnp.zeros_like(mean), None), fold(bias, mean, norm.bias))
    return tree_at(lambda m: (m.weight, m.bias, m.use_bias), layer, (*new, True))


def _statistics(norm: BatchNorm) -> Any:
    return norm.ema_state_index if norm.mode == "ema" else norm.batch_state_index


def _check_sizes(tree: PyTree, layer: Any, norm: BatchNorm, mean: Array) -> None:
    """Refuses what cannot stand behind another; stacks have more axes in front."""
    num_axes = 2 + getattr(layer, "num_spatial_dims", 0)
    channels = layer.weight.shape[: layer.weight.ndim - num_axes + 1]
    if mean.shape != channels:
        raise TreeError(
            report(
                f"fold_norms: `{place_of(tree, norm)}` does not fit "
                f"`{place_of(tree, layer)}`.",
                expected=f"statistics of shape {channels}, one for each output",
                got=f"{mean.shape}",
            )
        )


def _neighbors(tree: PyTree) -> _Pairs:
    """All pairs of layers that some Sequential calls one after the other."""
    sequentials = [x for x in nodes_of(tree) if is_called_as(x, Sequential)]
    chains = map(_chain, sequentials)
    pairs = (pair for chain in chains for pair in itertools.pairwise(chain))
    # A Sequential in another one is seen twice.
    found = {id(pair[1]): pair for pair in pairs if _can_fold(*pair)}
    if not found:
        raise TreeError(
            report(
                "fold_norms: there is nothing to fold.",
                expected="a Linear, Conv or ConvTranspose directly in front of a "
                "BatchNorm, in a Sequential",
                got=f"{type(tree).__name__} with {len(sequentials)} Sequential(s), "
                "none with such a pair",
                fix="bake(model, state) before; or name layers of other Modules, "
                "pairs=lambda m: [(m.conv, m.norm)]",
            )
        )
    return list(found.values())


def _chain(layer: Any) -> list[Any]:
    """The layers that a Sequential calls, those of inner ones included."""
    if is_called_as(layer, Sequential):
        return [x for inner in layer.layers for x in _chain(inner)]
    return [] if is_called_as(layer, Identity) else [layer]


def _can_fold(layer: Any, norm: Any) -> bool:
    is_linear = is_called_as(layer, Linear, Conv, ConvTranspose)
    return is_linear and is_called_as(norm, BatchNorm)


def _named(tree: PyTree, pairs: Any) -> _Pairs:
    """The pairs, if they are pairs of layers of the tree, each layer in one of them."""
    is_list = isinstance(pairs, list | tuple) and len(pairs) > 0
    if not is_list or not all(isinstance(p, tuple) and len(p) == 2 for p in pairs):
        expected = "a list of tuples (layer, norm)"
        raise _bad_pairs("something else than pairs", expected, short(repr(pairs)))
    nodes = nodes_of(tree)
    known = {id(x) for x in nodes}
    wrappers = [x for x in nodes if isinstance(x, SpectralNorm | WeightNorm)]
    wrapped = {id(x) for wrapper in wrappers for x in (wrapper, wrapper.layer)}
    used: set[int] = set()
    for layer, norm in pairs:
        both = (layer, norm)
        got = ", ".join(f"{type(x).__name__} {place_of(tree, x)}".strip() for x in both)
        if not known.issuperset(map(id, both)):
            expected = "nodes of the model that it is called with"
            raise _bad_pairs("a layer that is not in the model", expected, got)
        if id(layer) in wrapped:
            expected = "a layer with a plain weight"
            fix = "model, state = bake(model, state)"
            raise _bad_pairs("a normalized layer", expected, got, fix)
        if not _can_fold(*both):
            expected = "a Linear, Conv or ConvTranspose, and a BatchNorm"
            raise _bad_pairs("layers that cannot be folded", expected, got)
        if id(layer) in used:
            expected = "at most one norm behind each layer"
            raise _bad_pairs("a layer twice", expected, got)
        used.add(id(layer))
    return pairs


def _bad_pairs(what: str, expected: str, got: str, fix: str = "") -> TreeError:
    title = f"fold_norms: `pairs` gives {what}."
    return TreeError(report(title, expected=expected, got=got, fix=fix))
