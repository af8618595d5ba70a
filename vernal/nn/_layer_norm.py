"""Normalization of a whole example: by mean and variance, or by mean square."""

from collections.abc import Sequence
from typing import Any, overload

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from .._module.fields import field
from .._module.module import Module
from .._state.state import State
from ..typing import DTypeLike, Key
from ._checks import check_whole_shape, is_number, read_shape, require
from ._init import default_dtype
from ._numerics import compute_dtype, moments, normalize

_UNSET: Any = object()


class LayerNorm(Module):
    r"""Normalizes an example to mean 0 and variance 1.

    $$y = \frac{x - \mathrm{E}[x]}{\sqrt{\mathrm{Var}[x] + \epsilon}} \gamma + \beta$$

    where mean and (biased) variance are taken over all of $x$, whose shape is given at
    construction; $\gamma$ and $\beta$ have that shape too. To normalize over the last
    axes only, use ``jax.vmap`` for the others: a sequence ``(length, channels)`` takes
    ``jax.vmap(LayerNorm(channels))``.

    Training and inference are the same. Statistics are taken in at least float32, and
    the output has the dtype of the input.

    Reference: Ba, Kiros and Hinton, *Layer Normalization*, 2016, arXiv:1607.06450.
    PyTorch's layer applies itself along leading axes; Flax's normalizes over the last
    axis unless told otherwise, has ``epsilon=1e-6``, and computes the variance in one
    pass, which is less exact where the mean is large.

    Arguments:
        shape: of the input, each size at least 1; an int stands for ``(shape,)``.
        eps: added to the variance, in its units; at least 0.
        use_weight: whether to learn the factor ``weight``.
        use_bias: whether to learn the summand ``bias``.
        dtype: of the parameters; by default float32 (float64 in 64-bit mode).
        elementwise_affine: an older name of ``use_weight`` and ``use_bias`` together,
            which it overrides if not None.

    Attributes:
        weight: ``shape``, initially 1; or None.
        bias: ``shape``, initially 0; or None.

    Raises:
        HyperparameterError: an argument is outside its range.
        InputError: the input has another shape, or is not real floating-point.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> norm = vn.nn.LayerNorm(8)
    >>> norm(jnp.arange(8.0)).shape
    (8,)
    >>> jax.vmap(norm)(jnp.ones((10, 8))).shape
    (10, 8)
    """

    weight: Float[Array, " *shape"] | None
    bias: Float[Array, " *shape"] | None
    shape: tuple[int, ...] = field(static=True)
    eps: float = field(static=True)
    use_weight: bool = field(static=True)
    use_bias: bool = field(static=True)

    def __init__(
        self,
        shape: int | Sequence[int],
        eps: float = 1e-5,
        use_weight: bool = True,
        use_bias: bool = True,
        dtype: DTypeLike | None = None,
        *,
        elementwise_affine: bool | None = None,
    ) -> None:
        if elementwise_affine is not None:
            use_weight = use_bias = elementwise_affine
        self.shape = read_shape("LayerNorm", shape)
        require(is_number(eps), "LayerNorm", "eps", "a number ≥ 0", eps)
        dtype = default_dtype(dtype)
        is_floating = jnp.issubdtype(dtype, jnp.floating)
        require(is_floating, "LayerNorm", "dtype", "a floating-point dtype", dtype)
        self.weight = jnp.ones(self.shape, dtype) if use_weight else None
        self.bias = jnp.zeros(self.shape, dtype) if use_bias else None
        self.eps = eps
        self.use_weight = use_weight
        self.use_bias = use_bias

    @overload
    def __call__(
        self, x: Float[Array, " *shape"], *, key: Key | None = None
    ) -> Float[Array, " *shape"]: ...
    @overload
    def __call__(
        self, x: Float[Array, " *shape"], state: State, *, key: Key | None = None
    ) -> tuple[Float[Array, " *shape"], State]: ...
    def __call__(
        self,
        x: Float[Array, " *shape"],
        state: State = _UNSET,
        *,
        key: Key | None = None,
    ) -> Float[Array, " *shape"] | tuple[Float[Array, " *shape"], State]:
        """Normalizes one example.

        Arguments:
            x: one example, of the shape given at construction.
            state: if given, it is returned as it is, so that this layer can stand in
                the place of :class:`BatchNorm`.
            key: not used.

        Returns:
            An array of the same shape and dtype; with a state, both.
        """
        check_whole_shape(self, x, self.shape)
        mean, variance = moments(x, tuple(range(x.ndim)))
        out = normalize(x, mean, variance, self.eps, self.weight, self.bias)
        return out if state is _UNSET else (out, state)


