"""The networks in Equinox: layers take one example, `jax.vmap` makes the batch."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from program import Program

from . import tasks
from .tasks import SIZES, WIDTH, Case, Sizes
from .tools import batch_first, cross_entropy, filled

jit = batch_first(eqx.filter_jit)


def conv(n: int, m: int, size: int, stride: int, key: Any) -> eqx.nn.Conv2d:
    """A convolution that keeps the size, but for the stride."""
    return eqx.nn.Conv2d(n, m, size, stride, size // 2, use_bias=False, key=key)


class Block(eqx.Module):
    """A basic block."""

    conv1: eqx.nn.Conv2d
    norm1: eqx.nn.BatchNorm
    conv2: eqx.nn.Conv2d
    norm2: eqx.nn.BatchNorm
    shortcut: eqx.nn.Sequential | None

    def __init__(self, n: int, m: int, stride: int, key: Any) -> None:
        k1, k2, k3 = jr.split(key, 3)
        self.conv1 = conv(n, m, 3, stride, k1)
        self.norm1 = eqx.nn.BatchNorm(m, "batch", mode="batch")
        self.conv2 = conv(m, m, 3, 1, k2)
        self.norm2 = eqx.nn.BatchNorm(m, "batch", mode="batch")
        self.shortcut = None
        if stride != 1 or n != m:
            norm = eqx.nn.BatchNorm(m, "batch", mode="batch")
            self.shortcut = eqx.nn.Sequential([conv(n, m, 1, stride, k3), norm])

    def __call__(self, x: Any, state: eqx.nn.State) -> tuple[Any, eqx.nn.State]:
        y, state = self.norm1(self.conv1(x), state)
        y, state = self.norm2(self.conv2(jax.nn.relu(y)), state)
        if self.shortcut is not None:
            x, state = self.shortcut(x, state)
        return jax.nn.relu(x + y), state


class ResNet(eqx.Module):
    """Logits of one image ``(3, height, width)``."""

    stem: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm
    blocks: list[Block]
    head: eqx.nn.Linear

    def __init__(self, width: int, key: Any) -> None:
        k1, k2, *keys = jr.split(key, 10)
        self.stem = conv(3, width, 3, 1, k1)
        self.norm = eqx.nn.BatchNorm(width, "batch", mode="batch")
        plans = zip(tasks.blocks(width), keys, strict=True)
        self.blocks = [Block(*plan, key) for plan, key in plans]
        self.head = eqx.nn.Linear(8 * width, tasks.CLASSES, key=k2)

    def __call__(self, x: Any, state: eqx.nn.State) -> tuple[Any, eqx.nn.State]:
        x, state = self.norm(self.stem(x), state)
        x = jax.nn.relu(x)
        for block in self.blocks:
            x, state = block(x, state)
        return self.head(jnp.mean(x, (1, 2))), state


def resnet_model(key: Any, width: int = WIDTH) -> tuple[ResNet, eqx.nn.State]:
    """Model and state."""
    return eqx.nn.make_with_state(ResNet)(width, key)


def abstract_resnet(key: Any, width: int = WIDTH) -> Any:
    """Its shapes only."""
    return eqx.filter_eval_shape(resnet_model, key, width)


def resnet(width: int = WIDTH) -> Program:
    """A training step of the ResNet."""
    optimizer = optax.sgd(**tasks.SGD)

    def compute_loss(model: Any, state: Any, xs: Any, labels: Any) -> Any:
        batched = jax.vmap(
            model, axis_name="batch", in_axes=(0, None), out_axes=(0, None)
        )
        logits, state = batched(xs, state)
        return cross_entropy(logits, labels), state

    def step(carry: Any, batch: Any) -> Any:
        model, state, opt_state = carry
        value_and_grad = eqx.filter_value_and_grad(compute_loss, has_aux=True)
        (loss, state), grads = value_and_grad(model, state, *batch)
        params = eqx.filter(model, eqx.is_inexact_array)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (eqx.apply_updates(model, updates), state, opt_state), loss

    model, state = eqx.filter_jit(resnet_model)(jr.key(0), width)
    model = filled(model)
    opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    return Program(step, (model, state, opt_state), jit)


class Layer(eqx.Module):
    """Causal attention, then a network for each token."""

    norm1: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    norm2: eqx.nn.LayerNorm
    mlp: eqx.nn.MLP

    def __init__(self, size: int, heads: int, key: Any) -> None:
        k1, k2 = jr.split(key)
        self.norm1 = eqx.nn.LayerNorm(size)
        self.attention = eqx.nn.MultiheadAttention(heads, size, key=k1)
        self.norm2 = eqx.nn.LayerNorm(size)
        self.mlp = eqx.nn.MLP(size, size, 4 * size, 1, jax.nn.gelu, key=k2)

    def __call__(self, x: Any) -> Any:
        causal = jnp.tril(jnp.ones((len(x), len(x)), bool))
        y = jax.vmap(self.norm1)(x)
        x = x + self.attention(y, y, y, causal)
        return x + jax.vmap(self.mlp)(jax.vmap(self.norm2)(x))


class Transformer(eqx.Module):
    """Logits of the next token, at each of a text."""

    tokens: eqx.nn.Embedding
    positions: eqx.nn.Embedding
    layers: list[Layer]
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __init__(self, sizes: Sizes, key: Any) -> None:
        k1, k2, k3, *keys = jr.split(key, 3 + sizes.depth)
        self.tokens = eqx.nn.Embedding(sizes.vocabulary, sizes.width, key=k1)
        self.positions = eqx.nn.Embedding(sizes.length, sizes.width, key=k2)
        self.layers = [Layer(sizes.width, sizes.heads, key) for key in keys]
        self.norm = eqx.nn.LayerNorm(sizes.width)
        self.head = eqx.nn.Linear(sizes.width, sizes.vocabulary, key=k3)

    def __call__(self, tokens: Any) -> Any:
        x = jax.vmap(self.tokens)(tokens)
        x = x + jax.vmap(self.positions)(jnp.arange(len(tokens)))
        for layer in self.layers:
            x = layer(x)
        return jax.vmap(self.head)(jax.vmap(self.norm)(x))


def transformer(sizes: Sizes = SIZES) -> Program:
    """A training step of the transformer."""
    optimizer = optax.adamw(**tasks.ADAMW)

    def compute_loss(model: Any, tokens: Any, targets: Any) -> Any:
        return cross_entropy(jax.vmap(model)(tokens), targets)

    def step(carry: Any, batch: Any) -> Any:
        model, opt_state = carry
        loss, grads = eqx.filter_value_and_grad(compute_loss)(model, *batch)
        params = eqx.filter(model, eqx.is_inexact_array)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (eqx.apply_updates(model, updates), opt_state), loss

    model = filled(eqx.filter_jit(Transformer)(sizes, jr.key(0)))
    opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    return Program(step, (model, opt_state), jit)


RESNETS = {"equinox": Case(resnet, jax.device_put)}
TRANSFORMERS = {"equinox": Case(transformer, jax.device_put)}
