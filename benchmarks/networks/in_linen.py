"""The networks in Flax Linen: layers take whole batches, channels last."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.training.train_state import TrainState
from program import Program

from . import tasks
from .tasks import SIZES, WIDTH, Case, Sizes, fill_flax
from .tools import cross_entropy, filled, jit, last


def conv(features: int, size: int, stride: int) -> nn.Conv:
    """A convolution that keeps the size, but for the stride."""
    return nn.Conv(features, (size, size), stride, padding=size // 2, use_bias=False)


norm = functools.partial(nn.BatchNorm, use_running_average=False)


class Block(nn.Module):
    """A basic block."""

    inputs: int
    outputs: int
    stride: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        y = nn.relu(norm()(conv(self.outputs, 3, self.stride)(x)))
        y = norm()(conv(self.outputs, 3, 1)(y))
        if self.stride != 1 or self.inputs != self.outputs:
            x = norm()(conv(self.outputs, 1, self.stride)(x))
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Logits of images ``(batch, height, width, 3)``."""

    width: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.relu(norm()(conv(self.width, 3, 1)(x)))
        for plan in tasks.blocks(self.width):
            x = Block(*plan)(x)
        return nn.Dense(tasks.CLASSES)(jnp.mean(x, (1, 2)))


def resnet_model(key: Any, width: int = WIDTH) -> Any:
    """Parameters and running averages."""
    return ResNet(width).init(key, jnp.zeros((1, 32, 32, 3)))


def abstract_resnet(key: Any, width: int = WIDTH) -> Any:
    """Its shapes only."""
    return jax.eval_shape(functools.partial(resnet_model, width=width), key)


class WithStats(TrainState):
    """What training changes."""

    batch_stats: Any


def resnet(width: int = WIDTH) -> Program:
    """A training step of the ResNet."""
    variables = jax.jit(resnet_model, static_argnums=1)(jax.random.key(0), width)
    carry = WithStats.create(
        apply_fn=ResNet(width).apply,
        params=filled(variables["params"], fill_flax),
        tx=optax.sgd(**tasks.SGD),
        batch_stats=variables["batch_stats"],
    )

    def step(carry: WithStats, batch: Any) -> tuple[WithStats, Any]:
        xs, labels = batch

        def compute_loss(params: Any) -> Any:
            variables = {"params": params, "batch_stats": carry.batch_stats}
            logits, new = carry.apply_fn(variables, xs, mutable=["batch_stats"])
            return cross_entropy(logits, labels), new["batch_stats"]

        value_and_grad = jax.value_and_grad(compute_loss, has_aux=True)
        (loss, batch_stats), grads = value_and_grad(carry.params)
        return carry.apply_gradients(grads=grads, batch_stats=batch_stats), loss

    return Program(step, carry, jit)


class Layer(nn.Module):
    """Causal attention, then a network for each token."""

    heads: int

    @nn.compact
    def __call__(self, x: Any, mask: Any) -> Any:
        size = x.shape[-1]
        attention = nn.MultiHeadDotProductAttention(self.heads, use_bias=False)
        x = x + attention(nn.LayerNorm(tasks.EPS)(x), mask=mask)
        y = nn.gelu(nn.Dense(4 * size)(nn.LayerNorm(tasks.EPS)(x)))
        return x + nn.Dense(size)(y)


class Transformer(nn.Module):
    """Logits of the next token, at each of a batch of texts."""

    sizes: Sizes

    @nn.compact
    def __call__(self, tokens: Any) -> Any:
        depth, width, heads, length, vocabulary = self.sizes
        positions = nn.Embed(length, width)(jnp.arange(tokens.shape[1]))
        x = nn.Embed(vocabulary, width)(tokens) + positions
        mask = nn.make_causal_mask(tokens)
        for _ in range(depth):
            x = Layer(heads)(x, mask)
        return nn.Dense(vocabulary)(nn.LayerNorm(tasks.EPS)(x))


def transformer(sizes: Sizes = SIZES) -> Program:
    """A training step of the transformer."""
    model = Transformer(sizes)
    tokens = jnp.zeros((1, sizes.length), int)
    carry = TrainState.create(
        apply_fn=model.apply,
        params=filled(jax.jit(model.init)(jax.random.key(0), tokens), fill_flax),
        tx=optax.adamw(**tasks.ADAMW),
    )

    def step(carry: TrainState, batch: Any) -> tuple[TrainState, Any]:
        tokens, targets = batch

        def compute_loss(params: Any) -> Any:
            return cross_entropy(carry.apply_fn(params, tokens), targets)

        loss, grads = jax.value_and_grad(compute_loss)(carry.params)
        return carry.apply_gradients(grads=grads), loss

    return Program(step, carry, jit)


RESNETS = {"linen": Case(resnet, last)}
TRANSFORMERS = {"linen": Case(transformer, jax.device_put)}
