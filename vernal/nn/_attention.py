"""Attention with several heads."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from .._module.fields import field
from .._module.module import Module
from ..typing import DTypeLike, Key
from ._checks import (
    check_floating,
    check_shape,
    fail,
    is_number,
    is_size,
    require,
    require_key,
)
from ._init import default_dtype
from ._linear import Linear
from ._numerics import compute_dtype
from ._simple import Dropout

Heads = Float[Array, "length num_heads size"]
ProcessHeads = Callable[[Heads, Heads, Heads], tuple[Heads, Heads, Heads]]
Mask = (
    Bool[Array, "query_length kv_length"]
    | Bool[Array, "num_heads query_length kv_length"]
)


class MultiheadAttention(Module):
    r"""Lets each entry of one sequence gather from another what is relevant to it.

    $$y = \sum_i \mathrm{softmax}\left(
    \frac{(Q W^Q_i) (K W^K_i)^\top}{\sqrt{d}}\right) (V W^V_i) W^O_i$$

    over the heads $i$, with $d$ = ``qk_size``; each product with a $W$ may add a bias.

    Takes a query ``(query_length, query_size)``, keys ``(kv_length, key_size)`` and
    values ``(kv_length, value_size)`` to ``(query_length, output_size)``. All three are
    the same array for self-attention. Use ``jax.vmap`` for a batch.

    Between the projections all is computed in at least float32; the output has the
    dtype of the query. A query that the mask lets attend to
    nothing gathers zeros, so that its output is the bias of ``output_proj``, or 0, and
    nothing is trained by it.

    In training, dropout sets weights of the softmax to zero, and needs a key.

    With fewer heads of keys and values than heads, ``num_kv_heads``, groups of
    ``num_heads / num_kv_heads`` neighboring heads ask the same keys and values
    (grouped-query attention, with 1 multi-query attention): there is less to compute,
    and less to keep in a :class:`CachedAttention`. The result is that of repeated
    heads, which are never made.

    Reference: Vaswani et al., *Attention Is All You Need*, 2017, arXiv:1706.03762. In
    PyTorch's layer all sizes per head follow from ``embed_dim``, there are four biases
    or none, and ``True`` in a mask *forbids* to attend. Flax's has biases unless told
    otherwise, and draws its parameters from a truncated normal. Groups: Ainslie et al.,
    *GQA*, 2023, arXiv:2305.13245; as ``enable_gqa`` of PyTorch's function.

    Arguments:
        num_heads: number of heads, at least 1.
        query_size: channels of the query.
        key_size: channels of the keys; by default ``query_size``.
        value_size: channels of the values; by default ``query_size``.
        output_size: channels of the output; by default ``query_size``.
        qk_size: channels of a head's queries and keys; by default
            ``query_size // num_heads``.
        vo_size: channels of a head's values; by default ``query_size // num_heads``.
        use_query_bias: whether the projection of the query adds a bias.
        use_key_bias: likewise for the keys. It shifts all products of a query alike,
            which the softmax does not see, unless ``process_heads`` changes the keys.
        use_value_bias: likewise for the values.
        use_output_bias: likewise for the output.
        dropout_p: probability to drop a weight of the softmax, in [0, 1].
        inference: whether dropout is off. See :func:`inference_mode`.
        dtype: of the parameters; by default float32 (float64 in 64-bit mode).
        num_kv_heads: number of heads of keys and values, a divisor of ``num_heads``;
            by default ``num_heads``.
        key: a PRNG key for the initial parameters.

    Attributes:
        query_proj, key_proj, value_proj: :class:`Linear` layers to all heads (of keys
            and values), one after the other.
        output_proj: the :class:`Linear` layer from all heads to the output.
        dropout: the :class:`Dropout` of the weights.

    Raises:
        HyperparameterError: an argument is outside its range.
        InputError: an input or the mask has another shape or dtype, ``process_heads``
            changes a shape, or a training call with dropout has no ``key``.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> attention = vn.nn.MultiheadAttention(4, 16, key=jax.random.key(0))
    >>> x = jnp.ones((10, 16))
    >>> causal = jnp.tril(jnp.ones((10, 10), bool))
    >>> attention(x, x, x, mask=causal).shape
    (10, 16)
    >>> batch = jnp.ones((3, 10, 16))
    >>> jax.vmap(attention)(batch, batch, batch).shape
    (3, 10, 16)
    """

    query_proj: Linear
    key_proj: Linear
    value_proj: Linear
    output_proj: Linear
    dropout: Dropout
    num_heads: int = field(static=True)
    query_size: int = field(static=True)
    key_size: int = field(static=True)
    value_size: int = field(static=True)
    output_size: int = field(static=True)
    qk_size: int = field(static=True)
    vo_size: int = field(static=True)
    use_query_bias: bool = field(static=True)
    use_key_bias: bool = field(static=True)
    use_value_bias: bool = field(static=True)
    use_output_bias: bool = field(static=True)
    num_kv_heads: int = field(static=True)

    def __init__(
        self,
        num_heads: int,
        query_size: int,
        key_size: int | None = None,
        value_size: int | None = None,
        output_size: int | None = None,
        qk_size: int | None = None,
        vo_size: int | None = None,
        use_query_bias: bool = False,
        use_key_bias: bool = False,
        use_value_bias: bool = False,
        use_output_bias: bool = False,
        dropout_p: float = 0.0,
        inference: bool = False,
        dtype: DTypeLike | None = None,
        *,
        num_kv_heads: int | None = None,
        key: Key,
    ) -> None:
        self.num_heads = _size("num_heads", num_heads)
        self.num_kv_heads = _size("num_kv_heads", num_kv_heads, num_heads)
        ok = num_heads % self.num_kv_heads == 0
        expected = f"a divisor of num_heads = {num_heads}"
        require(ok, "MultiheadAttention", "num_kv_heads", expected, num_kv_heads)
        self.query_size = _size("query_size", query_size)
        self.key_size = _size("key_size", key_size, query_size)
        self.value_size = _size("value_size", value_size, query_size)
        self.output_size = _size("output_size", output_size, query_size)
        self.qk_size = _size("qk_size", qk_size, query_size // num_heads)
        self.vo_size = _size("vo_size", vo_size, query_size // num_heads)
        self.use_query_bias = use_query_bias
        self.use_key_bias = use_key_bias
        self.use_value_bias = use_value_bias
        self.use_output_bias = use_output_bias
        ok = is_number(dropout_p, maximum=1)
        expected = "a probability, from 0 to 1"
        require(ok, "MultiheadAttention", "dropout_p", expected, dropout_p)
        dtype = default_dtype(dtype)
        ok = jnp.issubdtype(dtype, jnp.floating)
        require(ok, "MultiheadAttention", "dtype", "a floating-point dtype", dtype)

        def linear(n: int, m: int, use_bias: bool, key: Key) -> Linear:
            return Linear(n, m, use_bias, dtype, key=key)

        require_key("MultiheadAttention", key)
        keys = jr.split(key, 4)
        qk, vo, groups = self.qk_size, self.vo_size, self.num_kv_heads
        self.query_proj = linear(query_size, num_heads * qk, use_query_bias, keys[0])
        self.key_proj = linear(self.key_size, groups * qk, use_key_bias, keys[1])
        self.value_proj = linear(self.value_size, groups * vo, use_value_bias, keys[2])
        self.output_proj = linear(
            num_heads * vo, self.output_size, use_output_bias, keys[3]
        )
        self.dropout = Dropout(dropout_p, inference)

    def __call__(
        self,
        query: Float[Array, "query_length query_size"],
        key_: Float[Array, "kv_length key_size"],
        value: Float[Array, "kv_length value_size"],
        mask: Mask | None = None,
        *,
        key: Key | None = None,
        inference: bool | None = None,
        deterministic: bool | None = None,
        process_heads: ProcessHeads | None = None,
    ) -> Float[Array, "query_length output_size"]:
        """Attends from one query sequence to one sequence of keys and values.

        Arguments:
            query: what asks, ``(query_length, query_size)``.
            key_: what is compared with it, ``(kv_length, key_size)``.
            value: what is gathered, ``(kv_length, value_size)``.
            mask: where a query may attend to a key: a bool array of the shape
                ``(query_length, kv_length)``, or with ``num_heads`` in front.
            key: a PRNG key for the dropout; needed in training if there is any.
            inference: whether dropout is off; overrides the layer's own flag, if not
                None.
            deterministic: an older name of ``inference``, which it overrides.
            process_heads: a function of the projected queries ``(query_length,
                num_heads, qk_size)``, keys ``(kv_length, num_kv_heads, qk_size)`` and
                values ``(kv_length, num_kv_heads, vo_size)``, which returns all three
                in the same shapes, such as with positions encoded in them. See
                :class:`RotaryPositionalEmbedding`.

        Returns:
            An array ``(query_length, output_size)`` of the dtype of the query.
        """
        _check_inputs(self, query, key_, value)
        _check_mask(self, mask, (query.shape[0], key_.shape[0]))
        heads = project_heads(self, query, key_, value, process_heads)
        inference = inference if deterministic is None else deterministic
        drop = functools.partial(
            drop_weights, self.dropout, key=key, inference=inference
        )
        return gather_heads(self, *heads, mask, drop).astype(query.dtype)


def project_heads(
    layer: MultiheadAttention,
    query: Array,
    key_: Array,
    value: Array,
    process_heads: ProcessHeads | None,
) -> tuple[Heads, Heads, Heads]:
    """Queries, keys and values of all heads, as ``process_heads`` leaves them."""
    heads = (
        _project(layer.query_proj, query, layer.num_heads, layer.qk_size),
        _project(layer.key_proj, key_, layer.num_kv_heads, layer.qk_size),
        _project(layer.value_proj, value, layer.num_kv_heads, layer.vo_size),
    )
    return heads if process_heads is None else _process(layer, process_heads, heads)


def gather_heads(
    layer: MultiheadAttention,
    query: Heads,
    key_: Heads,
    value: Heads,
    mask: Array | None,
    drop: Callable[[Array], Array] = lambda weights: weights,
) -> Float[Array, "query_length output_size"]:
    """The output from the heads; ``drop`` is what becomes of the softmax."""
    # Wide operands, not only a wide result: on CPU not every JAX has that product,
    # and little is lost elsewhere, as the weights are by far the largest array.
    q, k, v = (x.astype(compute_dtype(x.dtype)) for x in (query, key_, value))
    y = _attend(q, k, v, mask, drop).astype(value.dtype)
    y = y.reshape(query.shape[0], layer.num_heads * layer.vo_size)
    return jax.vmap(layer.output_proj)(y)


def _project(layer: Linear, x: Array, num_heads: int, size: int) -> Array:
    return jax.vmap(layer)(x).reshape(x.shape[0], num_heads, size)


def _attend(
    query: Array,
    key_: Array,
    value: Array,
    mask: Array | None,
    drop: Callable[[Array], Array],
) -> Array:
    """What each head gathers, ``(query_length, num_heads, size)``."""
    # Heads as pairs: `n` of keys and values, each for a group `g` of neighbors.
    length, heads, size = query.shape
    kv_length, kv_heads, out = value.shape
    group = heads // kv_heads
    query = query.reshape(length, kv_heads, group, size) / math.sqrt(size)
    products = jnp.einsum("qngd,knd->ngqk", query, key_)
    products = products.reshape(heads, length, kv_length)
    # Least, not infinite: a row of -inf would have the softmax 0/0, and no `where`
    # after it keeps that NaN out of the gradient.
    least = np.finfo(products.dtype).min
    if mask is not None:
        products = jnp.where(jnp.broadcast_to(mask, products.shape), products, least)
    weights = drop(jax.nn.softmax(products))
    weights = weights.reshape(kv_heads, group, length, kv_length)
    y = jnp.einsum("ngqk,knd->qngd", weights, value).reshape(length, heads, out)
    if mask is None:
        return y
    # A row without keys now has equal weights. To clear those would be one more array
    # of their size to keep. Nor is `mask` asked which rows these are: XLA takes
    # seconds to reduce it at compile time, if it is a constant.
    largest = jnp.max(
        lax.stop_gradient(products), axis=-1, keepdims=True, initial=least
    )
    return jnp.where((largest == least).swapaxes(0, 1), 0, y)


def drop_weights(
    dropout: Dropout, weights: Array, key: Key | None, inference: bool | None
) -> Array:
    """Dropout with a key for each head, so that the peer's keys drop the same."""
    if key is None:
        return dropout(weights, inference=inference)
    keys = jr.split(key, weights.shape[0])
    return jax.vmap(lambda w, k: dropout(w, key=k, inference=inference))(weights, keys)


