"""What the adapters of the libraries on JAX share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from networks import tasks as small
from networks.tools import cross_entropy
from program import Program

from .tasks import Layout, Norm, values

Run = Callable[[], Any]
"""Sends work to the device, and returns arrays that will be there."""


def both_ways(
    make: Callable[[int, Layout, str], Norm],
) -> Callable[[tuple[int, ...], Layout, str], Run]:
    """Forward and backward pass in one compiled function, as within a training step.

    Between the two stands a barrier, as the rest of a network would: the gradient that
    comes in is only there after the output has gone out.
    """

    def runner(shape: tuple[int, ...], layout: Layout, dtype: str) -> Run:
        apply, params, stats = make(shape[1], layout, dtype)
        x, dy = (jnp.asarray(values(shape, layout, i), dtype) for i in range(2))

        @jax.jit
        def run(params: Any, stats: Any, x: Any, dy: Any) -> Any:
            fun = lambda params, x: apply(params, stats, x)  # noqa: E731
            y, pullback, stats = jax.vjp(fun, params, x, has_aux=True)
            y, dy = lax.optimization_barrier((y, dy))
            dparams, dx = pullback(dy)
            return y, dx, dparams, stats

        return lambda: run(params, stats, x, dy)

    return runner


def training(apply: Callable[..., Any], params: Any, rest: Any, jit: Any) -> Program:
    """A training step of a network.

    Arguments:
        apply: ``apply(params, rest, xs)`` returns logits, and the new rest.
        params: what is trained; all of it is floating arrays.
        rest: what changes otherwise, such as running averages.
        jit: the library's own.
    """
    optimizer = optax.sgd(**small.SGD)

    def compute_loss(params: Any, rest: Any, xs: Any, labels: Any) -> Any:
        logits, rest = apply(params, rest, xs)
        return cross_entropy(logits.astype(jnp.float32), labels), rest

    def step(carry: Any, batch: Any) -> Any:
        params, rest, opt_state = carry
        value_and_grad = jax.value_and_grad(compute_loss, has_aux=True)
        (loss, rest), grads = value_and_grad(params, rest, *batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), rest, opt_state), loss

    return Program(step, (params, rest, optimizer.init(params)), jit)


def kernels(params: Any, dtype: str) -> Any:
    """Parameters with kernels in another dtype; scales and biases stay."""
    return jax.tree.map(lambda a: a.astype(dtype) if a.ndim > 1 else a, params)
