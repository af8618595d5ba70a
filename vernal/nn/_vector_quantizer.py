"""Vectors replaced by the nearest of a learned codebook."""

from collections.abc import Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jax.scipy.special import xlogy
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from .._module.fields import field
from .._state.index import StateIndex
from .._state.state import State
from ..typing import AxisName, DTypeLike, Key
from ._axes import count_examples, position, require_axis_name
from ._batch_moments import sum_over
from ._checks import (
    check_floating,
    check_shape,
    check_state,
    fail,
    is_key,
    is_number,
    is_size,
    require,
    require_key,
)
from ._init import default_dtype, uniform_fan_in
from ._numerics import axis_names, compute_dtype
from ._running import blend, running_rate
from ._stateful import StatefulLayer


class Quantized(NamedTuple):
    """What :class:`VectorQuantizer` returns for one example.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> make = vn.nn.make_with_state(vn.nn.VectorQuantizer)
    >>> quantizer, state = make(16, 4, axis_name="batch", key=jax.random.key(0))
    >>> out, state = vn.nn.batched(quantizer)(jnp.ones((8, 4)), state)
    >>> isinstance(out, vn.nn.Quantized), out.loss.shape
    (True, (8,))
    """

    vectors: Float[Array, "code_size *spatial"]
    codes: Int[Array, " *spatial"]
    loss: Float[Array, ""]
    perplexity: Float[Array, ""]


class Codebook(NamedTuple):
    """The codes, and how many vectors of a batch choose each of them on average."""

    steps: Int[Array, ""]
    sizes: Float[Array, " num_codes"]
    vectors: Float[Array, "num_codes code_size"]


