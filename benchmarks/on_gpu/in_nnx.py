"""Flax NNX: layers take whole batches, and compute in the dtype they are told.

The model is taken apart once, before training, as its guide to performance advises.
"""

import functools
from typing import Any

import jax.numpy as jnp
from flax import nnx
from networks.tasks import Case, fill_flax
from networks.tools import filled, jit, last
from program import Program

from . import tasks
from .tasks import Layout, Norm, Size
from .tools import both_ways, training


def apart(model: Any) -> tuple[Any, Any, Any]:
    """A model as a function, its parameters, and its running averages."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def apply(params: Any, rest: Any, x: Any) -> tuple[Any, Any]:
        model = nnx.merge(graphdef, params, rest, copy=True)
        y = model(x)
        return y, nnx.split(model, nnx.Param, ...)[2]

    return apply, params, rest


def norm(channels: int, layout: Layout, dtype: str) -> Norm:
    """The layer."""
    axis = 1 if layout == "NCHW" else -1
    layer = nnx.BatchNorm(channels, axis=axis, dtype=dtype, rngs=nnx.Rngs(0))
    return Norm(*apart(layer))


class ConvNorm(nnx.Module):
    """A convolution, and the normalization behind it."""

    def __init__(
        self, n: int, m: int, size: int, stride: int, *, dtype: str, rngs: nnx.Rngs
    ) -> None:
        options = {"padding": size // 2, "use_bias": False, "dtype": dtype}
        self.conv = nnx.Conv(n, m, (size, size), stride, **options, rngs=rngs)
        self.norm = nnx.BatchNorm(m, dtype=dtype, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.norm(self.conv(x))


class Block(nnx.Module):
    """A bottleneck."""

    def __init__(self, n: int, m: int, stride: int, **options: Any) -> None:
        self.layers = nnx.List(
            [
                ConvNorm(n, m, 1, 1, **options),
                ConvNorm(m, m, 3, stride, **options),
                ConvNorm(m, 4 * m, 1, 1, **options),
            ]
        )
        layers = []
        if stride != 1 or n != 4 * m:
            layers = [ConvNorm(n, 4 * m, 1, stride, **options)]
        self.shortcut = nnx.Sequential(*layers)

    def __call__(self, x: Any) -> Any:
        y = nnx.relu(self.layers[0](x))
        y = nnx.relu(self.layers[1](y))
        return nnx.relu(self.shortcut(x) + self.layers[2](y))


class ResNet(nnx.Module):
    """Logits of images ``(batch, height, width, 3)``."""

    def __init__(self, size: Size, rngs: nnx.Rngs) -> None:
        options: Any = {"dtype": size.dtype, "rngs": rngs}
        plan = tasks.blocks(size)
        self.stem = ConvNorm(3, size.width, 7, 2, **options)
        self.blocks = nnx.List([Block(*block, **options) for block in plan])
        self.head = nnx.Linear(size.features, size.classes, **options)

    def __call__(self, x: Any) -> Any:
        x = nnx.relu(self.stem(x))
        x = nnx.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for block in self.blocks:
            x = block(x)
        return self.head(jnp.mean(x, (1, 2)))


def resnet(size: Size) -> Program:
    """A training step of the ResNet."""
    make = nnx.jit(functools.partial(ResNet, size))
    apply, params, rest = apart(make(nnx.Rngs(0)))
    return training(apply, filled(params, fill_flax), rest, jit)


NORMS = {"nnx": both_ways(norm)}
RESNETS = {"nnx": Case(resnet, last)}
