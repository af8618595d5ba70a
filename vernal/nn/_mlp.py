"""Multilayer perceptrons."""

from collections.abc import Callable
from typing import Any

import jax
import jax.random as jr
from jax import lax
from jaxtyping import Array

from .._module.by_value import by_value
from .._module.fields import field
from .._module.module import Module
from ..typing import DTypeLike, Key
from ._checks import (
    is_size,
    require,
    require_key,
)
from ._linear import Linear, Size


def _identity(x: Any) -> Any:
    return x


class MLP(Module):
    r"""A multilayer perceptron: affine maps with activations between them.

    ``depth`` hidden layers of ``width_size``; for depth 0 a single affine map. Takes
    one example ``(in_size,)`` to ``(out_size,)``.

    Arguments:
        in_size: size of the input, or ``"scalar"``.
        out_size: size of the output, or ``"scalar"``.
        width_size: size of each hidden layer.
        depth: number of hidden layers, at least 0.
        activation: after each hidden layer, elementwise. A Module with parameters is
            shared by all of them.
        final_activation: after the output; by default none.
        use_bias: whether hidden layers have a bias.
        use_final_bias: whether the last layer has one.
        dtype: of the parameters; by default float32 (float64 in 64-bit mode).
        scan: run the hidden layers in a loop, so that the time to compile does not
            grow with ``depth``. The numbers are the same.
        key: a PRNG key for the initial parameters.

    Attributes:
        layers: the ``depth + 1`` affine maps. With ``scan`` they are three, unless
            ``depth`` is 0: the first, all between stacked into one whose arrays have
            a leading axis of size ``depth - 1``, and the last.

    Raises:
        HyperparameterError: an argument is outside its range.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> mlp = vn.nn.MLP(2, 3, width_size=16, depth=2, key=jax.random.key(0))
    >>> mlp(jnp.ones(2)).shape
    (3,)
    """

    layers: tuple[Linear, ...]
    activation: Callable[[Any], Any] = field(static="if_function", converter=by_value)
    final_activation: Callable[[Any], Any] = field(
        static="if_function", converter=by_value
    )
    use_bias: bool = field(static=True)
    use_final_bias: bool = field(static=True)
    in_size: Size = field(static=True)
    out_size: Size = field(static=True)
    width_size: int = field(static=True)
    depth: int = field(static=True)
    scan: bool = field(static=True)

    def __init__(
        self,
        in_size: Size,
        out_size: Size,
        width_size: int,
        depth: int,
        activation: Callable[[Any], Any] = jax.nn.relu,
        final_activation: Callable[[Any], Any] = _identity,
        use_bias: bool = True,
        use_final_bias: bool = True,
        dtype: DTypeLike | None = None,
        *,
        scan: bool = False,
        key: Key,
    ) -> None:
        require(is_size(depth, 0), "MLP", "depth", "an int ≥ 0", depth)
        is_width = is_size(width_size, 0)
        require(is_width, "MLP", "width_size", "an int ≥ 0", width_size)
        functions = {"activation": activation, "final_activation": final_activation}
        for name, function in functions.items():
            expected = "a function, such as jax.nn.relu"
            require(callable(function), "MLP", name, expected, function)

        def linear(n: Size, m: Size, bias: bool, key: Key) -> Linear:
            return Linear(n, m, bias, dtype, key=key)

        def hidden(key: Key) -> Linear:
            return linear(width_size, width_size, use_bias, key)

        require_key("MLP", key)
        keys = jr.split(key, depth + 1)
        if depth == 0:
            self.layers = (linear(in_size, out_size, use_final_bias, keys[0]),)
        else:
            between = keys[1:-1]
            self.layers = (
                linear(in_size, width_size, use_bias, keys[0]),
                *([jax.vmap(hidden)(between)] if scan else map(hidden, between)),
                linear(width_size, out_size, use_final_bias, keys[-1]),
            )
        self.activation = activation
        self.final_activation = final_activation
        self.use_bias = use_bias
        self.use_final_bias = use_final_bias
        self.in_size = in_size
        self.out_size = out_size
        self.width_size = width_size
        self.depth = depth
        self.scan = scan

    def __call__(self, x: Array, *, key: Key | None = None) -> Array:
        """Applies the layers to one example ``(in_size,)``; ``key`` is not used."""

        def step(x: Array, layer: Linear) -> tuple[Array, None]:
            return self.activation(layer(x)), None

        *hidden, last = self.layers
        if self.scan and hidden:
            first, stacked = hidden
            x, _ = lax.scan(step, step(x, first)[0], stacked)
        else:
            for layer in hidden:
                x, _ = step(x, layer)
        return self.final_activation(last(x))