class VectorQuantizer(StatefulLayer):
    r"""Replaces each vector by the nearest one of a codebook, which it learns.

    $$q(z) = e_k, \qquad k = \arg\min_i \lVert z - e_i \rVert^2$$

    Gradients pass straight through: those of $q(z)$ become those of $z$. The encoder is
    held near the codes by a loss, to be added to that of the model with a weight
    $\beta$, 0.25 in the paper:

    $$\mathrm{loss} = \frac{1}{\mathrm{size}} \lVert z - \mathrm{sg}[q(z)] \rVert^2$$

    The codebook is no parameter. It lives in the state, and each training step moves
    every code to the exponential moving average of the vectors that chose it, with
    $n_k$ of them in the batch, of sum $s_k$:

    $$N_k \leftarrow \gamma N_k + (1 - \gamma) n_k, \quad
    m_k \leftarrow \gamma m_k + (1 - \gamma) s_k, \quad e_k \leftarrow m_k / N_k$$

    over all examples on the named axes. What is stored are $e_k$ and $N_k$, the latter
    with the correction of its bias, and the first step takes the means of its batch. So
    a code that nothing chooses stays where it is, where $m_k / N_k$ would become 0 / 0,
    or drift to the origin under the usual Laplace smoothing of $N_k$.

    Codes that are hardly chosen can be revived: where $N_k$ is less than
    ``revive_below``, the code is replaced by a random vector of the batch, before the
    batch is quantized. So is the whole codebook at the first step, which makes its
    random initial values irrelevant. This needs a key in training; under ``vmap`` each
    example may have its own.

    The layer takes one example ``(code_size, *spatial)`` and is called under
    ``jax.vmap(..., axis_name="batch", in_axes=(0, None), out_axes=(0, None))``.
    In inference nothing changes. All is computed in at least float32; ``vectors`` are
    exactly the codes, in the dtype of the input. Vectors that are not finite change no
    code.

    Reference: van den Oord, Vinyals and Kavukcuoglu, *Neural Discrete Representation
    Learning*, 2017, arXiv:1711.00937, appendix A.1; Razavi, van den Oord and Vinyals,
    *Generating Diverse High-Fidelity Images with VQ-VAE-2*, 2019, arXiv:1906.00446; the
    revival is that of Dhariwal et al., *Jukebox*, 2020, arXiv:2005.00341, and Zeghidour
    et al., *SoundStream*, 2021, arXiv:2107.03312. PyTorch and Flax have no such layer;
    Sonnet's loss is multiplied by $\beta$, and its perplexity is that of the batch.

    Arguments:
        num_codes: number of codes, at least 1.
        code_size: the size of each.
        axis_name: the name of the batch axis, or several names.
        decay: $\gamma$, the weight of the past, in [0, 1].
        revive_below: codes with fewer vectors per batch, on average, are replaced; at
            least 0, which replaces none. It should be well below the mean, which is
            the number of vectors in a batch divided by ``num_codes``.
        inference: leave the codebook as it is. See :func:`inference_mode`.
        dtype: of the codebook, at least float32; by default float32 (float64 in 64-bit
            mode).
        key: a PRNG key, for the initial codes: uniform on ±1/√code_size.

    Attributes:
        codebook_index: the slot of ``steps``, ``sizes`` and ``vectors``.

    Raises:
        HyperparameterError: an argument is outside its range.
        InputError: wrong size, not real floating-point, or a missing key.
        AxisNameError: no axis of that name is in scope.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> make = vn.nn.make_with_state(vn.nn.VectorQuantizer)
    >>> quantizer, state = make(16, 4, axis_name="batch", key=jax.random.key(0))
    >>> images = jax.random.normal(jax.random.key(1), (8, 4, 5, 5))
    >>> out, state = vn.nn.batched(quantizer)(images, state)
    >>> out.vectors.shape, out.codes.shape
    ((8, 4, 5, 5), (8, 5, 5))
    >>> quantizer.decode(out.codes[0], state).shape
    (4, 5, 5)
    """

    codebook_index: StateIndex[Codebook]
    num_codes: int = field(static=True)
    code_size: int = field(static=True)
    axis_name: Hashable = field(static=True)
    decay: float = field(static=True)
    revive_below: float = field(static=True)
    inference: bool = field(static=True, stored=True)

    def __init__(
        self,
        num_codes: int,
        code_size: int,
        axis_name: AxisName,
        decay: float = 0.99,
        revive_below: float = 0.0,
        inference: bool = False,
        dtype: DTypeLike | None = None,
        *,
        key: Key,
    ) -> None:
        def check(ok: bool, name: str, expected: str, got: Any) -> None:
            require(ok, "VectorQuantizer", name, expected, got)

        check(is_size(num_codes), "num_codes", "an int ≥ 1", num_codes)
        check(is_size(code_size), "code_size", "an int ≥ 1", code_size)
        ok = is_number(decay, maximum=1)
        check(ok, "decay", "a number from 0 to 1", decay)
        check(is_number(revive_below), "revive_below", "a number ≥ 0", revive_below)
        dtype = default_dtype(dtype)
        is_real = jnp.issubdtype(dtype, jnp.floating)
        check(is_real, "dtype", "a real floating dtype", dtype)
        require_key("VectorQuantizer", key)
        stored = compute_dtype(dtype)
        vectors = uniform_fan_in(key, (num_codes, code_size), stored, code_size)
        sizes = jnp.zeros(num_codes, stored)
        self.codebook_index = StateIndex(
            Codebook(jnp.array(0, jnp.int32), sizes, vectors)
        )
        self.num_codes = num_codes
        self.code_size = code_size
        self.axis_name = require_axis_name("VectorQuantizer", axis_name)
        self.decay = float(decay)
        self.revive_below = float(revive_below)
        self.inference = inference

    def __call__(
        self,
        x: Float[Array, "code_size *spatial"],
        state: State,
        *,
        key: Key | None = None,
        inference: bool | None = None,
    ) -> tuple[Quantized, State]:
        """Quantizes one example of the batch, and moves the codes.

        Arguments:
            x: one example, ``(code_size, *spatial)``.
            state: the state of the model.
            key: a PRNG key, needed in training if ``revive_below`` is not 0.
            inference: overrides the field of that name, if not None.

        Returns:
            :class:`Quantized` and the new state. ``vectors`` has the shape and dtype of
            the example, and ``codes`` its spatial shape; they are by the codebook
            before it moves. ``loss`` is that of this example. ``perplexity`` is the
            exponential of the entropy of the (average) ``sizes``: as many codes are in
            use, in effect; 1 before any training.
        """
        check_shape(self, x, "code_size ...", code_size=self.code_size)
        check_floating(self, x)
        check_state(self, state)
        inference = self.inference if inference is None else inference
        book = state.get(self.codebook_index)
        dtype = np.promote_types(compute_dtype(x.dtype), book.vectors.dtype)
        rows = jnp.moveaxis(x, 0, -1).reshape(-1, self.code_size).astype(dtype)
        fixed = lax.stop_gradient(rows)
        if not inference:
            count_examples(self)
        if not inference and self.revive_below > 0:
            book = self._revived(fixed, book, key)
        codes = _nearest(fixed, book.vectors.astype(dtype))
        chosen = lax.stop_gradient(_take(book.vectors, codes)).astype(dtype)
        if not inference:
            book = self._moved(fixed, codes, book)
            state = state.set(self.codebook_index, book)
        spatial = x.shape[1:]
        vectors = jnp.moveaxis(chosen.reshape(*spatial, self.code_size), -1, 0)
        # In this order the value is exactly that of the code.
        through = vectors.astype(x.dtype) + (x - lax.stop_gradient(x))
        loss = jnp.mean(jnp.square(rows - chosen))
        used = _perplexity(book.sizes)
        return Quantized(through, codes.reshape(spatial), loss, used), state

    def decode(
        self, codes: Int[Array, " *spatial"], state: State
    ) -> Float[Array, "code_size *spatial"]:
        """The vectors of given codes; NaN for one outside of the codebook.

        Arguments:
            codes: integers from 0 to ``num_codes - 1``, of any shape.
            state: the state of the model.

        Raises:
            InputError: the codes are not integers, or outside of the codebook and not
                traced.
        """
        check_state(self, state)
        _check_codes(self, codes)
        codes = jnp.asarray(codes).astype(jnp.int32)
        inside = (codes >= 0) & (codes < self.num_codes)
        vectors = state.get(self.codebook_index).vectors
        vectors = vectors[jnp.where(inside, codes, 0)]
        return jnp.moveaxis(jnp.where(inside[..., None], vectors, jnp.nan), -1, 0)

    def _moved(self, rows: Array, codes: Array, book: Codebook) -> Codebook:
        """The codebook after a training step, in one collective."""
        steps, dtype = book.steps + 1, book.vectors.dtype
        is_fine = jnp.isfinite(jnp.square(rows).sum(1, keepdims=True))
        chosen = jax.nn.one_hot(codes, self.num_codes, dtype=rows.dtype)
        chosen = jnp.where(is_fine, chosen, 0)
        rows = jnp.where(is_fine, rows, 0)
        sums = jnp.matmul(chosen.T, rows, precision="highest")
        both = jnp.concatenate([chosen.sum(0)[:, None], sums], axis=1)
        both = sum_over(both, axis_names(self.axis_name)).astype(dtype)
        count, sums = both[:, 0], both[:, 1:]
        rate = running_rate(steps, self.decay, dtype)
        sizes = blend(book.sizes, count, rate)
        is_chosen = count > 0
        rates = jnp.where(is_chosen, rate * count / jnp.where(is_chosen, sizes, 1), 0)
        means = sums / jnp.maximum(count, 1)[:, None]
        return Codebook(steps, sizes, blend(book.vectors, means, rates[:, None]))

    def _revived(self, rows: Array, book: Codebook, key: Key | None) -> Codebook:
        """The codebook with vectors of the batch in the place of dead codes.

        All examples must come to the same result: the random numbers are those of the
        first one, and the vector comes from that example in which the number falls.
        """
        if key is None or not is_key(key):
            fail(
                self,
                "the key is not a single PRNG key" if key is not None else "no key",
                expected="`key=` in training, as `revive_below` is not 0",
                got=f"{key}",
                fix="nn.batched(model)(xs, state, key=key); or inference_mode(model)",
            )
        names = axis_names(self.axis_name)
        place = position(self)
        numbers = jr.uniform(key, (self.num_codes,), jnp.float32)
        numbers = sum_over(jnp.where(place == 0, numbers, 0), names)
        total = rows.shape[0] * count_examples(self)
        picked = jnp.minimum((numbers * total).astype(jnp.int32), total - 1)
        picked = picked - place * rows.shape[0]
        is_here = ((picked >= 0) & (picked < rows.shape[0]))[:, None]
        samples = _take(rows, jnp.clip(picked, 0, rows.shape[0] - 1))
        samples = sum_over(jnp.where(is_here, samples, 0), names)
        samples = samples.astype(book.vectors.dtype)
        is_dead = book.sizes < self.revive_below
        is_dead &= jnp.isfinite(jnp.square(samples).sum(1))
        sizes = jnp.where(is_dead, self.revive_below, book.sizes)
        vectors = jnp.where(is_dead[:, None], samples, book.vectors)
        return Codebook(book.steps, sizes, vectors)


