"""Weight normalization."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from .._module.fields import field
from .._module.module import Module
from ..typing import Key
from ._checks import is_size, require
from ._named_weight import check_weight, with_weight
from ._numerics import compute_dtype

_Layer = TypeVar("_Layer", bound=Callable[..., Any])


class WeightNorm(Module, Generic[_Layer]):
    r"""Gives the weight of a layer a length g of its own, apart from its direction.

    $$w = g \, \frac{v}{\lVert v \rVert}$$

    where v is the weight that the layer has, and norms are over all axes but one: by
    default there is one length for each output. Both g and v are trained; at first g
    is ‖v‖, so that nothing changes. Norms are computed in at least float32, without
    overflow. Where v is zero it has no direction: w is zero, and the gradient is that
    for ‖v‖ = 1. (With g zero as well it stays so: to start from a weight of zeros,
    draw v at random and set g to zero.)

    Reference: Salimans and Kingma, *Weight Normalization: A Simple Reparameterization
    to Accelerate Training of Deep Neural Networks*, 2016, arXiv:1602.07868. In PyTorch
    ``axis`` is ``dim``, g is ``original0`` and v is ``original1``. Flax starts with
    g = 1 whatever v is, and has an epsilon in the norm.

    Arguments:
        layer: the layer to wrap, called as ``layer(x)``.
        weight_name: the attribute of ``layer`` to normalize.
        axis: the axis along which lengths differ; None for one length in all.

    Attributes:
        layer: the wrapped layer, with v as its weight.
        g: the lengths, of the shape of v with all axes but ``axis`` of size 1.

    Raises:
        HyperparameterError: the layer has no such attribute, or it is no real array
            that has the axis.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> linear = vn.nn.Linear(3, 4, key=jax.random.key(0))
    >>> layer = vn.nn.WeightNorm(linear)
    >>> layer(jnp.ones(3)).shape, layer.g.shape
    ((4,), (4, 1))
    """

    layer: _Layer
    g: Float[Array, "..."]
    weight_name: str = field(static=True)
    axis: int | None = field(static=True)

    def __init__(
        self, layer: _Layer, weight_name: str = "weight", axis: int | None = 0
    ) -> None:
        check_weight("WeightNorm", layer, weight_name, ndim=0 if axis is None else 1)
        v = getattr(layer, weight_name)
        _check_axis(axis, v.ndim)
        self.layer = layer
        self.weight_name = weight_name
        self.axis = axis
        kept = None if axis is None else axis % v.ndim
        size, _, length = _polar(v, tuple(i for i in range(v.ndim) if i != kept))
        self.g = (size * length).astype(v.dtype)

    def __call__(self, x: Array, *, key: Key | None = None) -> Array:
        """Calls the layer with its normalized weight.

        Arguments:
            x: the input of the layer.
            key: not used.

        Returns:
            The output of the layer.
        """
        return self.normalized()(x)

    def normalized(self) -> _Layer:
        """The layer with w as its weight."""
        v = getattr(self.layer, self.weight_name)
        # Where g has one entry it has been reduced, or there was no more than one. So
        # this holds for stacked parameters, too, which have more axes in front.
        axes = tuple(i for i, size in enumerate(self.g.shape) if size == 1)
        _, direction, length = _polar(v, axes)
        weight = self.g.astype(direction.dtype) * direction / _or_one(length)
        return with_weight(self.layer, self.weight_name, weight)


def _polar(v: Array, axes: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """The largest entry m of each vector on the axes, v / m, and the length of that.

    The length is between 1 and a root of the number of entries, so that no square
    overflows or vanishes; or all three are 0. That m is held fixed is no error in the
    gradient of the direction, which does not depend on it.
    """
    v = jnp.asarray(v, compute_dtype(v.dtype))
    size = jnp.max(jnp.abs(v), axes, keepdims=True, initial=0)
    size = lax.stop_gradient(size)
    scaled = v / _or_one(size)
    squares = jnp.sum(jnp.square(scaled), axes, keepdims=True)
    # The root of a true zero would have an infinite gradient.
    return size, scaled, jnp.where(squares == 0, 0, jnp.sqrt(_or_one(squares)))


def _or_one(x: Array) -> Array:
    return jnp.where(x == 0, 1, x)


def _check_axis(axis: Any, ndim: int) -> None:
    ok = axis is None or (is_size(axis, -ndim) and axis < ndim)
    expected = f"None, or an int from {-ndim} to {ndim - 1}"
    require(ok, "WeightNorm", "axis", expected, axis)
