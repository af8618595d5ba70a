"""The ResNet in plain JAX: functions of nested dicts, as textbooks have them."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jax import lax
from program import Program, fill

from . import tasks
from .tasks import EPS, MOMENTUM, WIDTH, fill_last
from .tools import cross_entropy, jit

Layout = tuple[str, str, str]
FIRST: Layout = ("NCHW", "OIHW", "NCHW")
LAST: Layout = ("NHWC", "HWIO", "NHWC")


def normal(key: Any, shape: tuple[int, ...], fan_in: int) -> Any:
    """Initial weights of He et al."""
    return jr.normal(key, shape) * jnp.sqrt(2 / fan_in)


def init_conv(key: Any, n: int, m: int, size: int, layout: Layout) -> Any:
    """A kernel."""
    first = (m, n, size, size)
    shape = first if layout == FIRST else (size, size, n, m)
    return normal(key, shape, n * size * size)


def init_norm(size: int) -> tuple[Any, Any]:
    """Parameters, and running averages."""
    params = {"scale": jnp.ones(size), "bias": jnp.zeros(size)}
    return params, {"mean": jnp.zeros(size), "variance": jnp.ones(size)}


def init_block(
    keys: Iterator[Any], n: int, m: int, stride: int, layout: Layout
) -> tuple[Any, Any]:
    """A basic block, with a projection where the shape changes."""
    params, stats = {}, {}
    params["conv1"] = init_conv(next(keys), n, m, 3, layout)
    params["norm1"], stats["norm1"] = init_norm(m)
    params["conv2"] = init_conv(next(keys), m, m, 3, layout)
    params["norm2"], stats["norm2"] = init_norm(m)
    if stride != 1 or n != m:
        params["conv3"] = init_conv(next(keys), n, m, 1, layout)
        params["norm3"], stats["norm3"] = init_norm(m)
    return params, stats


def resnet_model(key: Any, width: int = WIDTH, layout: Layout = FIRST) -> Any:
    """Parameters and running averages."""
    keys = iter(jr.split(key, 21))
    params = {"conv": init_conv(next(keys), 3, width, 3, layout)}
    stats = {}
    params["norm"], stats["norm"] = init_norm(width)
    made = [init_block(keys, *plan, layout) for plan in tasks.blocks(width)]
    params["blocks"], stats["blocks"] = map(list, zip(*made, strict=True))
    weight = normal(next(keys), (8 * width, tasks.CLASSES), 8 * width)
    params["head"] = {"weight": weight, "bias": jnp.zeros(tasks.CLASSES)}
    return params, stats


def abstract_resnet(key: Any, width: int = WIDTH) -> Any:
    """Its shapes only."""
    return jax.eval_shape(functools.partial(resnet_model, width=width), key)


def conv(x: Any, kernel: Any, stride: int, layout: Layout) -> Any:
    """A convolution that keeps the size, but for the stride."""
    size = kernel.shape[layout[1].index("H")]
    padding = [(size // 2, size // 2)] * 2
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=layout
    )


def batch_norm(params: Any, stats: Any, x: Any, layout: Layout) -> tuple[Any, Any]:
    """Normalizes by the batch, and updates the running averages."""
    axes, shape = reduction(layout)
    mean, variance = jnp.mean(x, axes), jnp.var(x, axes)
    y = (x - mean.reshape(shape)) / jnp.sqrt(variance.reshape(shape) + EPS)
    y = y * params["scale"].reshape(shape) + params["bias"].reshape(shape)
    return y, updated(stats, mean, variance)


def one_pass(params: Any, stats: Any, x: Any, layout: Layout) -> tuple[Any, Any]:
    """The same from one pass over the data, and with one multiplication."""
    axes, shape = reduction(layout)
    mean = jnp.mean(x, axes)
    variance = jnp.maximum(jnp.mean(jnp.square(x), axes) - jnp.square(mean), 0)
    scale = lax.rsqrt(variance + EPS) * params["scale"]
    bias = params["bias"] - mean * scale
    y = x * scale.reshape(shape) + bias.reshape(shape)
    return y, updated(stats, mean, variance)


def reduction(layout: Layout) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The axes to reduce, and the shape of what is left, among the channels."""
    if layout == FIRST:
        return (0, 2, 3), (1, -1, 1, 1)
    return (0, 1, 2), (1, 1, 1, -1)


def updated(stats: Any, mean: Any, variance: Any) -> Any:
    """The running averages with this batch."""
    new = {"mean": mean, "variance": variance}
    return {k: MOMENTUM * stats[k] + (1 - MOMENTUM) * new[k] for k in stats}


def apply_block(
    params: Any, stats: Any, x: Any, stride: int, layout: Layout, norm: Any
) -> tuple[Any, Any]:
    """A basic block."""
    new = {}
    y = conv(x, params["conv1"], stride, layout)
    y, new["norm1"] = norm(params["norm1"], stats["norm1"], y, layout)
    y = conv(jax.nn.relu(y), params["conv2"], 1, layout)
    y, new["norm2"] = norm(params["norm2"], stats["norm2"], y, layout)
    if "conv3" in params:
        x = conv(x, params["conv3"], stride, layout)
        x, new["norm3"] = norm(params["norm3"], stats["norm3"], x, layout)
    return jax.nn.relu(x + y), new


def apply_resnet(
    params: Any, stats: Any, x: Any, layout: Layout, norm: Any
) -> tuple[Any, Any]:
    """Logits, and the new running averages."""
    new: dict[str, Any] = {"blocks": []}
    x = conv(x, params["conv"], 1, layout)
    x, new["norm"] = norm(params["norm"], stats["norm"], x, layout)
    x = jax.nn.relu(x)
    strides = [stride for _, _, stride in tasks.blocks(1)]
    both = zip(params["blocks"], stats["blocks"], strides, strict=True)
    for block, block_stats, stride in both:
        x, block_stats = apply_block(block, block_stats, x, stride, layout, norm)
        new["blocks"].append(block_stats)
    x = jnp.mean(x, (2, 3) if layout == FIRST else (1, 2))
    return x @ params["head"]["weight"] + params["head"]["bias"], new


def resnet(
    width: int = WIDTH, layout: Layout = FIRST, norm: Callable[..., Any] = batch_norm
) -> Program:
    """A training step of the ResNet."""
    optimizer = optax.sgd(**tasks.SGD)

    def compute_loss(params: Any, stats: Any, xs: Any, labels: Any) -> Any:
        logits, stats = apply_resnet(params, stats, xs, layout, norm)
        return cross_entropy(logits, labels), stats

    def step(carry: Any, batch: Any) -> Any:
        params, stats, opt_state = carry
        value_and_grad = jax.value_and_grad(compute_loss, has_aux=True)
        (loss, stats), grads = value_and_grad(params, stats, *batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), stats, opt_state), loss

    def weights(a: Any) -> Any:
        is_first = a.ndim == 4 and layout == FIRST
        return jnp.asarray(fill(a.shape) if is_first else fill_last(a.shape))

    make = functools.partial(resnet_model, width=width, layout=layout)
    params, stats = jax.jit(make)(jr.key(0))
    params = jax.tree.map(lambda a: weights(a) if a.ndim > 1 else a, params)
    return Program(step, (params, stats, optimizer.init(params)), jit)
