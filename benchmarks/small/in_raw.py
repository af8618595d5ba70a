"""Hand-written JAX over nested dictionaries, as from the textbook."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from program import Program, fill

from . import plain, values
from .values import MOMENTUM, WIDTH

Tree = dict[str, Any]


def linear_init(inputs: int, outputs: int) -> Tree:
    weight = jnp.array(fill((outputs, inputs)))
    return {"weight": weight, "bias": jnp.zeros(outputs)}


def norm_init(size: int) -> tuple[Tree, Tree]:
    moments = {"mean": jnp.zeros(size), "var": jnp.ones(size)}
    params = {"scale": jnp.ones(size), "bias": jnp.zeros(size)}
    return params, {"count": jnp.array(0), **moments}


def spectral_init(inputs: int, outputs: int) -> Tree:
    u, v = values.singular(outputs, inputs)
    return {"u": u, "v": v}


def linear(params: Tree, x: Any) -> Any:
    return x @ params["weight"].T + params["bias"]


def normalized(params: Tree, old: Tree, x: Any, mean: Any, var: Any) -> Any:
    y = (x - mean) / jnp.sqrt(var + 1e-5) * params["scale"] + params["bias"]
    mean, var = lax.stop_gradient((mean, var))
    new = {
        "count": old["count"] + 1,
        "mean": MOMENTUM * old["mean"] + (1 - MOMENTUM) * mean,
        "var": MOMENTUM * old["var"] + (1 - MOMENTUM) * var,
    }
    return y, new


def batch_norm(params: Tree, stats: Tree, x: Any) -> Any:
    return normalized(params, stats, x, jnp.mean(x, 0), jnp.var(x, 0))


def mapped_norm(params: Tree, stats: Tree, x: Any) -> Any:
    """The same for one example under `jax.vmap`."""
    mean = lax.pmean(x, "batch")
    return normalized(params, stats, x, mean, lax.pmean((x - mean) ** 2, "batch"))


def unit(x: Any) -> Any:
    return x / jnp.maximum(jnp.linalg.norm(x), 1e-12)


def spectral(params: Tree, vectors: Tree, x: Any) -> Any:
    weight = lax.stop_gradient(params["weight"])
    v = unit(vectors["u"] @ weight)
    u = unit(weight @ v)
    sigma = u @ params["weight"] @ v
    return linear({**params, "weight": params["weight"] / sigma}, x), {"u": u, "v": v}


def blocks(n: int) -> dict[str, Program]:
    params, stats = {}, {}
    for i in range(n):
        norm, stats[str(i)] = norm_init(4)
        params[str(i)] = {"norm": norm, "linear": linear_init(4, 4)}
    return {"raw": plain.adding(params, stats)}


def example_init() -> tuple[Tree, Tree]:
    (norm1, stats1), (norm2, stats2) = norm_init(3), norm_init(32)
    layers = {
        "spectral": linear_init(3, 32),
        "linear1": linear_init(32, 32),
        "linear2": linear_init(32, 3),
    }
    state = {"norm1": stats1, "norm2": stats2, "spectral": spectral_init(3, 32)}
    return {"norm1": norm1, "norm2": norm2, **layers}, state


def forward(params: Tree, old: Tree, x: Any, norm: Callable[..., Any]) -> Any:
    new = {}
    x, new["norm1"] = norm(params["norm1"], old["norm1"], x)
    x, new["spectral"] = spectral(params["spectral"], old["spectral"], x)
    x, new["norm2"] = norm(params["norm2"], old["norm2"], jax.nn.relu(x))
    x = jax.nn.relu(linear(params["linear1"], x))
    return linear(params["linear2"], x), new


def example() -> dict[str, Program]:
    def loss(params: Tree, state: Tree, xs: Any, ys: Any) -> Any:
        predicted, state = forward(params, state, xs, batch_norm)
        return plain.error(predicted, ys), state

    return {"raw": plain.training(loss, *example_init())}


def eager() -> dict[str, Callable[[], Any]]:
    (params, state), (xs, _) = example_init(), values.pairs()

    def run() -> Any:
        call = lambda state, x: forward(params, state, x, mapped_norm)  # noqa: E731
        axes: Any = {"in_axes": (None, 0), "out_axes": (0, None)}
        return jax.vmap(call, axis_name="batch", **axes)(state, xs)

    return {"raw": run}


def normed(n: int) -> dict[str, Program]:
    params, state = {}, {}
    for i in range(n):
        norm, stats = norm_init(WIDTH)
        params[str(i)] = {"norm": norm, "linear": linear_init(WIDTH, WIDTH)}
        state[str(i)] = {"norm": stats, "linear": spectral_init(WIDTH, WIDTH)}

    def loss(params: Tree, old: Tree, x: Any, ys: Any) -> Any:
        new: Tree = {}
        for i, layer in params.items():
            x, stats = batch_norm(layer["norm"], old[i]["norm"], x)
            x, vectors = spectral(layer["linear"], old[i]["linear"], x)
            new[i] = {"norm": stats, "linear": vectors}
        return plain.error(x, ys), new

    return {"raw": plain.gradient(loss, params, state)}


def residual(params: Tree, stats: Tree, x: Any) -> Any:
    y, stats = batch_norm(params["norm"], stats, linear(params["linear"], x))
    return x + 0.1 * jnp.tanh(y), stats


def deep(n: int, scanned: bool) -> dict[str, Program]:
    norm, stats = norm_init(WIDTH)
    layer = {"linear": linear_init(WIDTH, WIDTH), "norm": norm}
    if scanned:
        params, state = jax.tree.map(lambda a: jnp.stack(n * [a]), (layer, stats))
    else:
        params, state = n * [layer], n * [stats]

    def in_turn(params: Any, state: Any, x: Any) -> Any:
        new = []
        for layer, stats in zip(params, state, strict=True):
            x, stats = residual(layer, stats, x)
            new.append(stats)
        return x, new

    def scan(params: Any, state: Any, x: Any) -> Any:
        body = lambda x, layer: residual(*layer, x)  # noqa: E731
        return lax.scan(body, x, (params, state))

    def loss(params: Any, state: Any, xs: Any, ys: Any) -> Any:
        predicted, state = (scan if scanned else in_turn)(params, state, xs)
        return plain.error(predicted, ys), state

    return {"raw": plain.gradient(loss, params, state)}


def slots(n: int) -> dict[str, Callable[[], Any]]:
    def add(slots: Tree) -> Tree:
        slots = dict(slots)
        for name in slots:
            slots[name] = slots[name] + 1
        return slots

    return {"raw": plain.tracer(add, {str(i): jnp.zeros(3) for i in range(n)})}
