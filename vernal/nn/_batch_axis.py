"""What layers that normalize by a batch share: their input, and what is in the batch.

With ``axis_name=None`` the input is a whole batch, ``(batch, channels, *spatial)``, and
else one example without the first axis.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from .._module.module import Module
from ..typing import Array
from ._axes import count_examples
from ._batch_moments import (
    Groups,
    Moments,
    batch_moments,
    group_of,
    whole_batch_moments,
)
from ._checks import (
    check_array,
    check_floating,
    check_shape,
    check_state,
    fail,
    is_number,
    is_size,
    require,
)
from ._numerics import axis_names, normalize
from ._running import Pair, select


def check_input(layer: Any, x: Any, state: Any, mask: Any) -> Array | None:
    """Checks the arguments of a call; gives the mask, of the shape of a channel."""
    is_whole = layer.axis_name is None
    dims = "batch input_size ..." if is_whole else "input_size ..."
    check_shape(layer, x, dims, input_size=layer.input_size)
    check_floating(layer, x)
    check_state(layer, state)
    if mask is None:
        return None
    shape = (*x.shape[:1], *x.shape[2:]) if is_whole else x.shape[1:]
    return read_mask(layer, mask, shape, is_whole)


def normalize_channels(
    layer: Any, x: Array, moments: Pair, weight: Array | None, bias: Array | None
) -> Array:
    """Normalizes the input of a layer, whole batch or not, by values per channel."""
    before = [1] if layer.axis_name is None else []
    after = [1] * (x.ndim - 1 - len(before))

    def per_channel(a: Array) -> Array:
        return a.reshape(*before, -1, *after)

    affine = [None if a is None else per_channel(a) for a in (weight, bias)]
    mean, variance = map(per_channel, moments)
    return normalize(x, mean, variance, layer.eps, *affine)


def check_sizes(layer: str, input_size: Any, eps: Any, channelwise_affine: Any) -> None:
    """Refuses constructor arguments that all these layers have."""
    require(is_size(input_size), layer, "input_size", "an int ≥ 1", input_size)
    require(is_number(eps), layer, "eps", "a number ≥ 0", eps)
    ok, name = isinstance(channelwise_affine, bool), "channelwise_affine"
    require(ok, layer, name, "True or False", channelwise_affine)


def read_groups(
    layer: str, groups: Sequence[Sequence[int]] | None, axis_name: Any
) -> Groups | None:
    """Groups of positions, as they are kept: together each position once."""
    if groups is None:
        return None
    name, expected = "axis_index_groups", "lists that hold 0 to n - 1, each once"
    several: Any = (list, tuple)
    ok = isinstance(groups, several) and all(isinstance(x, several) for x in groups)
    require(ok and all(groups), layer, name, expected, groups)
    numbers = [x for group in groups for x in group]
    ok = all(is_size(x, 0) for x in numbers)
    ok = ok and sorted(numbers) == list(range(len(numbers))) != []
    require(ok, layer, name, expected, groups)
    expected = "None, where axis_name is None"
    require(axis_name is not None, layer, name, expected, groups)
    return tuple(tuple(int(x) for x in group) for group in groups)


def read_mask(layer: Module, mask: Any, shape: tuple[int, ...], whole: bool) -> Array:
    """A mask of the shape of the values of one channel.

    Arguments:
        layer: the layer, for the message.
        mask: a bool, or an array that broadcasts to ``shape``.
        shape: ``spatial``; or for a whole batch ``(batch, *spatial)``, where the mask
            has the batch axis too.
        whole: whether it is a whole batch.
    """
    mask = jnp.asarray(mask) if isinstance(mask, bool) else mask
    check_array(layer, mask, "mask")
    head, rest = (mask.shape[:1], mask.shape[1:]) if whole else ((), mask.shape)
    spare = len(shape) - len(head) - len(rest)
    full = (*head, *[1] * spare, *rest)
    sizes = zip(full, shape, strict=False)
    ok = spare >= 0 and len(full) == len(shape)
    ok = ok and all(n in (1, m) for n, m in sizes)
    if not ok or mask.dtype != bool:
        names = "(batch,) or (batch, *spatial)" if whole else "() or (*spatial)"
        fail(
            layer,
            "the mask does not fit the input",
            expected=f"booleans of shape {names}, that broadcast to {shape}",
            got=f"{tuple(mask.shape)}, {mask.dtype}",
            fix="numbers: mask != 0" if ok else "",
        )
    return jnp.broadcast_to(jnp.asarray(mask).reshape(full), shape)


def statistics(
    layer: Any,
    x: Array,
    running: Pair,
    mask: Array | None,
    groups: Groups | None = None,
) -> tuple[Pair, Moments]:
    """Mean and variance to normalize ``x`` by in training, and those of the batch.

    Where fewer than two values count, the running averages are used.

    Arguments:
        layer: has ``axis_name`` and ``input_size``.
        x: one example, or the whole batch.
        running: the running mean and variance.
        mask: where values count; None for everywhere.
        groups: positions on the last named axis that are batches of their own.

    Raises:
        InputError: the batch has fewer than two values per channel.
        AxisNameError: no axis of that name is in scope.
    """
    examples = count_examples(layer)
    names = axis_names(layer.axis_name)
    if groups is not None:
        size = lax.psum(1, names[-1])
        _check_groups(layer, groups, names[-1], size)
        examples = examples // size * min(map(len, groups))
    if x.size // layer.input_size * examples < 2:
        part = "a group" if groups else "the batch"
        got = f"{examples} example(s) of shape {tuple(x.shape)}"
        fail(
            layer,
            f"{part} has fewer than two values per channel",
            expected="at least two values, over examples and spatial axes",
            got=got if layer.axis_name is not None else f"{tuple(x.shape)}",
            fix="use a larger batch, or `inference_mode`",
        )
    if layer.axis_name is None:
        batch = whole_batch_moments(x, running[0], mask)
    else:
        batch = batch_moments(x, names, running[0], mask, groups)
    own = batch
    if groups is not None:
        group = group_of(groups, names)
        own = Moments(*(jnp.asarray(a)[group] for a in batch))
    return (own[:2] if mask is None else select(own, own[:2], running)), batch


def _check_groups(layer: Module, groups: Groups, name: Hashable, size: int) -> None:
    count = sum(map(len, groups))
    if count != size:
        fail(
            layer,
            "the groups do not make up the axis",
            expected=f"{count} positions on the axis {name!r}, as in axis_index_groups",
            got=f"{size}",
        )