def _nearest(rows: Array, vectors: Array) -> Array:
    """The index of the nearest vector for each row.

    From ``|r - v|² = |r|² - 2 r·v + |v|²``, without the first term, which is the same
    for all. Both are centered before, as large terms with small differences cancel.
    """
    center = vectors.mean(0, keepdims=True)
    rows, vectors = rows - center, vectors - center
    products = jnp.matmul(rows, vectors.T, precision="highest")
    squares = jnp.square(vectors).sum(1)
    return jnp.argmin(squares[None] - 2 * products, axis=1).astype(jnp.int32)


def _take(rows: Array, indices: Array) -> Array:
    """The rows of these indices; on a mesh with explicit axes JAX asks how they lie."""
    mesh = jax.typeof(indices).sharding.mesh
    is_explicit = AxisType.Explicit in mesh.axis_types
    place = NamedSharding(mesh, PartitionSpec(None, None)) if is_explicit else None
    return rows.at[indices].get(out_sharding=place)


def _perplexity(sizes: Array) -> Array:
    total = sizes.sum()
    share = sizes / jnp.where(total > 0, total, 1)
    return jnp.exp(-xlogy(share, share).sum())


def _check_codes(layer: VectorQuantizer, codes: Any) -> None:
    dtype = jnp.result_type(codes)
    outside = False
    if jnp.issubdtype(dtype, jnp.integer) and not isinstance(codes, jax.core.Tracer):
        codes = np.asarray(codes)
        outside = bool(np.any((codes < 0) | (codes >= layer.num_codes)))
    if outside or not jnp.issubdtype(dtype, jnp.integer):
        fail(
            layer,
            "a code is outside of the codebook" if outside else "not integer codes",
            expected=f"integers from 0 to {layer.num_codes - 1}",
            got=f"{codes.min()} to {codes.max()}" if outside else f"{dtype}",
        )
