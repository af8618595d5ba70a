"""Equinox, as its documentation advises: `filter_jit` and its other transformations."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from program import Program

from . import plain, values
from .values import WIDTH

_AXES: Any = {"in_axes": (0, None), "out_axes": (0, None), "axis_name": "batch"}


def jit(step: Callable[..., Any], donate: bool = False) -> Any:
    if not donate:
        return eqx.filter_jit(step)
    swapped = lambda batch, carry: step(carry, batch)  # noqa: E731
    compiled = eqx.filter_jit(swapped, donate="all-except-first")
    return lambda carry, batch: compiled(batch, carry)


def norm(size: int) -> Any:
    return eqx.nn.BatchNorm(size, "batch", mode="batch")


def linear(inputs: int, outputs: int) -> Any:
    return eqx.nn.Linear(inputs, outputs, key=jr.key(0))


def spectral(inputs: int, outputs: int) -> Any:
    return eqx.nn.SpectralNorm(linear(inputs, outputs), "weight", key=jr.key(0))


def converged(state: Any, layers: list[Any]) -> Any:
    """The state with the first singular vectors."""
    for layer in layers:
        u, v = values.singular(*layer.layer.weight.shape)
        state = state.set(layer.uv_index, (u, v))
    return state


class Example(eqx.Module):
    norm1: eqx.nn.BatchNorm
    spectral: eqx.nn.SpectralNorm
    norm2: eqx.nn.BatchNorm
    linear1: eqx.nn.Linear
    linear2: eqx.nn.Linear

    def __init__(self) -> None:
        self.norm1, self.spectral = norm(3), spectral(3, 32)
        self.norm2, self.linear1, self.linear2 = norm(32), linear(32, 32), linear(32, 3)

    def __call__(self, x: Any, state: Any) -> tuple[Any, Any]:
        x, state = self.norm1(x, state)
        x, state = self.spectral(x, state)
        x, state = self.norm2(jax.nn.relu(x), state)
        x = jax.nn.relu(self.linear1(x))
        return self.linear2(x), state


class Chain(eqx.Module):
    """Layers with state, one after the other."""

    layers: list

    def __init__(self, make: Callable[[], Any], n: int) -> None:
        self.layers = [layer for _ in range(n) for layer in make()]

    def __call__(self, x: Any, state: Any) -> tuple[Any, Any]:
        for layer in self.layers:
            x, state = layer(x, state)
        return x, state


class Residual(eqx.Module):
    linear: eqx.nn.Linear
    norm: eqx.nn.BatchNorm

    def __init__(self, key: Any) -> None:
        self.linear, self.norm = eqx.nn.Linear(WIDTH, WIDTH, key=key), norm(WIDTH)

    def __call__(self, x: Any, state: Any) -> tuple[Any, Any]:
        y, state = self.norm(self.linear(x), state)
        return x + 0.1 * jnp.tanh(y), state


class Stack(eqx.Module):
    """Layers in one `lax.scan`; equinox has no such layer, but advises this."""

    layers: Residual

    def __call__(self, x: Any, state: Any) -> tuple[Any, Any]:
        arrays, rest = eqx.partition(self.layers, eqx.is_array)

        def body(x: Any, own: Any) -> tuple[Any, Any]:
            return eqx.combine(own[0], rest)(x, own[1])

        return jax.lax.scan(body, x, (arrays, state))


def loss(model: Any, state: Any, xs: Any, ys: Any) -> Any:
    predicted, state = jax.vmap(model, **_AXES)(xs, state)
    return plain.error(predicted, ys), state


def gradient(model: Any, state: Any) -> dict[str, Program]:
    def step(carry: Any, batch: Any) -> tuple[Any, Any]:
        find = eqx.filter_value_and_grad(loss, has_aux=True)
        (value, state), grads = find(*carry, *batch)
        return (grads, state), value

    return {"equinox": Program(step, (model, state), jit)}


def blocks(n: int) -> dict[str, Program]:
    make = lambda: (norm(4), linear(4, 4))  # noqa: E731
    program = plain.adding(*eqx.nn.make_with_state(Chain)(make, n))
    return {"equinox": program._replace(jit=jit)}


def example_init() -> tuple[Any, Any]:
    model, state = eqx.nn.make_with_state(Example)()
    return values.initial(model), converged(state, [model.spectral])


def example() -> dict[str, Program]:
    optimizer = optax.adam(values.LEARNING_RATE)

    def step(carry: Any, batch: Any) -> tuple[Any, Any]:
        model, state, moments = carry
        find = eqx.filter_value_and_grad(loss, has_aux=True)
        (value, state), grads = find(model, state, *batch)
        updates, moments = optimizer.update(grads, moments)
        return (eqx.apply_updates(model, updates), state, moments), value

    model, state = example_init()
    moments = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    return {"equinox": Program(step, (model, state, moments), jit)}


def eager() -> dict[str, Callable[[], Any]]:
    (model, state), (xs, _) = example_init(), values.pairs()
    return {"equinox": lambda: jax.vmap(model, **_AXES)(xs, state)}


def normed(n: int) -> dict[str, Program]:
    make = lambda: (norm(WIDTH), spectral(WIDTH, WIDTH))  # noqa: E731
    model, state = eqx.nn.make_with_state(Chain)(make, n)
    return gradient(values.initial(model), converged(state, model.layers[1::2]))


def deep(n: int, scanned: bool) -> dict[str, Program]:
    if scanned:
        make_layers = eqx.filter_vmap(eqx.nn.make_with_state(Residual))
        layers, state = make_layers(jr.split(jr.key(0), n))
        model = Stack(layers)
    else:
        make = lambda: [Residual(jr.key(0))]  # noqa: E731
        model, state = eqx.nn.make_with_state(Chain)(make, n)
    return gradient(values.initial(model, stacked=scanned), state)


class Slots(eqx.Module):
    indices: list

    def __init__(self, n: int) -> None:
        self.indices = [eqx.nn.StateIndex(jnp.zeros(3)) for _ in range(n)]


def slots(n: int) -> dict[str, Callable[[], Any]]:
    model, state = eqx.nn.make_with_state(Slots)(n)

    def add(state: Any) -> Any:
        for index in model.indices:
            state = state.set(index, state.get(index) + 1)
        return state

    return {"equinox": plain.tracer(add, state)}
