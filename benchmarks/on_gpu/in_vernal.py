"""Vernal: a layer takes one example, and `batched` makes the batch.

A layer that takes all at once, with ``axis_name=None``, is "vernal whole". Both want
the channels first; where they are last, they are given a transposed view, which XLA
need not carry out. "vernal pixels" takes one pixel: all channels, and nothing else.
Three axes with names make the batch, and channels that are first are transposed.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
from networks.in_vernal import conv, jit
from networks.tasks import Case
from networks.tools import filled
from program import Program

import vernal as vn

from . import tasks
from .tasks import Layout, Norm, Size, arranged
from .tools import both_ways, kernels, training


def norm(
    channels: int, layout: Layout, dtype: str, names: tuple[str, ...], takes: Layout
) -> Norm:
    """A layer that averages over axes with these names."""
    model, state = vn.nn.make_with_state(vn.nn.BatchNorm)(channels, names or None)

    def apply(model: Any, state: Any, x: Any) -> tuple[Any, Any]:
        for name in reversed(names):
            model = vn.nn.batched(model, name)
        y, state = model(arranged(x, layout, takes), state)
        return arranged(y, takes, layout), state

    return Norm(apply, model, state)


class Block(vn.Module):
    """A bottleneck."""

    convs: list[vn.nn.Conv2d]
    norms: list[vn.nn.BatchNorm]
    shortcut: vn.nn.Sequential | None

    def __init__(self, n: int, m: int, stride: int, key: Any) -> None:
        k1, k2, k3, k4 = jr.split(key, 4)
        self.convs = [
            conv(n, m, 1, 1, k1),
            conv(m, m, 3, stride, k2),
            conv(m, 4 * m, 1, 1, k3),
        ]
        self.norms = [vn.nn.BatchNorm(c, "batch") for c in (m, m, 4 * m)]
        self.shortcut = None
        if stride != 1 or n != 4 * m:
            layers = [conv(n, 4 * m, 1, stride, k4), vn.nn.BatchNorm(4 * m, "batch")]
            self.shortcut = vn.nn.Sequential(layers)

    def __call__(self, x: Any, state: vn.nn.State) -> tuple[Any, vn.nn.State]:
        y, state = self.norms[0](self.convs[0](x), state)
        y, state = self.norms[1](self.convs[1](jax.nn.relu(y)), state)
        y, state = self.norms[2](self.convs[2](jax.nn.relu(y)), state)
        if self.shortcut is not None:
            x, state = self.shortcut(x, state)
        return jax.nn.relu(x + y), state


class ResNet(vn.Module):
    """Logits of one image ``(3, height, width)``."""

    stem: vn.nn.Conv2d
    norm: vn.nn.BatchNorm
    pool: vn.nn.MaxPool2d
    blocks: list[Block]
    head: vn.nn.Linear

    def __init__(self, size: Size, key: Any) -> None:
        plans = list(tasks.blocks(size))
        k1, k2, *keys = jr.split(key, 2 + len(plans))
        self.stem = conv(3, size.width, 7, 2, k1)
        self.norm = vn.nn.BatchNorm(size.width, "batch")
        self.pool = vn.nn.MaxPool2d(3, 2, 1)
        pairs = zip(plans, keys, strict=True)
        self.blocks = [Block(*plan, key) for plan, key in pairs]
        self.head = vn.nn.Linear(size.features, size.classes, key=k2)

    def __call__(self, x: Any, state: vn.nn.State) -> tuple[Any, vn.nn.State]:
        x, state = self.norm(self.stem(x), state)
        x = self.pool(jax.nn.relu(x))
        for block in self.blocks:
            x, state = block(x, state)
        return self.head(jnp.mean(x, (1, 2))), state


def resnet(size: Size) -> Program:
    """A training step of the ResNet."""

    def apply(model: Any, state: Any, xs: Any) -> tuple[Any, Any]:
        model = kernels(model, size.dtype)
        return vn.nn.batched(model)(xs.astype(size.dtype), state)

    make = functools.partial(vn.nn.make_with_state(ResNet), size)
    model, state = vn.filter_jit(make)(jr.key(0))
    return training(apply, filled(model), state, jit)


WAYS: dict[str, dict[str, Any]] = {
    "vernal": {"names": ("batch",), "takes": "NCHW"},
    "vernal whole": {"names": (), "takes": "NCHW"},
    "vernal pixels": {"names": ("batch", "row", "column"), "takes": "NHWC"},
}
NORMS = {name: both_ways(functools.partial(norm, **way)) for name, way in WAYS.items()}
RESNETS = {"vernal": Case(resnet, jax.device_put)}
