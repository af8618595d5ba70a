"""Steps of libraries whose parameters are trees of nothing but arrays."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from program import Program

from .values import LEARNING_RATE

Loss = Callable[..., tuple[Any, Any]]
"""``loss(params, state, xs, ys)`` returns the loss and the new state."""


def jit(step: Callable[..., Any], donate: bool = False) -> Any:
    """As one writes it in plain JAX."""
    return jax.jit(step, donate_argnums=0 if donate else None)


def error(predicted: Any, ys: Any) -> jax.Array:
    """The loss of all libraries."""
    return jnp.mean((predicted - ys) ** 2)


def training(loss: Loss, params: Any, state: Any) -> Program:
    """Gradient, Adam, new parameters."""
    optimizer = optax.adam(LEARNING_RATE)

    def step(carry: Any, batch: Any) -> tuple[Any, Any]:
        params, state, moments = carry
        find = jax.value_and_grad(loss, has_aux=True)
        (value, state), grads = find(params, state, *batch)
        updates, moments = optimizer.update(grads, moments)
        return (optax.apply_updates(params, updates), state, moments), value

    return Program(step, (params, state, optimizer.init(params)), jit)


def gradient(loss: Loss, params: Any, state: Any) -> Program:
    """The gradient takes the place of the parameters."""

    def step(carry: Any, batch: Any) -> tuple[Any, Any]:
        (value, state), grads = jax.value_and_grad(loss, has_aux=True)(*carry, *batch)
        return (grads, state), value

    return Program(step, (params, state), jit)


def adding(params: Any, state: Any) -> Program:
    """Changes the whole state, and does no other work."""

    def step(carry: Any, x: Any) -> tuple[Any, Any]:
        _, state = carry
        return jax.tree.map(lambda a: a + 1, state), 2 * x

    return Program(step, (params, state), jit)


def tracer(function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
    """Traces a function at each call; JAX remembers functions that it has seen."""
    return lambda: jax.make_jaxpr(lambda *args: function(*args))(*args)
