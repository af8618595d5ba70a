"""Flax Linen, with `jax.jit` and its plain dictionaries of variables."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import jax.random as jr
from program import Program

from . import plain, values
from .values import WIDTH

_NORM: Any = {"use_running_average": False, "momentum": values.MOMENTUM}


def dense(size: int) -> Any:
    return nn.Dense(size, kernel_init=values.kernel)


def init(model: nn.Module, x: Any) -> tuple[Any, Any]:
    """Parameters, and state with the first singular vectors."""
    variables = model.init(jr.key(0), x)
    params, state = variables["params"], variables["batch_stats"]

    def value(path: Any, leaf: Any) -> Any:
        name = path[-1].key
        if name.endswith("/u"):
            return values.singular(leaf.shape[1], x.shape[1])[0][None]
        # SpectralNorm keeps the normalized weight as the initial one.
        if name == "kernel" and leaf.ndim == 2:
            return values.kernel(None, leaf.shape, leaf.dtype)
        return leaf

    return jax.tree_util.tree_map_with_path(value, (params, state))


class Blocks(nn.Module):
    n: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        for _ in range(self.n):
            x = nn.Dense(4)(nn.BatchNorm(**_NORM)(x))
        return x


class Example(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.BatchNorm(**_NORM)(x)
        x = nn.SpectralNorm(dense(32))(x, update_stats=True)
        x = nn.BatchNorm(**_NORM)(nn.relu(x))
        x = nn.relu(dense(32)(x))
        return dense(3)(x)


class Normed(nn.Module):
    n: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        for _ in range(self.n):
            x = nn.BatchNorm(**_NORM)(x)
            x = nn.SpectralNorm(dense(WIDTH))(x, update_stats=True)
        return x


class Residual(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return x + 0.1 * jnp.tanh(nn.BatchNorm(**_NORM)(dense(WIDTH)(x)))


class Step(nn.Module):
    """A layer in the form that `nn.scan` wants."""

    @nn.compact
    def __call__(self, x: Any, _: Any) -> tuple[Any, None]:
        return Residual()(x), None


class Deep(nn.Module):
    n: int
    scanned: bool

    @nn.compact
    def __call__(self, x: Any) -> Any:
        if self.scanned:
            axes = {"params": 0, "batch_stats": 0}
            rngs = {"params": True}
            stack = nn.scan(Step, variable_axes=axes, split_rngs=rngs, length=self.n)
            return stack()(x, None)[0]
        for _ in range(self.n):
            x = Residual()(x)
        return x


def loss_of(model: nn.Module) -> plain.Loss:
    def loss(params: Any, state: Any, xs: Any, ys: Any) -> Any:
        variables = {"params": params, "batch_stats": state}
        predicted, new = model.apply(variables, xs, mutable=["batch_stats"])
        return plain.error(predicted, ys), new["batch_stats"]

    return loss


def blocks(n: int) -> dict[str, Program]:
    return {"linen": plain.adding(*init(Blocks(n), jnp.ones((2, 4))))}


def example() -> dict[str, Program]:
    model, (xs, _) = Example(), values.pairs()
    return {"linen": plain.training(loss_of(model), *init(model, xs))}


def normed(n: int) -> dict[str, Program]:
    model, (xs, _) = Normed(n), values.pairs(WIDTH)
    return {"linen": plain.gradient(loss_of(model), *init(model, xs))}


def deep(n: int, scanned: bool) -> dict[str, Program]:
    model, (xs, _) = Deep(n, scanned), values.pairs(WIDTH)
    return {"linen": plain.gradient(loss_of(model), *init(model, xs))}


class Slots(nn.Module):
    n: int

    @nn.compact
    def __call__(self) -> None:
        for i in range(self.n):
            slot = self.variable("slots", f"slot{i}", jnp.zeros, 3)
            slot.value = slot.value + 1


def slots(n: int) -> dict[str, Callable[[], Any]]:
    model = Slots(n)
    state = {"slots": {f"slot{i}": jnp.zeros(3) for i in range(n)}}
    add = lambda state: model.apply(state, mutable=["slots"])[1]  # noqa: E731
    return {"linen": plain.tracer(add, state)}