class RMSNorm(Module):
    r"""Divides an example by its root mean square.

    $$y = \frac{x}{\sqrt{\mathrm{E}[x^2] + \epsilon}} \gamma + \beta$$

    where the mean is taken over all of $x$, whose shape is given at construction. This
    is :class:`LayerNorm` without the centering: it costs one reduction less. To
    normalize over the last axes only, use ``jax.vmap`` for the others.

    Training and inference are the same. The mean square is taken in at least float32,
    and the output has the dtype of the input.

    Reference: Zhang and Sennrich, *Root Mean Square Layer Normalization*, 2019,
    arXiv:1910.07467. Neither the paper nor PyTorch's layer has a bias
    (``use_bias=False``). PyTorch's ``eps`` is by default the resolution of the dtype,
    Flax's is 1e-6.

    Arguments:
        shape: of the input, each size at least 1; an int stands for ``(shape,)``.
        eps: added to the mean square, in its units; at least 0.
        use_weight: whether to learn the factor ``weight``.
        use_bias: whether to learn the summand ``bias``.
        dtype: of the parameters; by default float32 (float64 in 64-bit mode).

    Attributes:
        weight: ``shape``, initially 1; or None.
        bias: ``shape``, initially 0; or None.

    Raises:
        HyperparameterError: an argument is outside its range.
        InputError: the input has another shape, or is not real floating-point.

    >>> import vernal as vn, jax.numpy as jnp
    >>> norm = vn.nn.RMSNorm((4, 8))
    >>> norm(jnp.ones((4, 8))).shape
    (4, 8)
    """

    weight: Float[Array, " *shape"] | None
    bias: Float[Array, " *shape"] | None
    shape: tuple[int, ...] = field(static=True)
    eps: float = field(static=True)
    use_weight: bool = field(static=True)
    use_bias: bool = field(static=True)

    def __init__(
        self,
        shape: int | Sequence[int],
        eps: float = 1e-5,
        use_weight: bool = True,
        use_bias: bool = True,
        dtype: DTypeLike | None = None,
    ) -> None:
        self.shape = read_shape("RMSNorm", shape)
        require(is_number(eps), "RMSNorm", "eps", "a number ≥ 0", eps)
        dtype = default_dtype(dtype)
        is_floating = jnp.issubdtype(dtype, jnp.floating)
        require(is_floating, "RMSNorm", "dtype", "a floating-point dtype", dtype)
        self.weight = jnp.ones(self.shape, dtype) if use_weight else None
        self.bias = jnp.zeros(self.shape, dtype) if use_bias else None
        self.eps = eps
        self.use_weight = use_weight
        self.use_bias = use_bias

    @overload
    def __call__(
        self, x: Float[Array, " *shape"], *, key: Key | None = None
    ) -> Float[Array, " *shape"]: ...
    @overload
    def __call__(
        self, x: Float[Array, " *shape"], state: State, *, key: Key | None = None
    ) -> tuple[Float[Array, " *shape"], State]: ...
    def __call__(
        self,
        x: Float[Array, " *shape"],
        state: State = _UNSET,
        *,
        key: Key | None = None,
    ) -> Float[Array, " *shape"] | tuple[Float[Array, " *shape"], State]:
        """Normalizes one example.

        Arguments:
            x: one example, of the shape given at construction.
            state: if given, it is returned as it is, so that this layer can stand in
                the place of :class:`BatchNorm`.
            key: not used.

        Returns:
            An array of the same shape and dtype; with a state, both.
        """
        check_whole_shape(self, x, self.shape)
        out = _divide_by_rms(x, self.eps, self.weight, self.bias)
        return out if state is _UNSET else (out, state)


def _divide_by_rms(
    x: Array, eps: float, weight: Array | None, bias: Array | None
) -> Array:
    dtype = compute_dtype(x.dtype)
    out = x.astype(dtype)
    out = out * lax.rsqrt(jnp.mean(jnp.square(out)) + eps)
    if weight is not None:
        out = out * weight.astype(dtype)
    if bias is not None:
        out = out + bias.astype(dtype)
    return out.astype(x.dtype)
