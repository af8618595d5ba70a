"""Causal attention that keeps the keys and values of what it has read."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._module.fields import field
from .._state.index import StateIndex
from ..typing import DTypeLike, Key
from ._attention import (
    Heads,
    MultiheadAttention,
    ProcessHeads,
    drop_weights,
    gather_heads,
    project_heads,
)
from ._checks import (
    check_floating,
    check_shape,
    check_state,
    fail,
    is_size,
    require,
)
from ._init import default_dtype
from ._rotary import RotaryPositionalEmbedding
from ._stateful import MaybeState, StatefulLayer

_Positions = Int[Array, " n"]
_Kept = Float[Array, "num_kv_heads entries size"]
_Cache = tuple[_Kept, _Kept]


class CachedAttention(StatefulLayer):
    r"""Causal self-attention that keeps the keys and values of what it has read.

    $$y_p = \mathrm{attention}(x_p;\; x_{\max(0,\, p - w + 1)}, \dots, x_p)$$

    at each position $p$ of a sequence, where $w$ = ``window``, or without limit. It
    takes the next entries ``(n, channels)`` of one sequence to ``(n, output_size)``, a
    whole prompt or a single token alike, and it has two ways to be called:

    - ``y, state = layer(x, state)`` goes on from where the state is. That is for
      generation: a token costs as much as the cache is long, not as all that came
      before would. Each row of a batch has its own position; see :func:`with_rows`,
      and :func:`reset_rows` for a row that begins anew.
    - ``y, _ = layer(x, None)`` takes ``x`` for a whole sequence, and needs no cache.
      That is for training. :class:`Stack`, :class:`Sequential` and :func:`batched`
      pass the None on, and return None for the state.

    Both give the same up to rounding, however the sequence is cut into pieces, and in
    both gradients flow within a call. The cache is kept as ``(num_kv_heads, length,
    size)`` for keys and for values; with a window it is a ring of ``window`` entries,
    and the sequence may be of any length.

    Where a token finds the cache full (without a window), its output and all later ones
    of its row are NaN, and the cache stays as it is: what was read cannot be lost
    unnoticed. ``vernal.error_if(y, jnp.isnan(y), ...)`` makes an error of it.

    References: Vaswani et al., *Attention Is All You Need*, 2017, arXiv:1706.03762, for
    causal attention; Shazeer, *Fast Transformer Decoding*, 2019, arXiv:1911.02150, for
    the cost of the cache; Beltagy et al., *Longformer*, 2020, arXiv:2004.05150, for the
    window. In Flax the cache is a variable of ``MultiHeadDotProductAttention`` in the
    mode ``decode``, which takes one token at a time, at one position for the batch.

    Arguments:
        attention: the attention, with one size of query, keys and values.
        length: how many entries the cache has; the longest sequence. Not with
            ``window``.
        window: how many entries a token attends to, itself included. Not with
            ``length``.
        rotary: turns queries and keys by their positions, which go on from call to
            call; of the size ``attention.qk_size``. Keys are kept turned.
        dtype: of the cache; by default float32 (float64 in 64-bit mode). bfloat16
            takes half the memory.

    Attributes:
        cache: the slot of the keys and values.
        position: the slot of the number of entries that were read.

    Raises:
        HyperparameterError: an argument is outside its range.
        InputError: the input has another shape, or more entries than the cache.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> class Block(vn.Module):
    ...     norm: vn.nn.RMSNorm
    ...     attention: vn.nn.CachedAttention
    ...
    ...     def __init__(self, key):
    ...         self.norm = vn.nn.RMSNorm(16)
    ...         heads = vn.nn.MultiheadAttention(4, 16, num_kv_heads=2, key=key)
    ...         rotary = vn.nn.RotaryPositionalEmbedding(4)
    ...         self.attention = vn.nn.CachedAttention(heads, 100, rotary=rotary)
    ...
    ...     def __call__(self, x, state):
    ...         y, state = self.attention(jax.vmap(self.norm)(x), state)
    ...         return x + y, state
    >>> make = vn.nn.make_with_state(vn.nn.Stack)
    >>> stack, state = make(Block, 2, key=jax.random.key(0))
    >>> call, xs = vn.nn.batched(stack), jnp.ones((3, 10, 16))
    >>> whole, _ = call(xs, None)  # in training
    >>> state = vn.nn.with_rows(state, 3)
    >>> first, state = call(xs[:, :9], state)  # the prompts
    >>> last, state = call(xs[:, 9:], state)  # the next tokens
    >>> bool(jnp.allclose(last, whole[:, 9:], atol=1e-5))
    True
    """

    attention: MultiheadAttention
    rotary: RotaryPositionalEmbedding | None
    cache: StateIndex[_Cache]
    position: StateIndex[Int[Array, ""]]
    length: int | None = field(static=True)
    window: int | None = field(static=True)

    def __init__(
        self,
        attention: MultiheadAttention,
        length: int | None = None,
        *,
        window: int | None = None,
        rotary: RotaryPositionalEmbedding | None = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        _check_arguments(attention, length, window, rotary)
        dtype = default_dtype(dtype)
        ok = jnp.issubdtype(dtype, jnp.floating)
        require(ok, "CachedAttention", "dtype", "a floating-point dtype", dtype)
        self.attention = attention
        self.rotary = rotary
        shape = (attention.num_kv_heads, length or window)
        # The heads come first: that is how products are taken of them, and another
        # order would be turned into this one at each step.
        sizes = (attention.qk_size, attention.vo_size)
        keys, values = (jnp.zeros((*shape, size), dtype) for size in sizes)
        self.cache = StateIndex((keys, values), per_row=True)
        self.position = StateIndex(jnp.array(0, jnp.int32), per_row=True)
        self.length = length
        self.window = window

    def __call__(
        self,
        x: Float[Array, "n channels"],
        state: MaybeState,
        *,
        count: Int[Array, ""] | int | None = None,
        key: Key | None = None,
        inference: bool | None = None,
        process_heads: ProcessHeads | None = None,
    ) -> tuple[Float[Array, "n output_size"], MaybeState]:
        """Attends from each entry to itself and those before it.

        Arguments:
            x: the next entries of one sequence, ``(n, channels)``.
            state: the state of the model; or None, where ``x`` is a whole sequence.
            count: how many entries there really are, from 0 to ``n``; may be traced.
                The others, at the end, are as if they were not there: so prompts of
                different lengths make one batch. By default all.
            key: a PRNG key for the dropout of ``attention``, if it has any.
            inference: whether dropout is off; overrides the flag, if not None.
            process_heads: as in :class:`MultiheadAttention`, for the entries of ``x``;
                it comes before ``rotary``. It must not depend on the position.

        Returns:
            An array ``(n, output_size)`` of the dtype of ``x``, and the new state, or
            None. What stands for an entry that is not there has no meaning.
        """
        check_shape(self, x, "n channels", channels=self.attention.query_size)
        check_floating(self, x)
        layer, n = self.attention, x.shape[0]
        heads = project_heads(layer, x, x, x, process_heads)
        steps = jnp.arange(n, dtype=jnp.int32)
        there = n if count is None else jnp.clip(jnp.asarray(count, jnp.int32), 0, n)
        if state is None:
            queries, (q, k, v) = steps, self._turned(heads, None)
            held = steps
        else:
            check_state(self, state)
            self._check_room(x)
            start = jnp.asarray(state.get(self.position))
            queries, (q, k, v) = start + steps, self._turned(heads, start)
            new = (k.swapaxes(0, 1), v.swapaxes(0, 1))
            k, v, held, cache = self._remember(new, state.get(self.cache), start, there)
            state = state.set(self.cache, cache)
            state = state.set(self.position, start + there)
        is_there = steps < there
        mask = self._sees(queries, held) & is_there[:, None]
        drop = functools.partial(
            drop_weights, layer.dropout, key=key, inference=inference
        )
        y = gather_heads(layer, q, k, v, mask, drop)
        if self.length is not None and state is not None:
            is_lost = is_there & (queries >= self.length)
            y = jnp.where(is_lost[:, None], jnp.nan, y)
        return y.astype(x.dtype), state

    def _turned(
        self, heads: tuple[Heads, Heads, Heads], start: Array | None
    ) -> tuple[Heads, Heads, Heads]:
        rotary = self.rotary
        if rotary is None:
            return heads

        def turn(x: Array) -> Array:
            return rotary(x, start=start)

        q, k = (jax.vmap(turn, in_axes=1, out_axes=1)(x) for x in heads[:2])
        return q, k, heads[2]

    def _remember(
        self, new: _Cache, old: _Cache, start: Array, there: Array | int
    ) -> tuple[Heads, Heads, _Positions, _Cache]:
        """Keys and values to attend to, their positions, and the new cache."""
        (_, size, _), n = old[0].shape, new[0].shape[1]
        steps = jnp.arange(n, dtype=jnp.int32)
        at = start + steps
        place = at if self.window is None else at % size
        # What is not there, or would be replaced by what follows, is put nowhere.
        is_kept = (steps < there) & (steps >= there - size)
        place = jnp.where(is_kept, place, size)
        entries = [x.astype(old[0].dtype) for x in new]
        keys, values = (
            jnp.asarray(kept).at[:, place].set(x, mode="drop")
            for kept, x in zip(old, entries, strict=True)
        )
        cache, held = (keys, values), self._positions(start + there, size)
        if self.window is not None and n > 1:
            # The first ones attend to what the last ones have replaced.
            held = jnp.concatenate([self._positions(start, size), at])
            pairs = zip(old, entries, strict=True)
            keys, values = (jnp.concatenate(pair, axis=1) for pair in pairs)
        k, v = (x.swapaxes(0, 1).astype(new[0].dtype) for x in (keys, values))
        return k, v, held, cache

    def _positions(self, end: Array, size: int) -> _Positions:
        """Which entries the cache has after ``end``; < 0 where there is none yet."""
        places = jnp.arange(size, dtype=jnp.int32)
        if self.window is None:
            return places  # what is not there yet comes after all who ask
        return end - 1 - (end - 1 - places) % size

    def _sees(
        self, queries: _Positions, held: _Positions
    ) -> Bool[Array, "query_length kv_length"]:
        """Which queries attend to which keys, by their positions."""
        queries, held = queries[:, None], held[None]
        sees = (held >= 0) & (held <= queries)
        return sees if self.window is None else sees & (held > queries - self.window)

    def _check_room(self, x: Array) -> None:
        if self.length is not None and len(x) > self.length:
            fail(
                self,
                "the input has more entries than the cache",
                expected=f"(n, channels) with n ≤ length = {self.length}",
                got=f"{tuple(x.shape)}, {x.dtype}",
                fix="a longer cache, or a `window`; for training layer(x, None)",
            )


def _check_arguments(attention: Any, length: Any, window: Any, rotary: Any) -> None:
    def check(ok: bool, name: str, expected: str, got: Any) -> None:
        require(ok, "CachedAttention", name, expected, got)

    ok = isinstance(attention, MultiheadAttention)
    check(ok, "attention", "a MultiheadAttention", attention)
    sizes = attention.query_size, attention.key_size, attention.value_size
    expected = "one size of query, keys and values"
    check(len(set(sizes)) == 1, "attention", expected, sizes)
    if length is None and window is None:
        check(False, "length", "an int ≥ 1, or else a `window`", None)
    for name, size in {"length": length, "window": window}.items():
        check(size is None or is_size(size), name, "an int ≥ 1", size)
    expected = "None where there is a `length`, as the window is one"
    check(length is None or window is None, "window", expected, window)
    if rotary is not None:
        ok = isinstance(rotary, RotaryPositionalEmbedding)
        check(ok, "rotary", "a RotaryPositionalEmbedding", rotary)
        ok = rotary.embedding_size == attention.qk_size
        expected = f"the size of a head's queries, {attention.qk_size}"
        check(ok, "rotary", expected, rotary.embedding_size)
