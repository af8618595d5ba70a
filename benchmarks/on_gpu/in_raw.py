"""Plain JAX: functions of nested dicts. Statistics are taken in float32."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from networks import raw_resnet as small
from networks.raw_resnet import FIRST, LAST, conv, init_norm
from networks.tasks import Case, fill_last
from networks.tools import jit, last
from program import Program, fill

from . import tasks
from .tasks import Layout, Norm, Size
from .tools import both_ways, kernels, training

ORDERS = {"NCHW": FIRST, "NHWC": LAST}


def in_float32(norm: Callable[..., Any]) -> Callable[..., Any]:
    """A normalization that computes in float32, whatever it is given."""

    def apply(params: Any, stats: Any, x: Any, order: small.Layout) -> tuple[Any, Any]:
        y, stats = norm(params, stats, x.astype(jnp.float32), order)
        return y.astype(x.dtype), stats

    return apply


one_pass, two_pass = in_float32(small.one_pass), in_float32(small.batch_norm)


def norm(channels: int, layout: Layout, dtype: str, of: Any) -> Norm:
    """Either of the two."""
    apply = functools.partial(of, order=ORDERS[layout])
    return Norm(apply, *init_norm(channels))


def kernel(n: int, m: int, size: int, order: small.Layout) -> Any:
    """Initial weights."""
    if order == FIRST:
        return jnp.asarray(fill((m, n, size, size)))
    return jnp.asarray(fill_last((size, size, n, m)))


def init_block(n: int, m: int, stride: int, order: small.Layout) -> tuple[Any, Any]:
    """Parameters and running averages, by the names of the layers."""
    plan = {"1": (n, m, 1), "2": (m, m, 3), "3": (m, 4 * m, 1)}
    if stride != 1 or n != 4 * m:
        plan["shortcut"] = (n, 4 * m, 1)
    params, stats = {}, {}
    for name, (inputs, outputs, size) in plan.items():
        scale, stats[name] = init_norm(outputs)
        params[name] = {"kernel": kernel(inputs, outputs, size, order), "norm": scale}
    return params, stats


def apply_block(
    params: Any, stats: Any, x: Any, stride: int, order: small.Layout
) -> tuple[Any, Any]:
    """A bottleneck."""
    new = {}

    def layer(name: str, x: Any, stride: int = 1) -> Any:
        y = conv(x, params[name]["kernel"], stride, order)
        y, new[name] = one_pass(params[name]["norm"], stats[name], y, order)
        return y

    y = jax.nn.relu(layer("1", x))
    y = jax.nn.relu(layer("2", y, stride))
    y = layer("3", y)
    if "shortcut" in params:
        x = layer("shortcut", x, stride)
    return jax.nn.relu(x + y), new


def max_pool(x: Any, order: small.Layout) -> Any:
    """The largest of 3 × 3, at every second place."""
    per_axis = {"N": (1, 1, (0, 0)), "C": (1, 1, (0, 0))}
    plan = [per_axis.get(axis, (3, 2, (1, 1))) for axis in order[0]]
    return lax.reduce_window(x, -jnp.inf, lax.max, *map(tuple, zip(*plan, strict=True)))


def resnet(size: Size, layout: Layout) -> Program:
    """A training step of the ResNet, with a variance from one pass."""
    order, plan = ORDERS[layout], list(tasks.blocks(size))
    both = [init_block(*block, order) for block in plan]
    head = {
        "weight": jnp.asarray(fill_last((size.features, size.classes))),
        "bias": jnp.zeros(size.classes),
    }
    scale, averages = init_norm(size.width)
    stem = {"kernel": kernel(3, size.width, 7, order), "norm": scale}
    params = {"stem": stem, "blocks": [params for params, _ in both], "head": head}
    stats = {"stem": averages, "blocks": [stats for _, stats in both]}

    def apply(params: Any, stats: Any, xs: Any) -> tuple[Any, Any]:
        params, new = kernels(params, size.dtype), {"blocks": []}
        stem, head = params["stem"], params["head"]
        x = conv(xs.astype(size.dtype), stem["kernel"], 2, order)
        x, new["stem"] = one_pass(stem["norm"], stats["stem"], x, order)
        x = max_pool(jax.nn.relu(x), order)
        parts = zip(params["blocks"], stats["blocks"], plan, strict=True)
        for block, averages, (_, _, stride) in parts:
            x, averages = apply_block(block, averages, x, stride, order)
            new["blocks"].append(averages)
        x = jnp.mean(x, (2, 3) if order == FIRST else (1, 2))
        return x @ head["weight"] + head["bias"], new

    return training(apply, params, stats, jit)


NORMS = {
    "raw": both_ways(functools.partial(norm, of=two_pass)),
    "raw one-pass": both_ways(functools.partial(norm, of=one_pass)),
}
RESNETS = {
    "raw one-pass": Case(functools.partial(resnet, layout="NCHW"), jax.device_put),
    "raw one-pass, NHWC": Case(functools.partial(resnet, layout="NHWC"), last),
}
