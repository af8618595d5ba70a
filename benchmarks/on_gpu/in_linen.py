"""Flax Linen: layers take whole batches, and compute in the dtype they are told."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from networks.tasks import Case, fill_flax
from networks.tools import filled, jit, last
from program import Program

from . import tasks
from .tasks import Layout, Norm, Size
from .tools import both_ways, training

batch_norm = functools.partial(nn.BatchNorm, use_running_average=False)


def norm(channels: int, layout: Layout, dtype: str) -> Norm:
    """The layer."""
    axis = 1 if layout == "NCHW" else -1
    layer = batch_norm(axis=axis, dtype=dtype)
    x = jnp.zeros((2, *[channels] * 3), dtype)
    variables = jax.jit(layer.init)(jax.random.key(0), x)
    return Norm(applied(layer), variables["params"], variables["batch_stats"])


def applied(model: nn.Module) -> Any:
    """A model as a function of parameters, running averages and input."""

    def apply(params: Any, stats: Any, x: Any) -> tuple[Any, Any]:
        variables = {"params": params, "batch_stats": stats}
        y, new = model.apply(variables, x, mutable=["batch_stats"])
        return y, new["batch_stats"]

    return apply


class ConvNorm(nn.Module):
    """A convolution, and the normalization behind it."""

    outputs: int
    size: int
    stride: int
    dtype: str

    @nn.compact
    def __call__(self, x: Any) -> Any:
        sizes, padding = (self.size, self.size), self.size // 2
        options = {"padding": padding, "use_bias": False, "dtype": self.dtype}
        x = nn.Conv(self.outputs, sizes, self.stride, **options)(x)
        return batch_norm(dtype=self.dtype)(x)


class Block(nn.Module):
    """A bottleneck."""

    inputs: int
    inner: int
    stride: int
    dtype: str

    @nn.compact
    def __call__(self, x: Any) -> Any:
        y = nn.relu(ConvNorm(self.inner, 1, 1, self.dtype)(x))
        y = nn.relu(ConvNorm(self.inner, 3, self.stride, self.dtype)(y))
        y = ConvNorm(4 * self.inner, 1, 1, self.dtype)(y)
        if self.stride != 1 or self.inputs != 4 * self.inner:
            x = ConvNorm(4 * self.inner, 1, self.stride, self.dtype)(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Logits of images ``(batch, height, width, 3)``."""

    plan: Size

    @nn.compact
    def __call__(self, x: Any) -> Any:
        dtype = self.plan.dtype
        x = nn.relu(ConvNorm(self.plan.width, 7, 2, dtype)(x))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for block in tasks.blocks(self.plan):
            x = Block(*block, dtype)(x)
        return nn.Dense(self.plan.classes, dtype=dtype)(jnp.mean(x, (1, 2)))


def resnet(size: Size) -> Program:
    """A training step of the ResNet."""
    model, x = ResNet(size), jnp.zeros((1, size.pixels, size.pixels, 3))
    variables = jax.jit(model.init)(jax.random.key(0), x)
    params = filled(variables["params"], fill_flax)
    return training(applied(model), params, variables["batch_stats"], jit)


NORMS = {"linen": both_ways(norm)}
RESNETS = {"linen": Case(resnet, last)}