def _size(name: str, size: Any, default: int | None = None) -> int:
    size = default if size is None else size
    expected = "an int ≥ 1"
    expected += "" if default is None else f" (by default {default})"
    require(is_size(size), "MultiheadAttention", name, expected, size)
    return int(size)


def _check_inputs(layer: MultiheadAttention, query: Any, key_: Any, value: Any) -> None:
    names = ("query", "key", "value")
    for name, x in zip(names, (query, key_, value), strict=True):
        check_floating(layer, x, name)
        size = f"{name}_size"
        length = "query_length" if name == "query" else "kv_length"
        sizes: dict[str, Any] = {size: getattr(layer, size)}
        check_shape(layer, x, f"{length} {size}", what=name, **sizes)
    if key_.shape[0] != value.shape[0]:
        fail(
            layer,
            "there must be as many values as keys",
            expected=f"a value of the shape ({key_.shape[0]}, {layer.value_size})",
            got=f"{tuple(value.shape)}, {value.dtype}",
        )


def _check_mask(layer: MultiheadAttention, mask: Any, lengths: tuple[int, int]) -> None:
    if mask is None:
        return
    has_dtype = hasattr(mask, "shape") and hasattr(mask, "dtype")
    fits = has_dtype and mask.shape in (lengths, (layer.num_heads, *lengths))
    if fits and mask.dtype == bool:
        return
    n, m = lengths
    fail(
        layer,
        "bad `mask`",
        expected=f"bool, ({n}, {m}) or with num_heads: ({layer.num_heads}, {n}, {m})",
        got=f"{tuple(mask.shape)}, {mask.dtype}" if has_dtype else type(mask).__name__,
        fix="mask.astype(bool), where True lets a query attend to a key"
        if fits
        else "",
    )


def _process(
    layer: MultiheadAttention,
    process_heads: ProcessHeads,
    heads: tuple[Array, Array, Array],
) -> tuple[Array, Array, Array]:
    shapes = [x.shape for x in heads]
    out: Any = process_heads(*heads)
    is_triple = isinstance(out, tuple | list) and len(out) == 3
    got = [getattr(x, "shape", None) for x in out] if is_triple else type(out).__name__
    if got != shapes:
        fail(
            layer,
            "`process_heads` must return query, key and value in their shapes",
            expected=f"{', '.join(map(str, shapes))}",
            got=", ".join(map(str, got)) if is_triple else f"{got}",
        )
    return out[0], out[1], out[2]
