"""Flax NNX: objects through `nnx.jit`; or split once, and merged in `jax.jit`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from program import Program

from . import plain, values
from .values import WIDTH


def jit(step: Callable[..., Any], donate: bool = False) -> Any:
    """Objects are changed in place, and need not be returned."""
    in_place = lambda carry, batch: step(carry, batch)[1]  # noqa: E731
    compiled = nnx.jit(in_place, donate_argnums=0 if donate else None)

    def run(carry: Any, batch: Any) -> tuple[Any, Any]:
        return carry, compiled(carry, batch)

    run.lower = compiled.lower  # type: ignore[attr-defined]
    return run


def split(program: Program) -> Program:
    """The same step, as Flax's guide to performance advises."""
    graph, state = nnx.split(program.carry)

    def step(state: Any, batch: Any) -> tuple[Any, Any]:
        carry = nnx.merge(graph, state)
        _, loss = program.step(carry, batch)
        return nnx.state(carry), loss

    return Program(step, state, plain.jit)


def norm(size: int) -> Any:
    return nnx.BatchNorm(size, momentum=values.MOMENTUM, rngs=nnx.Rngs(0))


def linear(inputs: int, outputs: int) -> Any:
    return nnx.Linear(inputs, outputs, kernel_init=values.kernel, rngs=nnx.Rngs(0))


def spectral(inputs: int, outputs: int, make: Any = nnx.SpectralNorm) -> Any:
    """With the first singular vectors."""
    layer = make(linear(inputs, outputs), rngs=nnx.Rngs(0))
    layer.batch_stats["kernel", "u"][...] = values.singular(outputs, inputs)[0][None]
    return layer


class Spectral(nnx.SpectralNorm):
    """NNX leaves the normalized weight in the layer; all others what was trained."""

    def __call__(self, x: Any) -> Any:
        kernel = self.layer_instance.kernel[...]
        y = super().__call__(x)
        self.layer_instance.kernel[...] = kernel
        return y


class Example(nnx.Module):
    def __init__(self) -> None:
        self.norm1, self.spectral = norm(3), spectral(3, 32, Spectral)
        self.norm2, self.linear1, self.linear2 = norm(32), linear(32, 32), linear(32, 3)

    def __call__(self, x: Any) -> Any:
        x = self.norm2(nnx.relu(self.spectral(self.norm1(x))))
        return self.linear2(nnx.relu(self.linear1(x)))


class Chain(nnx.Module):
    """Layers, one after the other."""

    def __init__(self, make: Callable[[], Any], n: int) -> None:
        self.layers = nnx.List([layer for _ in range(n) for layer in make()])

    def __call__(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        return x


class Residual(nnx.Module):
    def __init__(self) -> None:
        self.linear, self.norm = linear(WIDTH, WIDTH), norm(WIDTH)

    def __call__(self, x: Any) -> Any:
        return x + 0.1 * jnp.tanh(self.norm(self.linear(x)))


class Stack(nnx.Module):
    """Layers in one `nnx.scan`."""

    def __init__(self, n: int) -> None:
        make = nnx.vmap(lambda _: Residual(), in_axes=0, out_axes=0)
        self.layers = make(jnp.arange(n))

    def __call__(self, x: Any) -> Any:
        axes: Any = {"in_axes": (0, nnx.Carry), "out_axes": nnx.Carry}
        return nnx.scan(lambda layer, x: layer(x), **axes)(self.layers, x)


def loss(model: Any, xs: Any, ys: Any) -> Any:
    return plain.error(model(xs), ys)


def gradient(model: Any) -> dict[str, Program]:
    def step(model: Any, batch: Any) -> tuple[Any, Any]:
        value, grads = nnx.value_and_grad(loss)(model, *batch)
        return None, (value, grads)

    def compiled(step: Callable[..., Any], donate: bool = False) -> Any:
        inner = jit(step, donate)

        def run(model: Any, batch: Any) -> tuple[Any, Any]:
            _, (value, grads) = inner(model, batch)
            return (grads, model), value

        run.lower = inner.lower  # type: ignore[attr-defined]
        return run

    return {"nnx": Program(step, model, compiled)}


def blocks(n: int) -> dict[str, Program]:
    def step(model: Any, x: Any) -> tuple[Any, Any]:
        state = nnx.state(model, nnx.BatchStat)
        nnx.update(model, jax.tree.map(lambda a: a + 1, state))
        return model, 2 * x

    model = Chain(lambda: (norm(4), linear(4, 4)), n)
    graph, params, state = nnx.split(model, nnx.Param, nnx.BatchStat)

    def apart(carry: Any, x: Any) -> tuple[Any, Any]:
        model, y = step(nnx.merge(graph, *carry), x)
        return nnx.state(model, nnx.BatchStat), y

    by_hand = Program(apart, (params, state), plain.jit)
    return {"nnx": Program(step, model, jit), "nnx split": by_hand}


def example() -> dict[str, Program]:
    def step(carry: Any, batch: Any) -> tuple[Any, Any]:
        model, optimizer = carry
        value, grads = nnx.value_and_grad(loss)(model, *batch)
        optimizer.update(model, grads)
        return carry, value

    def make() -> Program:
        model, adam = Example(), optax.adam(values.LEARNING_RATE)
        return Program(step, (model, nnx.Optimizer(model, adam, wrt=nnx.Param)), jit)

    return {"nnx": make(), "nnx split": split(make())}


def normed(n: int) -> dict[str, Program]:
    return gradient(Chain(lambda: (norm(WIDTH), spectral(WIDTH, WIDTH)), n))


def deep(n: int, scanned: bool) -> dict[str, Program]:
    return gradient(Stack(n) if scanned else Chain(lambda: [Residual()], n))


class Slots(nnx.Module):
    def __init__(self, n: int) -> None:
        self.slots = nnx.List([nnx.BatchStat(jnp.zeros(3)) for _ in range(n)])


def slots(n: int) -> dict[str, Callable[[], Any]]:
    graph, state = nnx.split(Slots(n))

    def add(state: Any) -> Any:
        model = nnx.merge(graph, state)
        for slot in model.slots:
            slot[...] = slot[...] + 1
        return nnx.state(model)

    return {"nnx": plain.tracer(add, state)}
