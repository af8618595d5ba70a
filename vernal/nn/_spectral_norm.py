"""Spectral normalization."""

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jaxtyping import Array, Float

from .._module.fields import field
from .._state.index import StateIndex
from .._state.state import State
from .._transform.vmap import filter_vmap
from ..typing import Key
from ._checks import (
    check_state,
    is_number,
    is_size,
    require,
    require_key,
)
from ._linear_part import linear_part, require_linear
from ._merging import merge_to_first
from ._named_weight import check_weight, with_weight
from ._numerics import compute_dtype, gain, power_iteration, times
from ._stateful import StatefulLayer

_Layer = TypeVar("_Layer", bound=Callable[..., Any])

# How many iterations run at construction, so that σ is good at the first call. PyTorch
# takes 15. The singular values of a convolution lie close together, one for each
# frequency: after 15 iterations σ is 2 to 5 % off, after 100 mostly less than 0.3 %.
_STEPS, _OPERATOR_STEPS = 15, 100


class SpectralNorm(StatefulLayer, Generic[_Layer]):
    r"""Divides the weight of a layer by its largest singular value σ.

    $$\bar W = W / \sigma(W), \qquad \sigma(W) = u^\top W v$$

    A weight with more than two dimensions, such as that of a convolution, is taken as
    the matrix ``(shape[0], -1)``; that bounds the layer's operator norm only up to a
    factor. With ``input_shape`` σ is the operator norm itself: W in the equation is
    then the linear map from an input of that shape to the output (without the bias),
    with stride, dilation, groups and padding as they are. What it takes in each
    training call is three more applications of the layer to one example.

    Unit vectors u and v live in the state, in at least float32. Each training
    call moves them closer to the singular vectors by power iteration; in inference
    they stay. Gradients take u and v as constants. A weight of zeros is left as it is.

    References: Miyato, Kataoka, Koyama and Yoshida, *Spectral Normalization for
    Generative Adversarial Networks*, 2018, arXiv:1802.05957; for convolutions Gouk,
    Frank, Pfahringer and Cree, *Regularisation of Neural Networks by Enforcing
    Lipschitz Continuity*, 2021, arXiv:1804.04368. As in PyTorch, 15
    iterations run at construction; with ``input_shape``, which neither PyTorch nor
    Flax has, 100. Flax runs none, normalizes all kernels of a layer,
    and keeps σ beside u.

    Arguments:
        layer: the layer to wrap, called as ``layer(x)``.
        weight_name: the attribute of ``layer`` to normalize, usually ``"weight"``.
        num_power_iterations: iterations per training call, at least 0.
        eps: products shorter than this leave u and v as they are; at least 0.
        inference: leave u and v as they are. See :func:`inference_mode`.
        input_shape: the shape of one input, as ``(channels, height, width)``, to
            normalize by the operator norm on such inputs; None takes the matrix. The
            layer must be linear in its input and in its weight, up to a bias. Inputs
            of other sizes are allowed: for larger ones the norm can be a bit larger.
        key: a PRNG key, for the initial u and v.

    Attributes:
        layer: the wrapped layer, with its weight as it is trained.
        uv_index: the slot of ``(u, v)``: vectors, or with ``input_shape`` arrays of the
            shapes of an output and an input.
        change_index: with ``input_shape``, the slot of how much of σ the last iteration
            of the last training call has added, as a fraction of σ; else None. Where
            many singular values are nearly the largest, what is missing can be some
            hundred times that.

    Raises:
        HyperparameterError: an argument is outside its range; the layer has no such
            attribute, or it has less than two dimensions; the layer does not take
            inputs of ``input_shape``, or is not linear.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> k1, k2 = jax.random.split(jax.random.key(0))
    >>> linear = vn.nn.Linear(3, 4, key=k1)
    >>> make = vn.nn.make_with_state(vn.nn.SpectralNorm)
    >>> layer, state = make(linear, "weight", key=k2)
    >>> y, state = layer(jnp.ones(3), state)
    >>> y.shape
    (4,)
    >>> conv = vn.nn.Conv2d(3, 8, 3, padding=1, key=k1)
    >>> layer, state = make(conv, "weight", input_shape=(3, 16, 16), key=k2)
    >>> y, state = layer(jnp.ones((3, 16, 16)), state)
    >>> bool(state.get(layer.change_index) < 0.001)
    True
    """

    layer: _Layer
    uv_index: StateIndex[tuple[Float[Array, "..."], Float[Array, "..."]]]
    change_index: StateIndex[Float[Array, ""]] | None
    weight_name: str = field(static=True)
    num_power_iterations: int = field(static=True)
    eps: float = field(static=True)
    inference: bool = field(static=True, stored=True)
    input_shape: tuple[int, ...] | None = field(static=True)

    def __init__(
        self,
        layer: _Layer,
        weight_name: str,
        num_power_iterations: int = 1,
        eps: float = 1e-12,
        inference: bool = False,
        *,
        input_shape: Sequence[int] | None = None,
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
        self.input_shape = self._read_shape(input_shape)
        vectors, change = self._start(key)
        self.uv_index = StateIndex(vectors, merge=merge_to_first)
        self.change_index = None
        if change is not None:
            self.change_index = StateIndex(change, merge=merge_to_first)

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
        u, v = lax.stop_gradient(state.get(self.uv_index))
        if not inference and self.num_power_iterations > 0:
            operand, forward = self._linear_map()
            fixed, steps = lax.stop_gradient(operand), self.num_power_iterations
            if self.change_index is None:
                u, v = power_iteration(fixed, u, v, steps, self.eps, forward)
            else:
                old = power_iteration(fixed, u, v, steps - 1, self.eps, forward)
                u, v = power_iteration(fixed, *old, 1, self.eps, forward)
                change = _change(old[0], u, forward(fixed, v))
                state = state.set(self.change_index, change)
            state = state.set(self.uv_index, (u, v))
        return self._divided(u, v)(x), state

    def normalized(self, state: State) -> _Layer:
        """The layer with its weight divided by σ, for the u and v of the state."""
        return self._divided(*lax.stop_gradient(state.get(self.uv_index)))

    def _divided(self, u: Array, v: Array) -> _Layer:
        def sigma(wrapper: SpectralNorm[_Layer], u: Array, v: Array) -> Array:
            operand, forward = wrapper._linear_map()
            return gain(operand, u, v, forward)

        find: Any = sigma
        for _ in range(
            v.ndim - (1 if self.input_shape is None else len(self.input_shape))
        ):
            find = filter_vmap(find)  # stacked parameters have more axes in front
        scale = find(self, u, v)
        weight = getattr(self.layer, self.weight_name)
        weight = _quotient(weight, scale)
        return with_weight(self.layer, self.weight_name, weight)

    def _linear_map(self) -> tuple[Any, Callable[[Any, Array], Array]]:
        """What σ is the norm of: W v is ``forward(operand, v)``."""
        if self.input_shape is not None:
            return linear_part(self.layer)
        weight = getattr(self.layer, self.weight_name)
        return weight.reshape(weight.shape[0], -1).astype(self._dtype()), times

    def _read_shape(self, shape: Any) -> tuple[int, ...] | None:
        if shape is None:
            return None
        ok = isinstance(shape, Sequence) and all(map(is_size, shape))
        require(ok, "SpectralNorm", "input_shape", "ints ≥ 1, as (3, 32, 32)", shape)
        x = jax.ShapeDtypeStruct(tuple(map(int, shape)), self._dtype())
        require_linear("SpectralNorm", "input_shape", self.layer, x)
        return x.shape

    def _dtype(self) -> Any:
        return compute_dtype(getattr(self.layer, self.weight_name).dtype)

    def _start(self, key: Key) -> tuple[tuple[Array, Array], Array | None]:
        """The first u and v, which are good ones, and how much they still change."""
        operand, forward = self._linear_map()
        operand, shape = lax.stop_gradient(operand), self.input_shape
        v = jax.ShapeDtypeStruct(
            operand.shape[1:] if shape is None else shape, self._dtype()
        )
        u = jax.eval_shape(forward, operand, v)
        pairs = zip(jr.split(key), (u, v), strict=True)
        x, y = (jr.normal(k, like.shape, like.dtype) for k, like in pairs)
        unit = (x / jnp.linalg.norm(x), y / jnp.linalg.norm(y))
        if shape is None:
            return power_iteration(operand, *unit, _STEPS, self.eps), None
        # One by one, as convolutions in compiled loops are slow on CPUs.
        is_compiled = isinstance(jnp.zeros(()), jax.core.Tracer)
        most = _OPERATOR_STEPS - 1
        for count in [most] if is_compiled else most * [1]:
            unit = power_iteration(operand, *unit, count, self.eps, forward)
        new = power_iteration(operand, *unit, 1, self.eps, forward)
        return new, _change(unit[0], new[0], forward(operand, new[1]))


@jax.jit
def _quotient(weight: Array, scale: Array) -> Array:
    """The weight divided by σ; by one σ for each layer of a stack."""
    scale = scale.reshape(scale.shape + (1,) * (weight.ndim - scale.ndim))
    return weight.astype(scale.dtype) / jnp.where(scale == 0, 1, scale)


def _change(old: Array, u: Array, product: Array) -> Array:
    """What one iteration adds to σ, as a fraction of it.

    ``old``, the u before, gave v as Mᵀu / |Mᵀu|; so its product with M v is |Mᵀu|, the
    estimate of σ that lies between the two.
    """
    change = 1 - jnp.sum(old * product) / jnp.sum(u * product)
    return jnp.where(jnp.isfinite(change), jnp.clip(change, 0, 1), 1)


def _check_numbers(steps: Any, eps: Any) -> None:
    is_count = is_size(steps, 0)
    require(is_count, "SpectralNorm", "num_power_iterations", "an int ≥ 0", steps)
    require(is_number(eps), "SpectralNorm", "eps", "a number ≥ 0", eps)
