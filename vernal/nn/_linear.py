"""Affine maps."""

from typing import Literal

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

from .._module.fields import field
from .._module.module import Module
from ..typing import DTypeLike, Key
from ._checks import (
    check_shape,
    is_size,
    require,
    require_key,
)
from ._init import default_dtype, uniform_fan_in

Size = int | Literal["scalar"]


class Linear(Module):
    r"""An affine map: ``y = W x + b``.

    Takes one example ``(in_features,)`` to ``(out_features,)``; use ``jax.vmap`` for a
    batch. Weight and bias are drawn from the uniform distribution on
    ±1/√in_features, as in PyTorch (Flax draws a truncated normal and zero bias).

    Arguments:
        in_features: size of the input, or ``"scalar"`` for inputs of shape ``()``
            and Python numbers.
        out_features: size of the output, or ``"scalar"``.
        use_bias: whether to add ``b``.
        dtype: of the parameters; by default float32 (float64 in 64-bit mode).
        key: a PRNG key for the initial parameters.

    Attributes:
        weight: ``(out_features, in_features)``, where a scalar counts as 1.
        bias: ``(out_features,)``, or None.

    Raises:
        HyperparameterError: a size is neither an int ≥ 0 nor "scalar".
        InputError: the input has another shape.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> linear = vn.nn.Linear(3, 2, key=jax.random.key(0))
    >>> linear(jnp.ones(3)).shape
    (2,)
    >>> jax.vmap(linear)(jnp.ones((10, 3))).shape
    (10, 2)
    """

    weight: Float[Array, "out_features in_features"]
    bias: Float[Array, " out_features"] | None
    in_features: Size = field(static=True)
    out_features: Size = field(static=True)
    use_bias: bool = field(static=True)

    def __init__(
        self,
        in_features: Size,
        out_features: Size,
        use_bias: bool = True,
        dtype: DTypeLike | None = None,
        *,
        key: Key,
    ) -> None:
        n, m = _count("in_features", in_features), _count("out_features", out_features)
        require_key("Linear", key)
        weight_key, bias_key = jr.split(key)
        dtype = default_dtype(dtype)
        self.weight = uniform_fan_in(weight_key, (m, n), dtype, n)
        self.bias = uniform_fan_in(bias_key, (m,), dtype, n) if use_bias else None
        self.in_features = in_features
        self.out_features = out_features
        self.use_bias = use_bias

    def __call__(
        self, x: Float[Array, " in_features"], *, key: Key | None = None
    ) -> Float[Array, " out_features"]:
        """Applies the map to one example ``(in_features,)``; ``key`` is not used."""
        if self.in_features == "scalar":
            if not np.isscalar(x):
                check_shape(self, x, "")
            x = jnp.broadcast_to(x, (1,))
        else:
            check_shape(self, x, "in_features", in_features=self.in_features)
        # Not `weight @ x`: under `vmap` that has the batch as its last axis, and XLA
        # transposes (a sixth of the time of a transformer's training step on a CPU).
        y = jnp.tensordot(x, self.weight, ((0,), (1,)))
        if self.bias is not None:
            y = y + self.bias
        return y.reshape(()) if self.out_features == "scalar" else y


def _count(name: str, size: Size) -> int:
    ok = is_size(size, minimum=0) or (isinstance(size, str) and size == "scalar")
    require(ok, "Linear", name, 'an int ≥ 0, or "scalar"', size)
    return 1 if size == "scalar" else size
