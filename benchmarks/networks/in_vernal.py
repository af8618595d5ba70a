"""The networks in vernal: a layer takes one example, and `batched` makes the batch.

"vernal" is compiled by `vn.filter_jit`, "vernal in jax.jit" by JAX's own.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from program import Program

import vernal as vn

from . import tasks, tools
from .tasks import SIZES, WIDTH, Case, Sizes
from .tools import batch_first, cross_entropy, filled

jit = batch_first(vn.filter_jit)


def conv(n: int, m: int, size: int, stride: int, key: Any) -> vn.nn.Conv2d:
    """A convolution that keeps the size, but for the stride."""
    return vn.nn.Conv2d(n, m, size, stride, size // 2, use_bias=False, key=key)


class Block(vn.Module):
    """A basic block."""

    conv1: vn.nn.Conv2d
    norm1: vn.nn.BatchNorm
    conv2: vn.nn.Conv2d
    norm2: vn.nn.BatchNorm
    shortcut: vn.nn.Sequential | None

    def __init__(self, n: int, m: int, stride: int, key: Any) -> None:
        k1, k2, k3 = jr.split(key, 3)
        self.conv1 = conv(n, m, 3, stride, k1)
        self.norm1 = vn.nn.BatchNorm(m, "batch")
        self.conv2 = conv(m, m, 3, 1, k2)
        self.norm2 = vn.nn.BatchNorm(m, "batch")
        self.shortcut = None
        if stride != 1 or n != m:
            layers = [conv(n, m, 1, stride, k3), vn.nn.BatchNorm(m, "batch")]
            self.shortcut = vn.nn.Sequential(layers)

    def __call__(self, x: Any, state: vn.nn.State) -> tuple[Any, vn.nn.State]:
        y, state = self.norm1(self.conv1(x), state)
        y, state = self.norm2(self.conv2(jax.nn.relu(y)), state)
        if self.shortcut is not None:
            x, state = self.shortcut(x, state)
        return jax.nn.relu(x + y), state


class ResNet(vn.Module):
    """Logits of one image ``(3, height, width)``."""

    stem: vn.nn.Conv2d
    norm: vn.nn.BatchNorm
    blocks: list[Block]
    head: vn.nn.Linear

    def __init__(self, width: int, key: Any) -> None:
        k1, k2, *keys = jr.split(key, 10)
        self.stem = conv(3, width, 3, 1, k1)
        self.norm = vn.nn.BatchNorm(width, "batch")
        plans = zip(tasks.blocks(width), keys, strict=True)
        self.blocks = [Block(*plan, key) for plan, key in plans]
        self.head = vn.nn.Linear(8 * width, tasks.CLASSES, key=k2)

    def __call__(self, x: Any, state: vn.nn.State) -> tuple[Any, vn.nn.State]:
        x, state = self.norm(self.stem(x), state)
        x = jax.nn.relu(x)
        for block in self.blocks:
            x, state = block(x, state)
        return self.head(jnp.mean(x, (1, 2))), state


def resnet_model(key: Any, width: int = WIDTH) -> tuple[ResNet, vn.nn.State]:
    """Model and state."""
    return vn.nn.make_with_state(ResNet)(width, key)


def abstract_resnet(key: Any, width: int = WIDTH) -> Any:
    """Its shapes only."""
    return jax.eval_shape(functools.partial(resnet_model, width=width), key)


def resnet(width: int = WIDTH, jit: Any = jit) -> Program:
    """A training step of the ResNet."""
    optimizer = optax.sgd(**tasks.SGD)

    def compute_loss(model: Any, state: Any, xs: Any, labels: Any) -> Any:
        logits, state = vn.nn.batched(model)(xs, state)
        return cross_entropy(logits, labels), state

    def step(carry: Any, batch: Any) -> Any:
        model, state, opt_state = carry
        value_and_grad = vn.filter_value_and_grad(compute_loss, has_aux=True)
        (loss, state), grads = value_and_grad(model, state, *batch)
        updates, opt_state = optimizer.update(grads, opt_state, model)
        return (vn.apply_updates(model, updates), state, opt_state), loss

    model, state = vn.filter_jit(resnet_model)(jr.key(0), width)
    model = filled(model)
    return Program(step, (model, state, optimizer.init(model)), jit)


class Layer(vn.Module):
    """Causal attention, then a network for each token."""

    norm1: vn.nn.LayerNorm
    attention: vn.nn.MultiheadAttention
    norm2: vn.nn.LayerNorm
    mlp: vn.nn.MLP

    def __init__(self, size: int, heads: int, key: Any) -> None:
        k1, k2 = jr.split(key)
        self.norm1 = vn.nn.LayerNorm(size)
        self.attention = vn.nn.MultiheadAttention(heads, size, key=k1)
        self.norm2 = vn.nn.LayerNorm(size)
        self.mlp = vn.nn.MLP(size, size, 4 * size, 1, jax.nn.gelu, key=k2)

    def __call__(self, x: Any) -> Any:
        causal = jnp.tril(jnp.ones((len(x), len(x)), bool))
        y = jax.vmap(self.norm1)(x)
        x = x + self.attention(y, y, y, causal)
        return x + jax.vmap(self.mlp)(jax.vmap(self.norm2)(x))


class Transformer(vn.Module):
    """Logits of the next token, at each of a text."""

    tokens: vn.nn.Embedding
    positions: vn.nn.Embedding
    layers: list[Layer]
    norm: vn.nn.LayerNorm
    head: vn.nn.Linear

    def __init__(self, sizes: Sizes, key: Any) -> None:
        k1, k2, k3, *keys = jr.split(key, 3 + sizes.depth)
        self.tokens = vn.nn.Embedding(sizes.vocabulary, sizes.width, key=k1)
        self.positions = vn.nn.Embedding(sizes.length, sizes.width, key=k2)
        self.layers = [Layer(sizes.width, sizes.heads, key) for key in keys]
        self.norm = vn.nn.LayerNorm(sizes.width)
        self.head = vn.nn.Linear(sizes.width, sizes.vocabulary, key=k3)

    def __call__(self, tokens: Any) -> Any:
        x = jax.vmap(self.tokens)(tokens)
        x = x + jax.vmap(self.positions)(jnp.arange(len(tokens)))
        for layer in self.layers:
            x = layer(x)
        return jax.vmap(self.head)(jax.vmap(self.norm)(x))


def transformer(sizes: Sizes = SIZES, jit: Any = jit) -> Program:
    """A training step of the transformer."""
    optimizer = optax.adamw(**tasks.ADAMW)

    def compute_loss(model: Any, tokens: Any, targets: Any) -> Any:
        return cross_entropy(vn.nn.batched(model)(tokens), targets)

    def step(carry: Any, batch: Any) -> Any:
        model, opt_state = carry
        loss, grads = vn.filter_value_and_grad(compute_loss)(model, *batch)
        updates, opt_state = optimizer.update(grads, opt_state, model)
        return (vn.apply_updates(model, updates), opt_state), loss

    model = filled(vn.filter_jit(Transformer)(sizes, jr.key(0)))
    return Program(step, (model, optimizer.init(model)), jit)


RESNETS = {
    "vernal": Case(resnet, jax.device_put),
    "vernal in jax.jit": Case(functools.partial(resnet, jit=tools.jit), jax.device_put),
}
TRANSFORMERS = {
    "vernal": Case(transformer, jax.device_put),
    "vernal in jax.jit": Case(
        functools.partial(transformer, jit=tools.jit), jax.device_put
    ),
}
