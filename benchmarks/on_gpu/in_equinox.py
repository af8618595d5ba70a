"""Equinox: layers take one example, `jax.vmap` makes the batch.

Its `BatchNorm` computes in the dtype of its input, so that one who wants statistics in
float32 has to convert before and after it.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from networks.in_equinox import conv, jit
from networks.tasks import Case
from networks.tools import filled
from program import Program

from . import tasks
from .tasks import Layout, Norm, Size, arranged
from .tools import both_ways, kernels, training


def batch_norm(channels: int) -> eqx.nn.BatchNorm:
    """The layer that normalizes by the batch in training."""
    return eqx.nn.BatchNorm(channels, "batch", mode="batch")


def normalized(norm: Any, x: Any, state: Any) -> tuple[Any, Any]:
    """Applies it in float32."""
    y, state = norm(x.astype(jnp.float32), state)
    return y.astype(x.dtype), state


def batched(model: Any) -> Any:
    """The model of a batch."""
    return jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))


def norm(channels: int, layout: Layout, dtype: str) -> Norm:
    """A layer of one example; channels last, it sees a transposed view."""
    model, state = eqx.nn.make_with_state(batch_norm)(channels)
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def apply(params: Any, state: Any, x: Any) -> tuple[Any, Any]:
        def one(x: Any, state: Any) -> tuple[Any, Any]:
            return normalized(eqx.combine(params, static), x, state)

        y, state = batched(one)(arranged(x, layout, "NCHW"), state)
        return arranged(y, "NCHW", layout), state

    return Norm(apply, params, state)


class ConvNorm(eqx.Module):
    """A convolution, and the normalization behind it."""

    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm

    def __init__(self, n: int, m: int, size: int, stride: int, key: Any) -> None:
        self.conv, self.norm = conv(n, m, size, stride, key), batch_norm(m)

    def __call__(self, x: Any, state: eqx.nn.State) -> tuple[Any, eqx.nn.State]:
        return normalized(self.norm, self.conv(x), state)


class Block(eqx.Module):
    """A bottleneck."""

    layers: list[ConvNorm]
    shortcut: ConvNorm | None

    def __init__(self, n: int, m: int, stride: int, key: Any) -> None:
        k1, k2, k3, k4 = jr.split(key, 4)
        self.layers = [
            ConvNorm(n, m, 1, 1, k1),
            ConvNorm(m, m, 3, stride, k2),
            ConvNorm(m, 4 * m, 1, 1, k3),
        ]
        is_same = stride == 1 and n == 4 * m
        self.shortcut = None if is_same else ConvNorm(n, 4 * m, 1, stride, k4)

    def __call__(self, x: Any, state: eqx.nn.State) -> tuple[Any, eqx.nn.State]:
        y, state = self.layers[0](x, state)
        y, state = self.layers[1](jax.nn.relu(y), state)
        y, state = self.layers[2](jax.nn.relu(y), state)
        if self.shortcut is not None:
            x, state = self.shortcut(x, state)
        return jax.nn.relu(x + y), state


class ResNet(eqx.Module):
    """Logits of one image ``(3, height, width)``."""

    stem: ConvNorm
    pool: eqx.nn.MaxPool2d
    blocks: list[Block]
    head: eqx.nn.Linear

    def __init__(self, size: Size, key: Any) -> None:
        plans = list(tasks.blocks(size))
        k1, k2, *keys = jr.split(key, 2 + len(plans))
        self.stem = ConvNorm(3, size.width, 7, 2, k1)
        self.pool = eqx.nn.MaxPool2d(3, 2, 1)
        pairs = zip(plans, keys, strict=True)
        self.blocks = [Block(*plan, key) for plan, key in pairs]
        self.head = eqx.nn.Linear(size.features, size.classes, key=k2)

    def __call__(self, x: Any, state: eqx.nn.State) -> tuple[Any, eqx.nn.State]:
        x, state = self.stem(x, state)
        x = self.pool(jax.nn.relu(x))
        for block in self.blocks:
            x, state = block(x, state)
        return self.head(jnp.mean(x, (1, 2))), state


def resnet(size: Size) -> Program:
    """A training step of the ResNet."""
    model, state = eqx.filter_jit(eqx.nn.make_with_state(ResNet))(size, jr.key(0))
    params, static = eqx.partition(filled(model), eqx.is_inexact_array)

    def apply(params: Any, state: Any, xs: Any) -> tuple[Any, Any]:
        model = eqx.combine(kernels(params, size.dtype), static)
        return batched(model)(xs.astype(size.dtype), state)

    return training(apply, params, state, jit)


NORMS = {"equinox": both_ways(norm)}
RESNETS = {"equinox": Case(resnet, jax.device_put)}
