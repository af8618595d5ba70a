"""One small network twice: in vernal, and in JAX alone over a dict of the same arrays.

By hand, batch normalization takes one pass over the data: sums of ``x - s`` and of its
square, with the running mean for ``s``.
"""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax

import vernal as vn

CHANNELS = 4


class Net(vn.Module):
    """Convolution, BatchNorm, ReLU, average pool, Linear: of one image."""

    conv: vn.nn.Conv2d
    norm: vn.nn.BatchNorm
    linear: vn.nn.Linear

    def __init__(self, axis_name: Any, key: Any) -> None:
        a, b = jr.split(key)
        self.conv = vn.nn.Conv2d(3, CHANNELS, 3, padding=1, key=a)
        self.norm = vn.nn.BatchNorm(CHANNELS, axis_name)
        self.linear = vn.nn.Linear(CHANNELS, 2, key=b)

    def __call__(self, x: Any, state: Any) -> Any:
        x, state = self.norm(self.conv(x), state)
        return self.linear(jnp.mean(jax.nn.relu(x), (1, 2))), state


def in_vernal(axis_name: Any = "batch") -> tuple[Any, Any]:
    """The network and its state."""
    return vn.nn.make_with_state(Net)(axis_name, jr.key(0))


def as_dicts(net: Any) -> tuple[Any, Any]:
    """Its parameters and statistics for the functions by hand."""
    params = {
        "kernel": net.conv.weight,
        "shift": net.conv.bias,
        "scale": net.norm.weight,
        "offset": net.norm.bias,
        "weight": net.linear.weight,
        "bias": net.linear.bias,
    }
    zeros = jnp.zeros(CHANNELS)
    return params, {"count": jnp.array(0), "mean": zeros, "var": zeros + 1}


def loss(net: Any, state: Any, xs: Any, ys: Any) -> Any:
    """The mean squared error of a batch, and the new state."""
    axes: Any = {"in_axes": (0, None), "out_axes": (0, None)}
    out, state = jax.vmap(net, axis_name="batch", **axes)(xs, state)
    return jnp.mean((out - ys) ** 2), state


def loss_by_hand(params: Any, old: Any, xs: Any, ys: Any, across: Any = None) -> Any:
    """The same; ``across`` is the axis of devices, inside of ``shard_map``."""
    x = lax.conv_general_dilated(xs, params["kernel"], (1, 1), "SAME")
    x = x + params["shift"]
    shift = old["mean"][:, None, None]
    sums = jnp.stack([x - shift, (x - shift) ** 2]).mean((1, 3, 4))
    first, second = sums if across is None else lax.pmean(sums, across)
    mean, var = old["mean"] + first, second - first**2
    scale = (lax.rsqrt(var + 1e-5) * params["scale"])[:, None, None]
    x = (x - mean[:, None, None]) * scale + params["offset"][:, None, None]
    pooled = jnp.mean(jax.nn.relu(x), (2, 3))
    out = pooled @ params["weight"].T + params["bias"]
    new = {
        "count": old["count"] + 1,
        "mean": 0.99 * old["mean"] + 0.01 * mean,
        "var": 0.99 * old["var"] + 0.01 * var,
    }
    return jnp.mean((out - ys) ** 2), lax.stop_gradient(new)


def training_step(loss: Any, across: Any = None) -> Any:
    """``step(params, state, xs, ys)`` of gradient descent."""

    def step(params: Any, state: Any, xs: Any, ys: Any) -> Any:
        grads, state = jax.grad(loss, has_aux=True)(params, state, xs, ys)
        if across is not None:
            grads = lax.pmean(grads, across)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), state

    return step


def data(examples: int = 16, size: int = 8) -> tuple[Any, Any]:
    """Images and targets."""
    xs = jr.normal(jr.key(1), (examples, 3, size, size))
    return xs, jnp.ones((examples, 2))
