"""vernal: with `filter_jit`, and with `jax.jit`, which takes its models as they are."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from program import Program

import vernal as vn

from . import plain, values
from .values import WIDTH

_AXES: Any = {"in_axes": (0, None), "out_axes": (0, None), "axis_name": "batch"}


def jit(step: Callable[..., Any], donate: bool = False) -> Any:
    if not donate:
        return vn.filter_jit(step)
    swapped = lambda batch, carry: step(carry, batch)  # noqa: E731
    compiled = vn.filter_jit(swapped, donate="all-except-first")
    return lambda carry, batch: compiled(batch, carry)


def both(make: Callable[[], Program]) -> dict[str, Program]:
    """The same step in both ways, each with arrays of its own, to donate."""
    return {"vernal": make(), "vernal in jax.jit": make()._replace(jit=plain.jit)}


def norm(size: int) -> Any:
    return vn.nn.BatchNorm(size, "batch")


def linear(inputs: int, outputs: int) -> Any:
    return vn.nn.Linear(inputs, outputs, key=jr.key(0))


def spectral(inputs: int, outputs: int) -> Any:
    return vn.nn.SpectralNorm(linear(inputs, outputs), "weight", key=jr.key(0))


def converged(state: Any, layers: list[Any]) -> Any:
    """The state with the first singular vectors."""
    for layer in layers:
        u, v = values.singular(*layer.layer.weight.shape)
        state = state.set(layer.uv_index, (u, v))
    return state


class Example(vn.Module):
    norm1: vn.nn.BatchNorm
    spectral: vn.nn.SpectralNorm
    norm2: vn.nn.BatchNorm
    linear1: vn.nn.Linear
    linear2: vn.nn.Linear

    def __init__(self) -> None:
        self.norm1, self.spectral = norm(3), spectral(3, 32)
        self.norm2, self.linear1, self.linear2 = norm(32), linear(32, 32), linear(32, 3)

    def __call__(self, x: Any, state: Any) -> tuple[Any, Any]:
        x, state = self.norm1(x, state)
        x, state = self.spectral(x, state)
        x, state = self.norm2(jax.nn.relu(x), state)
        x = jax.nn.relu(self.linear1(x))
        return self.linear2(x), state


class Chain(vn.Module):
    """Layers with state, one after the other."""

    layers: list

    def __init__(self, make: Callable[[], Any], n: int) -> None:
        self.layers = [layer for _ in range(n) for layer in make()]

    def __call__(self, x: Any, state: Any) -> tuple[Any, Any]:
        for layer in self.layers:
            x, state = layer(x, state)
        return x, state


class Residual(vn.Module):
    linear: vn.nn.Linear
    norm: vn.nn.BatchNorm

    def __init__(self, key: Any) -> None:
        self.linear, self.norm = vn.nn.Linear(WIDTH, WIDTH, key=key), norm(WIDTH)

    def __call__(self, x: Any, state: Any) -> tuple[Any, Any]:
        y, state = self.norm(self.linear(x), state)
        return x + 0.1 * jnp.tanh(y), state


def loss(model: Any, state: Any, xs: Any, ys: Any) -> Any:
    predicted, state = jax.vmap(model, **_AXES)(xs, state)
    return plain.error(predicted, ys), state


def gradient(model: Any, state: Any) -> dict[str, Program]:
    def step(carry: Any, batch: Any) -> tuple[Any, Any]:
        find = vn.filter_value_and_grad(loss, has_aux=True)
        (value, state), grads = find(*carry, *batch)
        return (grads, state), value

    return {"vernal": Program(step, (model, state), jit)}


def blocks(n: int) -> dict[str, Program]:
    make = lambda: (norm(4), linear(4, 4))  # noqa: E731
    return both(lambda: plain.adding(*vn.nn.make_with_state(Chain)(make, n)))


def example_init() -> tuple[Any, Any]:
    model, state = vn.nn.make_with_state(Example)()
    return values.initial(model), converged(state, [model.spectral])


def example() -> dict[str, Program]:
    optimizer = optax.adam(values.LEARNING_RATE)

    def step(carry: Any, batch: Any) -> tuple[Any, Any]:
        model, state, moments = carry
        find = vn.filter_value_and_grad(loss, has_aux=True)
        (value, state), grads = find(model, state, *batch)
        updates, moments = optimizer.update(grads, moments)
        return (vn.apply_updates(model, updates), state, moments), value

    def make() -> Program:
        model, state = example_init()
        return Program(step, (model, state, optimizer.init(model)), jit)

    return both(make)


def eager() -> dict[str, Callable[[], Any]]:
    (model, state), (xs, _) = example_init(), values.pairs()
    return {"vernal": lambda: jax.vmap(model, **_AXES)(xs, state)}


def normed(n: int) -> dict[str, Program]:
    make = lambda: (norm(WIDTH), spectral(WIDTH, WIDTH))  # noqa: E731
    model, state = vn.nn.make_with_state(Chain)(make, n)
    return gradient(values.initial(model), converged(state, model.layers[1::2]))


def deep(n: int, scanned: bool) -> dict[str, Program]:
    if scanned:
        stack = vn.nn.make_with_state(vn.nn.Stack)
        model, state = stack(Residual, n, key=jr.key(0))
    else:
        make = lambda: [Residual(jr.key(0))]  # noqa: E731
        model, state = vn.nn.make_with_state(Chain)(make, n)
    return gradient(values.initial(model, stacked=scanned), state)


class Slots(vn.Module):
    indices: list

    def __init__(self, n: int) -> None:
        self.indices = [vn.nn.StateIndex(jnp.zeros(3)) for _ in range(n)]


def slots(n: int) -> dict[str, Callable[[], Any]]:
    model, state = vn.nn.make_with_state(Slots)(n)

    def add(state: Any) -> Any:
        for index in model.indices:
            state = state.set(index, state.get(index) + 1)
        return state

    return {"vernal": plain.tracer(add, state)}
