"""The networks in Haiku: layers take whole batches, channels last."""

import functools
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import optax
from program import Program

from . import tasks
from .tasks import SIZES, WIDTH, Case, Sizes, fill_last
from .tools import cross_entropy, filled, jit, last


def conv(features: int, size: int, stride: int) -> hk.Conv2D:
    """A convolution that keeps the size, but for the stride."""
    padding = (size // 2, size // 2)
    return hk.Conv2D(features, size, stride, padding=[padding] * 2, with_bias=False)


def norm(x: Any) -> Any:
    """Batch normalization in training."""
    return hk.BatchNorm(True, True, tasks.MOMENTUM, tasks.EPS)(x, is_training=True)


def block(x: Any, n: int, m: int, stride: int) -> Any:
    """A basic block."""
    y = jax.nn.relu(norm(conv(m, 3, stride)(x)))
    y = norm(conv(m, 3, 1)(y))
    if stride != 1 or n != m:
        x = norm(conv(m, 1, stride)(x))
    return jax.nn.relu(x + y)


def apply_resnet(x: Any, width: int) -> Any:
    """Logits of images ``(batch, height, width, 3)``."""
    x = jax.nn.relu(norm(conv(width, 3, 1)(x)))
    for plan in tasks.blocks(width):
        x = block(x, *plan)
    return hk.Linear(tasks.CLASSES)(jnp.mean(x, (1, 2)))


def network(width: int) -> Any:
    """A pair of pure functions."""
    return hk.transform_with_state(functools.partial(apply_resnet, width=width))


def resnet_model(key: Any, width: int = WIDTH) -> Any:
    """Parameters and running averages."""
    return network(width).init(key, jnp.zeros((1, 32, 32, 3)))


def abstract_resnet(key: Any, width: int = WIDTH) -> Any:
    """Its shapes only."""
    return jax.eval_shape(functools.partial(resnet_model, width=width), key)


def resnet(width: int = WIDTH) -> Program:
    """A training step of the ResNet."""
    optimizer = optax.sgd(**tasks.SGD)
    apply = network(width).apply

    def compute_loss(params: Any, state: Any, xs: Any, labels: Any) -> Any:
        logits, state = apply(params, state, None, xs)
        return cross_entropy(logits, labels), state

    def step(carry: Any, batch: Any) -> Any:
        params, state, opt_state = carry
        value_and_grad = jax.value_and_grad(compute_loss, has_aux=True)
        (loss, state), grads = value_and_grad(params, state, *batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), state, opt_state), loss

    make = jax.jit(resnet_model, static_argnums=1)
    params, state = make(jax.random.key(0), width)
    # Its scales and offsets are (1, 1, 1, channels), and stay.
    params = {
        name: part if "batch_norm" in name else filled(part, weights)
        for name, part in params.items()
    }
    return Program(step, (params, state, optimizer.init(params)), jit)


def weights(name: str, shape: tuple[int, ...]) -> Any:
    """The weights of all libraries, as this one has them."""
    return tasks.fill(shape) if "embeddings" in name else fill_last(shape)


def layer_norm(x: Any) -> Any:
    """Normalizes the last axis."""
    return hk.LayerNorm(-1, create_scale=True, create_offset=True)(x)


def apply_transformer(tokens: Any, sizes: Sizes) -> Any:
    """Logits of the next token, at each of a batch of texts."""
    depth, width, heads, length, vocabulary = sizes
    x = hk.Embed(vocabulary, width)(tokens)
    x = x + hk.Embed(length, width)(jnp.arange(tokens.shape[1]))
    causal = jnp.tril(jnp.ones((1, 1, length, length), bool))
    init = hk.initializers.VarianceScaling()
    for _ in range(depth):
        y = layer_norm(x)
        attention = hk.MultiHeadAttention(
            heads, width // heads, w_init=init, with_bias=False, model_size=width
        )
        x = x + attention(y, y, y, causal)
        y = jax.nn.gelu(hk.Linear(4 * width)(layer_norm(x)))
        x = x + hk.Linear(width)(y)
    return hk.Linear(vocabulary)(layer_norm(x))


def transformer(sizes: Sizes = SIZES) -> Program:
    """A training step of the transformer."""
    optimizer = optax.adamw(**tasks.ADAMW)
    model = hk.transform(functools.partial(apply_transformer, sizes=sizes))

    def compute_loss(params: Any, tokens: Any, targets: Any) -> Any:
        return cross_entropy(model.apply(params, None, tokens), targets)

    def step(carry: Any, batch: Any) -> Any:
        params, opt_state = carry
        loss, grads = jax.value_and_grad(compute_loss)(params, *batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    tokens = jnp.zeros((1, sizes.length), int)
    params = filled(jax.jit(model.init)(jax.random.key(0), tokens), weights)
    return Program(step, (params, optimizer.init(params)), jit)


RESNETS = {"haiku": Case(resnet, last)}
TRANSFORMERS = {"haiku": Case(transformer, jax.device_put)}
