"""The networks in Flax NNX: layers take whole batches, channels last.

"nnx" passes the objects through `nnx.jit`. "nnx split" takes them apart once, before
training, and puts them together within `jax.jit`, as its guide to performance advises.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from program import Program

from . import tasks, tools
from .tasks import SIZES, WIDTH, Case, Sizes, fill_flax
from .tools import Arranged, cross_entropy, filled, last


def conv(n: int, m: int, size: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    """A convolution that keeps the size, but for the stride."""
    return nnx.Conv(
        n, m, (size, size), stride, padding=size // 2, use_bias=False, rngs=rngs
    )


class Block(nnx.Module):
    """A basic block."""

    def __init__(self, n: int, m: int, stride: int, *, rngs: nnx.Rngs) -> None:
        self.conv1 = conv(n, m, 3, stride, rngs)
        self.norm1 = nnx.BatchNorm(m, rngs=rngs)
        self.conv2 = conv(m, m, 3, 1, rngs)
        self.norm2 = nnx.BatchNorm(m, rngs=rngs)
        layers = []
        if stride != 1 or n != m:
            layers = [conv(n, m, 1, stride, rngs), nnx.BatchNorm(m, rngs=rngs)]
        self.shortcut = nnx.Sequential(*layers)

    def __call__(self, x: Any) -> Any:
        y = nnx.relu(self.norm1(self.conv1(x)))
        return nnx.relu(self.shortcut(x) + self.norm2(self.conv2(y)))


class ResNet(nnx.Module):
    """Logits of images ``(batch, height, width, 3)``."""

    def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
        self.stem = conv(3, width, 3, 1, rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        plans = tasks.blocks(width)
        self.blocks = nnx.List([Block(*plan, rngs=rngs) for plan in plans])
        self.head = nnx.Linear(8 * width, tasks.CLASSES, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = nnx.relu(self.norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(jnp.mean(x, (1, 2)))


def resnet_model(key: Any, width: int = WIDTH) -> ResNet:
    """The model, with its state in it."""
    return ResNet(width, rngs=nnx.Rngs(key))


def abstract_resnet(key: Any, width: int = WIDTH) -> Any:
    """Its shapes only."""
    return nnx.eval_shape(functools.partial(resnet_model, width=width), key)


class Layer(nnx.Module):
    """Causal attention, then a network for each token."""

    def __init__(self, size: int, heads: int, *, rngs: nnx.Rngs) -> None:
        self.norm1 = nnx.LayerNorm(size, epsilon=tasks.EPS, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            heads, size, use_bias=False, decode=False, rngs=rngs
        )
        self.norm2 = nnx.LayerNorm(size, epsilon=tasks.EPS, rngs=rngs)
        self.up = nnx.Linear(size, 4 * size, rngs=rngs)
        self.down = nnx.Linear(4 * size, size, rngs=rngs)

    def __call__(self, x: Any, mask: Any) -> Any:
        x = x + self.attention(self.norm1(x), mask=mask)
        return x + self.down(nnx.gelu(self.up(self.norm2(x))))


class Transformer(nnx.Module):
    """Logits of the next token, at each of a batch of texts."""

    def __init__(self, sizes: Sizes, *, rngs: nnx.Rngs) -> None:
        self.tokens = nnx.Embed(sizes.vocabulary, sizes.width, rngs=rngs)
        self.positions = nnx.Embed(sizes.length, sizes.width, rngs=rngs)
        self.layers = nnx.List(
            [Layer(sizes.width, sizes.heads, rngs=rngs) for _ in range(sizes.depth)]
        )
        self.norm = nnx.LayerNorm(sizes.width, epsilon=tasks.EPS, rngs=rngs)
        self.head = nnx.Linear(sizes.width, sizes.vocabulary, rngs=rngs)

    def __call__(self, tokens: Any) -> Any:
        x = self.tokens(tokens) + self.positions(jnp.arange(tokens.shape[1]))
        mask = nnx.make_causal_mask(tokens)
        for layer in self.layers:
            x = layer(x, mask)
        return self.head(self.norm(x))


def training(model: Any, tx: Any, split: bool) -> Program:
    """A training step of either model."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    model = nnx.merge(graphdef, filled(params, fill_flax), rest)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    def compute_loss(model: Any, xs: Any, labels: Any) -> Any:
        return cross_entropy(model(xs), labels)

    def step(carry: Any, batch: Any) -> Any:
        model, optimizer = carry
        loss, grads = nnx.value_and_grad(compute_loss)(model, *batch)
        optimizer.update(model, grads)
        return carry, loss

    if not split:
        return Program(step, (model, optimizer), jit)
    graphdef, state = nnx.split((model, optimizer))

    def split_step(state: Any, batch: Any) -> Any:
        carry, loss = step(nnx.merge(graphdef, state), batch)
        return nnx.state(carry), loss

    return Program(split_step, state, tools.jit)


class InPlace(Arranged):
    """A compiled step that changes the objects, and returns only the loss."""

    def __call__(self, carry: Any, batch: Any) -> Any:
        """Runs it."""
        return carry, super().__call__(carry, batch)


def jit(step: Any, donate: bool = False) -> Any:
    """The step in `nnx.jit`, which sees the model and the optimizer."""

    def train_step(model: Any, optimizer: Any, batch: Any) -> Any:
        return step((model, optimizer), batch)[1]

    jitted = nnx.jit(train_step, donate_argnums=(0, 1) if donate else None)
    return InPlace(jitted, lambda carry, batch: (*carry, batch))


def resnet(width: int = WIDTH, split: bool = False) -> Program:
    """A training step of the ResNet."""
    model = nnx.jit(resnet_model, static_argnames="width")(jax.random.key(0), width)
    return training(model, optax.sgd(**tasks.SGD), split)


def transformer(sizes: Sizes = SIZES, split: bool = False) -> Program:
    """A training step of the transformer."""
    model = nnx.jit(lambda rngs: Transformer(sizes, rngs=rngs))(nnx.Rngs(0))
    return training(model, optax.adamw(**tasks.ADAMW), split)


RESNETS = {
    "nnx": Case(resnet, last),
    "nnx split": Case(functools.partial(resnet, split=True), last),
}
TRANSFORMERS = {
    "nnx": Case(transformer, jax.device_put),
    "nnx split": Case(functools.partial(transformer, split=True), jax.device_put),
}
