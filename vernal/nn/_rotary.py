"""Positions encoded by rotation."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._module.fields import field
from .._module.module import Module
from ..errors import short
from ..typing import DTypeLike, Key
from ._checks import check_floating, check_shape, fail, is_number, is_size, require
from ._init import default_dtype
from ._numerics import compute_dtype


class RotaryPositionalEmbedding(Module):
    r"""Turns pairs of channels by angles that grow with the position.

    $$y_p + i \, y_{p + n/2} = (x_p + i \, x_{p + n/2}) \, e^{i \, t \, \omega_p},
    \qquad \omega_p = \theta^{-2 p / n}$$

    for the channels $p < n/2$ of the entry at position $t$, with $n$ =
    ``embedding_size``. The dot product of two entries that are turned so depends on
    their positions by the difference only: that is how attention learns distances.

    Takes one sequence ``(length, embedding_size)`` to the same shape; positions count
    from 0, or from ``start`` where a sequence comes in pieces. It has no parameters.
    The output has the dtype of the input, and is computed in at least float32. Sines
    and cosines are right to 4e-7 at any position below 10⁸; of angles that are products
    in float32, they would be off by 0.005 at 10⁵.

    Reference: Su et al., *RoFormer: Enhanced Transformer with Rotary Position
    Embedding*, 2021, arXiv:2104.09864. There the pairs are neighboring channels; here,
    as in most models in use, the two halves: a fixed permutation of the channels, which
    the projection before it can learn as well. Weights that were trained with the one
    need that permutation for the other.

    Arguments:
        embedding_size: channels of the input; even.
        theta: how slow the slowest rotation is, greater than 0: the last pair turns
            once in 2πθ / θ^(2/n) positions.
        dtype: of the sines and cosines.

    Raises:
        HyperparameterError: an argument is outside its range.
        InputError: the input has another shape, or is not real floating-point.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> rotary = vn.nn.RotaryPositionalEmbedding(4)
    >>> rotary(jnp.ones((10, 4))).shape
    (10, 4)

    In attention, queries and keys are turned, each head by itself:

    >>> attention = vn.nn.MultiheadAttention(2, 8, key=jax.random.key(0))
    >>> turn = jax.vmap(rotary, in_axes=1, out_axes=1)
    >>> x = jnp.ones((10, 8))
    >>> y = attention(x, x, x, process_heads=lambda q, k, v: (turn(q), turn(k), v))
    >>> y.shape
    (10, 8)
    """

    embedding_size: int = field(static=True)
    theta: float = field(static=True)
    dtype: jnp.dtype = field(static=True)

    def __init__(
        self,
        embedding_size: int,
        theta: float = 10_000.0,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        name = type(self).__name__
        ok = is_size(embedding_size, minimum=0) and embedding_size % 2 == 0
        require(ok, name, "embedding_size", "an even int ≥ 0", embedding_size)
        require(is_number(theta) and theta > 0, name, "theta", "a number > 0", theta)
        dtype = default_dtype(dtype)
        ok = jnp.issubdtype(dtype, jnp.floating)
        require(ok, name, "dtype", "a floating-point dtype", dtype)
        self.embedding_size = embedding_size
        self.theta = theta
        self.dtype = dtype

    @staticmethod
    def precompute_freqs_cis(
        embedding_size: int, end: int, theta: float, dtype: DTypeLike
    ) -> tuple[Float[Array, "end half_size"], Float[Array, "end half_size"]]:
        """Cosines and sines of ``t * theta**(-2 * p / embedding_size)``.

        Arguments:
            embedding_size: twice the number of frequencies.
            end: number of positions.
            theta: as above.
            dtype: of the result; it is computed in at least float32.

        Returns:
            Two arrays ``(end, embedding_size / 2)``.
        """
        pairs = np.arange(0, embedding_size, 2, dtype=np.float64)
        frequencies = float(theta) ** (-pairs / embedding_size)
        # A position is a multiple of `step` and a rest. NumPy knows the angles of both
        # in float64; the theorem of addition makes of these two short tables the
        # long one, which would be too large for a constant of the compiled program.
        step = math.isqrt(max(end - 1, 0)) + 1
        coarse = step * np.arange(-(-end // step))[:, None, None] * frequencies
        fine = np.arange(step)[None, :, None] * frequencies
        work = compute_dtype(default_dtype(dtype))
        a, b = (
            (jnp.asarray(np.cos(angle), work), jnp.asarray(np.sin(angle), work))
            for angle in (coarse, fine)
        )
        tables = a[0] * b[0] - a[1] * b[1], a[1] * b[0] + a[0] * b[1]
        shape = (len(coarse) * step, len(pairs))
        cos, sin = (x.reshape(shape)[:end].astype(dtype) for x in tables)
        return cos, sin

    @staticmethod
    def rotate_half(
        x: Float[Array, "length embedding_size"],
    ) -> Float[Array, "length embedding_size"]:
        """Turns all pairs by a quarter: ``(a, b)`` becomes ``(-b, a)``."""
        first, second = jnp.split(x, 2, axis=-1)
        return jnp.concatenate([-second, first], axis=-1)

    def __call__(
        self,
        x: Float[Array, "length embedding_size"],
        *,
        start: Int[Array, ""] | int | None = None,
        key: Key | None = None,
    ) -> Float[Array, "length embedding_size"]:
        """Turns one sequence.

        Arguments:
            x: the sequence, ``(length, embedding_size)``.
            start: the position of its first entry, at least 0; it may be traced. By
                default 0.
            key: not used.

        Returns:
            An array like ``x``.
        """
        check_floating(self, x)
        # To map over the first axis, as is usual, would take heads for positions.
        fix = "for (length, heads, size): jax.vmap(layer, in_axes=1, out_axes=1)"
        sizes: dict[str, Any] = {"embedding_size": self.embedding_size}
        check_shape(self, x, "length embedding_size", batch_fix=fix, **sizes)
        length, size = x.shape
        if start is None:
            tables = self.precompute_freqs_cis(size, length, self.theta, self.dtype)
        else:
            _check_start(self, start)
            steps = jnp.arange(length, dtype=jnp.int32)
            positions = jnp.asarray(start, jnp.int32) + steps
            tables = _tables_at(positions, size, self.theta, self.dtype)
        dtype = compute_dtype(x.dtype)
        cos, sin = (jnp.tile(table.astype(dtype), (1, 2)) for table in tables)
        wide = jnp.asarray(x, dtype)
        return (wide * cos + self.rotate_half(wide) * sin).astype(x.dtype)


DIGIT = 7  # bits of a position that are looked up together


def _tables_at(
    positions: Int[Array, " length"], size: int, theta: float, dtype: jnp.dtype
) -> tuple[Float[Array, "length half_size"], Float[Array, "length half_size"]]:
    """Cosines and sines at any positions below 2²⁸, as exact at large ones.

    A position is a sum of four digits with their places. NumPy knows the angles of all
    digits in float64, and the theorem of addition puts them together.
    """
    frequencies = float(theta) ** (-np.arange(0, size, 2, dtype=np.float64) / size)
    work = compute_dtype(dtype)
    shape = (len(positions), size // 2)
    cos, sin = jnp.ones(shape, work), jnp.zeros(shape, work)
    for place in range(4):
        digits = positions >> (DIGIT * place) & (2**DIGIT - 1)
        angles = np.arange(2**DIGIT)[:, None] * frequencies * 2.0 ** (DIGIT * place)
        a = jnp.asarray(np.cos(angles), work)[digits]
        b = jnp.asarray(np.sin(angles), work)[digits]
        cos, sin = cos * a - sin * b, sin * a + cos * b
    return cos.astype(dtype), sin.astype(dtype)


def _check_start(layer: RotaryPositionalEmbedding, start: Any) -> None:
    is_traced = getattr(start, "shape", None) == ()
    if is_size(start, 0) or (is_traced and jnp.issubdtype(start.dtype, jnp.integer)):
        return
    fail(
        layer,
        "`start` is not a position",
        expected="an int ≥ 0, or an array () of integers",
        got=short(repr(start)),
        fix="for rows with positions of their own, jax.vmap",
    )
