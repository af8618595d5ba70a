"""The transformer in plain JAX: functions of nested dicts, as textbooks have them."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from program import Program, fill

from . import tasks
from .tasks import EPS, SIZES, Sizes, fill_last
from .tools import cross_entropy, jit


def linear(n: int, m: int) -> Any:
    """A layer with a bias."""
    return {"weight": jnp.asarray(fill_last((n, m))), "bias": jnp.zeros(m)}


def init_norm(size: int) -> Any:
    """Scale and bias."""
    return {"scale": jnp.ones(size), "bias": jnp.zeros(size)}


def init_layer(size: int) -> Any:
    """One block."""
    heads = ("query", "key", "value", "out")
    return {
        "norm1": init_norm(size),
        **{name: jnp.asarray(fill_last((size, size))) for name in heads},
        "norm2": init_norm(size),
        "up": linear(size, 4 * size),
        "down": linear(4 * size, size),
    }


def layer_norm(params: Any, x: Any) -> Any:
    """Normalizes the last axis."""
    mean = jnp.mean(x, -1, keepdims=True)
    variance = jnp.var(x, -1, keepdims=True)
    y = (x - mean) / jnp.sqrt(variance + EPS)
    return y * params["scale"] + params["bias"]


def attend(params: Any, x: Any, heads: int) -> Any:
    """Causal attention of ``(batch, length, size)``."""
    shape = (*x.shape[:2], heads, -1)
    q, k, v = ((x @ params[name]).reshape(shape) for name in ("query", "key", "value"))
    products = jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(q.shape[-1])
    causal = jnp.tril(jnp.ones(products.shape[-2:], bool))
    weights = jax.nn.softmax(jnp.where(causal, products, -jnp.inf))
    y = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
    return y.reshape(x.shape) @ params["out"]


def mlp(params: Any, x: Any) -> Any:
    """Two layers."""
    x = jax.nn.gelu(x @ params["up"]["weight"] + params["up"]["bias"])
    return x @ params["down"]["weight"] + params["down"]["bias"]


def transformer(sizes: Sizes = SIZES) -> Program:
    """A training step of the transformer."""
    optimizer = optax.adamw(**tasks.ADAMW)

    def compute_loss(params: Any, tokens: Any, targets: Any) -> Any:
        x = params["tokens"][tokens] + params["positions"]
        for layer in params["layers"]:
            x = x + attend(layer, layer_norm(layer["norm1"], x), sizes.heads)
            x = x + mlp(layer, layer_norm(layer["norm2"], x))
        logits = layer_norm(params["norm"], x) @ params["head"]["weight"]
        return cross_entropy(logits + params["head"]["bias"], targets)

    def step(carry: Any, batch: Any) -> Any:
        params, opt_state = carry
        loss, grads = jax.value_and_grad(compute_loss)(params, *batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    params = {
        "tokens": jnp.asarray(fill((sizes.vocabulary, sizes.width))),
        "positions": jnp.asarray(fill((sizes.length, sizes.width))),
        "layers": [init_layer(sizes.width) for _ in range(sizes.depth)],
        "norm": init_norm(sizes.width),
        "head": linear(sizes.width, sizes.vocabulary),
    }
    return Program(step, (params, optimizer.init(params)), jit)
