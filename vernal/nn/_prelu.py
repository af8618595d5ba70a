"""The parametric ReLU."""

import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._module.module import Module
from .._state.index import strong
from .._tree.filters import is_array
from ..typing import Key
from ._checks import check_floating, fail, is_number, require
from ._init import default_dtype


class PReLU(Module):
    r"""A ReLU whose slope for negative inputs is learned.

    $$y = \max(x, 0) + \alpha \min(x, 0)$$

    elementwise, for an input of any shape to which the slopes can be broadcast. The
    output has the dtype of the input. At 0 the derivative is 1 (in PyTorch, α).

    Reference: He, Zhang, Ren and Sun, *Delving Deep into Rectifiers: Surpassing
    Human-Level Performance on ImageNet Classification*, 2015, arXiv:1502.01852. PyTorch
    lines up several slopes with the channels; here NumPy's rules hold, so that one
    slope for each of 8 channels of an image has the shape ``(8, 1, 1)``. Flax has one
    slope, which starts at 0.01.

    Arguments:
        init_alpha: the initial slope: a number, or a floating-point array of a shape
            that can be broadcast to that of the input.

    Attributes:
        negative_slope: the slopes, with the shape of ``init_alpha``.

    Raises:
        HyperparameterError: ``init_alpha`` is no number and no floating-point array.
        InputError: the input is not real floating-point, or the slopes cannot be
            broadcast to its shape.

    >>> import vernal as vn, jax.numpy as jnp
    >>> prelu = vn.nn.PReLU()
    >>> prelu(jnp.array([-1.0, 0.0, 1.0]))
    Array([-0.25,  0.  ,  1.  ], dtype=float32)
    >>> vn.nn.PReLU(jnp.full((8, 1, 1), 0.1))(jnp.ones((8, 32, 32))).shape
    (8, 32, 32)
    """

    negative_slope: Float[Array, "*#shape"]

    def __init__(self, init_alpha: float | Array = 0.25) -> None:
        wanted = "a number, or a floating-point array"
        if is_array(init_alpha):
            slope = jnp.asarray(init_alpha)
            ok = jnp.issubdtype(slope.dtype, jnp.floating)
            require(ok, "PReLU", "init_alpha", wanted, init_alpha)
            self.negative_slope = strong(slope)
        else:
            ok = is_number(init_alpha, minimum=-math.inf)
            require(ok, "PReLU", "init_alpha", wanted, init_alpha)
            self.negative_slope = jnp.asarray(init_alpha, default_dtype(None))

    def __call__(
        self, x: Float[Array, " *shape"], *, key: Key | None = None
    ) -> Float[Array, " *shape"]:
        """Applies the function to an array of any shape; ``key`` is not used."""
        _check_input(self, x)
        slope = jnp.broadcast_to(self.negative_slope.astype(x.dtype), x.shape)
        # The minimum keeps infinities out of the branch that is not taken, where
        # they would turn the gradient of the slope into NaN.
        return jnp.where(x >= 0, x, slope * jnp.minimum(x, 0))


def _check_input(layer: PReLU, x: Any) -> None:
    check_floating(layer, x)
    slope = layer.negative_slope.shape
    pairs = zip(slope[::-1], x.shape[::-1], strict=False)
    if len(slope) <= x.ndim and all(n in (1, m) for n, m in pairs):
        return
    per_channel = len(slope) == 1 and slope == x.shape[:1]
    ones = ", 1" * (x.ndim - 1)
    fail(
        layer,
        "the slopes cannot be broadcast to the input",
        expected=f"an input to whose shape {slope} can be broadcast",
        got=f"{tuple(x.shape)}, {x.dtype}",
        fix=f"one slope per channel: init_alpha of the shape ({slope[0]}{ones})"
        if per_channel
        else "",
    )
