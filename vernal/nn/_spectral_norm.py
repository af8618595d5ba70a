"""Spectral normalization."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jaxtyping import Array, Float

from .._module.fields import field
from .._state.index import StateIndex
from .._state.state import State
from ..typing import Key
from ._checks import (
    check_state,
    is_number,
    is_size,
    require,
    require_key,
)
from ._merging import merge_to_first
from ._named_weight import check_weight, with_weight
from ._numerics import compute_dtype, power_iteration
from ._stateful import StatefulLayer

_Layer = TypeVar("_Layer", bound=Callable[..., Any])
_INITIAL_STEPS = 15  # as many as PyTorch takes, so that σ is good at the first call


class SpectralNorm(StatefulLayer, Generic[_Layer]):
    r"""Divides the weight of a layer by its largest singular value σ.

    $$\bar W = W / \sigma(W), \qquad \sigma(W) = u^\top W v$$

    A weight with more than two dimensions, such as that of a convolution, is taken as
    the matrix ``(shape[0], -1)``; that bounds the layer's operator norm only up to a
    factor. Unit vectors u and v live in the state, in at least float32. Each training
    call moves them closer to the singular vectors by power iteration; in inference
    they stay. Gradients take u and v as constants. A weight of zeros is left as it is.

    Reference: Miyato, Kataoka, Koyama and Yoshida, *Spectral Normalization for
    Generative Adversarial Networks*, 2018, arXiv:1802.05957. As in PyTorch, 15
    iterations run at construction. Flax runs none, normalizes all kernels of a layer,
    and keeps σ beside u.

    Arguments:
        layer: the layer to wrap, called as ``layer(x)``.
        weight_name: the attribute of ``layer`` to normalize, usually ``"weight"``.
        num_power_iterations: iterations per training call, at least 0.
        eps: products shorter than this leave u and v as they are; at least 0.
        inference: leave u and v as they are. See :func:`inference_mode`.
        key: a PRNG key, for the initial u and v.

    Attributes:
        layer: the wrapped layer, with its weight as it is trained.
        uv_index: the slot of ``(u, v)``.

    Raises:
        HyperparameterError: an argument is outside its range; the layer has no such
            attribute, or it has less than two dimensions.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> k1, k2 = jax.random.split(jax.random.key(0))
    >>> linear = vn.nn.Linear(3, 4, key=k1)
    >>> make = vn.nn.make_with_state(vn.nn.SpectralNorm)
    >>> layer, state = make(linear, "weight", key=k2)
    >>> y, state = layer(jnp.ones(3), state)
    >>> y.shape
    (4,)
    """

    layer: _Layer
    uv_index: StateIndex[tuple[Float[Array, " rows"], Float[Array, " columns"]]]
    weight_name: str = field(static=True)
    num_power_iterations: int = field(static=True)
    eps: float = field(static=True)
    inference: bool = field(static=True, stored=True)

    def __init__(
        self,
        layer: _Layer,
        weight_name: str,
        num_power_iterations: int = 1,
        eps: float = 1e-12,
        inference: bool = False,
        *,
        key: Key,
    ) -> None:
        check_weight("SpectralNorm", layer, weight_name, ndim=2)
        _check_numbers(num_power_iterations, eps)
        require_key("SpectralNorm", key)
        self.layer = layer
        self.weight_name = weight_name
        self.num_power_iterations = num_power_iterations
        self.eps = float(eps)
        self.inference = inference
        matrix = _matrix(getattr(self.layer, self.weight_name))
        u, v = (
            jr.normal(k, (n,), matrix.dtype)
            for k, n in zip(jr.split(key), matrix.shape, strict=True)
        )
        unit = (u / jnp.linalg.norm(u), v / jnp.linalg.norm(v))
        steps = power_iteration(lax.stop_gradient(matrix), *unit, _INITIAL_STEPS, eps)
        self.uv_index = StateIndex(steps, merge=merge_to_first)

    def __call__(
        self,
        x: Array,
        state: State,
        *,
        key: Key | None = None,
        inference: bool | None = None,
    ) -> tuple[Array, State]:
        """Calls the layer with its normalized weight.

        Arguments:
            x: the input of the layer.
            state: the state of the model.
            key: not used.
            inference: overrides the field of that name, if not None.

        Returns:
            The output of the layer and the new state.
        """
        check_state(self, state)
        inference = self.inference if inference is None else inference
        matrix = _matrix(getattr(self.layer, self.weight_name))
        u, v = lax.stop_gradient(state.get(self.uv_index))
        if not inference and self.num_power_iterations > 0:
            fixed = lax.stop_gradient(matrix)
            steps = self.num_power_iterations
            u, v = power_iteration(fixed, u, v, steps, self.eps)
            state = state.set(self.uv_index, (u, v))
        return self._divided(u, v)(x), state

    def normalized(self, state: State) -> _Layer:
        """The layer with its weight divided by σ, for the u and v of the state."""
        return self._divided(*lax.stop_gradient(state.get(self.uv_index)))

    def _divided(self, u: Array, v: Array) -> _Layer:
        weight = getattr(self.layer, self.weight_name)
        divide = _divide
        for _ in range(u.ndim - 1):  # stacked parameters have more axes in front
            divide = jax.vmap(divide)
        return with_weight(self.layer, self.weight_name, divide(weight, u, v))


def _matrix(weight: Array) -> Float[Array, "rows columns"]:
    dtype = compute_dtype(weight.dtype)
    return weight.reshape(weight.shape[0], -1).astype(dtype)


def _divide(weight: Array, u: Array, v: Array) -> Array:
    """The weight divided by σ = uᵀ W v."""
    matrix = _matrix(weight)
    product = jnp.matmul(matrix, v, precision="highest")
    sigma = jnp.vdot(u, product, precision="highest")
    return (matrix / jnp.where(sigma == 0, 1, sigma)).reshape(weight.shape)


def _check_numbers(steps: Any, eps: Any) -> None:
    is_count = is_size(steps, 0)
    require(is_count, "SpectralNorm", "num_power_iterations", "an int ≥ 0", steps)
    require(is_number(eps), "SpectralNorm", "eps", "a number ≥ 0", eps)
