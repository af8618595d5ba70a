"""Haiku, with `jax.jit` and its plain dictionaries of parameters and state."""

from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import jax.random as jr
from program import Program

from . import plain, values
from .values import WIDTH


def norm(x: Any) -> Any:
    return hk.BatchNorm(True, True, values.MOMENTUM)(x, is_training=True)


def linear(x: Any, size: int) -> Any:
    make = lambda shape, dtype: values.kernel(None, tuple(shape), dtype)  # noqa: E731
    return hk.Linear(size, w_init=make)(x)


class Spectral(hk.Module):
    """A linear layer with a normalized weight; Haiku has no wrapper for layers."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def __call__(self, x: Any) -> Any:
        make = lambda shape, dtype: values.kernel(None, tuple(shape), dtype)  # noqa: E731
        w = hk.get_parameter("w", (x.shape[-1], self.size), init=make)
        b = hk.get_parameter("b", (self.size,), init=jnp.zeros)
        return x @ hk.SpectralNorm(eps=1e-12)(w) + b


def init(forward: Callable[..., Any], x: Any) -> tuple[hk.TransformedWithState, Any]:
    """The function, and its parameters and state with the first singular vectors."""
    model = hk.transform_with_state(forward)
    params, state = model.init(jr.key(0), x)

    def value(path: Any, leaf: Any) -> Any:
        if path[-1].key != "u0":
            return leaf
        return values.singular(leaf.shape[1], x.shape[1])[0][None]

    return model, (params, jax.tree_util.tree_map_with_path(value, state))


def loss_of(model: hk.TransformedWithState) -> plain.Loss:
    def loss(params: Any, state: Any, xs: Any, ys: Any) -> Any:
        predicted, state = model.apply(params, state, None, xs)
        return plain.error(predicted, ys), state

    return loss


def gradient(forward: Callable[..., Any]) -> dict[str, Program]:
    model, variables = init(forward, values.pairs(WIDTH)[0])
    return {"haiku": plain.gradient(loss_of(model), *variables)}


def blocks(n: int) -> dict[str, Program]:
    def forward(x: Any) -> Any:
        for _ in range(n):
            x = hk.Linear(4)(norm(x))
        return x

    return {"haiku": plain.adding(*init(forward, jnp.ones((2, 4)))[1])}


def example() -> dict[str, Program]:
    def forward(x: Any) -> Any:
        x = norm(jax.nn.relu(Spectral(32)(norm(x))))
        return linear(jax.nn.relu(linear(x, 32)), 3)

    model, variables = init(forward, values.pairs()[0])
    return {"haiku": plain.training(loss_of(model), *variables)}


def normed(n: int) -> dict[str, Program]:
    def forward(x: Any) -> Any:
        for _ in range(n):
            x = Spectral(WIDTH)(norm(x))
        return x

    return gradient(forward)


def residual(x: Any) -> Any:
    return x + 0.1 * jnp.tanh(norm(linear(x, WIDTH)))


def deep(n: int, scanned: bool) -> dict[str, Program]:
    def forward(x: Any) -> Any:
        if scanned:
            return hk.layer_stack(n)(residual)(x)
        for _ in range(n):
            x = residual(x)
        return x

    return gradient(forward)


def slots(n: int) -> dict[str, Callable[[], Any]]:
    def add() -> None:
        for i in range(n):
            slot = hk.get_state(f"slot{i}", (3,), init=jnp.zeros)
            hk.set_state(f"slot{i}", slot + 1)

    model = hk.transform_with_state(add)
    _, state = model.init(None)
    return {"haiku": plain.tracer(lambda state: model.apply({}, state, None)[1], state)}
