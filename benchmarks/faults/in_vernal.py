"""The tasks in vernal."""

import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr

import vernal as vn

from . import tasks
from .tasks import batch, during, outcome

PACKAGES = ("vernal", "jax")


class Counter(vn.Module):
    """Counts its calls."""

    index: vn.nn.StateIndex

    def __init__(self) -> None:
        self.index = vn.nn.StateIndex(jnp.array(0))

    def __call__(self, x: Any, state: Any) -> Any:
        return x, state.set(self.index, state.get(self.index) + 1)


class Body(vn.Module):
    """A linear layer and a batch norm."""

    linear: vn.nn.Linear
    norm: vn.nn.BatchNorm

    def __init__(self, key: Any) -> None:
        self.linear = vn.nn.Linear(3, 3, key=key)
        self.norm = vn.nn.BatchNorm(3, "batch")

    def __call__(self, x: Any, state: Any) -> Any:
        return self.norm(self.linear(x), state)


def early() -> Any:
    """Trains one norm, and looks in between."""
    norm, state = vn.nn.make_with_state(vn.nn.BatchNorm)(3, "batch")
    step, xs, outputs = jax.jit(vn.nn.batched(norm)), batch(3, 2), {}
    for i in range(1, max(tasks.STEPS) + 1):
        _, state = step(xs, state)
        if i in tasks.STEPS:
            trained = vn.nn.inference_mode(norm)
            outputs[i], _ = vn.nn.batched(trained)(xs, state)
    return outputs


def shared() -> Any:
    """The same layer, twice in a Sequential."""
    counter = Counter()
    model, state = vn.nn.split_state(vn.nn.Sequential([counter, counter]))
    _, state = model(jnp.ones(3), state)
    return [int(count) for count in jax.tree.leaves(state)]


def put_into_new_model(body: Any, state: Any) -> Any:
    """What it takes."""
    body = vn.nn.join_state(body, state)
    net = vn.nn.Sequential([body, Body(jr.key(1))])
    net, net_state = vn.nn.split_state(net)
    return net, net_state


def transfer() -> Any:
    """Trains a body, puts it into a new model, and trains that for a step."""
    xs = batch(3, 2)
    body, state = vn.nn.make_with_state(Body)(jr.key(0))
    infer = vn.nn.inference_mode
    untrained, _ = vn.nn.batched(infer(body))(xs, state)
    _, state = vn.nn.batched(body)(xs, state)
    before, _ = vn.nn.batched(infer(body))(xs, state)
    net, net_state = put_into_new_model(body, state)
    after, _ = vn.nn.batched(infer(net[0]))(xs, net_state.substate(net[0]))
    vn.nn.batched(net)(xs, net_state)
    return {
        "untrained": untrained,
        "before": before,
        "after": after,
        "statements": tasks.statements(put_into_new_model),
    }


def scan() -> Any:
    """A Stack, and the layers it is made of."""
    xs = batch(3, 2)
    stack, state = vn.nn.make_with_state(vn.nn.Stack)(Body, tasks.DEPTH, key=jr.key(0))
    layers = [vn.nn.split_state(layer) for layer in stack.unstack(state)]
    call = vn.nn.batched(stack)
    scans = str(jax.make_jaxpr(call)(xs, state)).count(" scan[")
    outputs, state = jax.jit(call)(xs, state)
    looped, parts = xs, []
    for layer, part in layers:
        looped, part = vn.nn.batched(layer)(looped, part)
        parts.append(jnp.stack(part.get(layer.norm.batch_state_index)))
    together = jnp.stack(state.get(stack.layers.norm.batch_state_index), 1)
    return {
        "outputs": (outputs, looped),
        "statistics": (together, jnp.stack(parts)),
        "scans": scans,
    }


def half() -> Any:
    """Half precision in, everything else as by default."""
    found = {}
    for dtype in ("float16", "bfloat16"):
        xs = jnp.asarray(batch(1000, 20), dtype)
        norm, state = vn.nn.make_with_state(vn.nn.BatchNorm)(3, "batch", momentum=0.0)
        ys, state = vn.nn.batched(norm)(xs, state)
        _, variance = state.get(norm.batch_state_index)
        found[dtype] = {
            "x": xs.astype("float32"),
            "variance": variance,
            "y": ys.astype("float32"),
            "dtype": str(ys.dtype),
        }
    return found


def forgotten() -> Any:
    """Steps under ``jax.vmap`` without ``out_axes``."""
    xs = batch(3, 2)
    norm, state = vn.nn.make_with_state(vn.nn.BatchNorm)(3, "batch")
    step = jax.vmap(norm, in_axes=(0, None), axis_name="batch")
    shapes = [jax.tree.leaves(state)[1].shape]
    for i in (1, 2):
        with during(f"in training step {i}"):
            _, state = step(xs, state)
        shapes.append(jax.tree.leaves(state)[1].shape)
    return {"shapes": shapes, "inference": "not reached"}


def batched() -> Any:
    """Steps under ``nn.batched``, which has no axes to forget."""
    xs = batch(3, 2)
    norm, state = vn.nn.make_with_state(vn.nn.BatchNorm)(3, "batch")
    shapes = [jax.tree.leaves(state)[1].shape]
    for _ in range(2):
        _, state = vn.nn.batched(norm)(xs, state)
        shapes.append(jax.tree.leaves(state)[1].shape)
    trained = vn.nn.batched(vn.nn.inference_mode(norm))
    return {"shapes": shapes, "inference": outcome(lambda: trained(xs, state)[0])}


class Saved(vn.Module):
    """Two norms of one shape."""

    first: vn.nn.BatchNorm
    second: vn.nn.BatchNorm

    def __init__(self) -> None:
        self.first = vn.nn.BatchNorm(3, "batch", momentum=0.0)
        self.second = vn.nn.BatchNorm(3, "batch", momentum=0.0)

    def __call__(self, x: Any, state: Any) -> Any:
        x, state = self.first(x, state)
        return self.second(x + 5, state)


class Loaded(vn.Module):
    """The same with its fields in another order."""

    second: vn.nn.BatchNorm
    first: vn.nn.BatchNorm

    def __init__(self) -> None:
        self.second = vn.nn.BatchNorm(3, "batch", momentum=0.0)
        self.first = vn.nn.BatchNorm(3, "batch", momentum=0.0)


def means(model: Any, state: Any) -> dict[str, Any]:
    """The running means of both norms."""
    norms = {"first": model.first, "second": model.second}
    return {n: state.get(norm.batch_state_index)[0] for n, norm in norms.items()}


def reordered() -> Any:
    """``vn.save`` and ``vn.load``."""
    model, state = vn.nn.make_with_state(Saved)()
    _, state = vn.nn.batched(model)(batch(1, 2), state)
    like = vn.nn.make_with_state(Loaded)()
    with tempfile.TemporaryDirectory() as folder:
        vn.save(Path(folder) / "file", {"model": model, "state": state})
        new = vn.load(Path(folder) / "file", {"model": like[0], "state": like[1]})
    return {"saved": means(model, state), "loaded": means(new["model"], new["state"])}


def stale(transform: Any) -> Any:
    """Goes on with the first state."""
    counter, state = vn.nn.make_with_state(Counter)()
    step = transform(lambda state: counter(jnp.ones(3), state)[1])
    step(state)
    return int(step(state).get(counter.index))


def lost() -> Any:
    """The step returns the output only."""
    counter, state = vn.nn.make_with_state(Counter)()
    step = vn.filter_jit(lambda x, state: counter(x, state)[0])
    for _ in range(2):
        step(jnp.ones(3), state)
    return int(state.get(counter.index))


def zero() -> Any:
    """A Linear of zeros."""
    linear = jax.tree.map(jnp.zeros_like, vn.nn.Linear(3, 3, key=jr.key(0)))
    make = vn.nn.make_with_state(vn.nn.SpectralNorm)
    layer, state = make(linear, "weight", key=jr.key(1))
    return layer(jnp.ones(3), state)[0]


def overwritten() -> Any:
    """A Linear, called in training mode."""
    linear = vn.nn.Linear(3, 3, key=jr.key(0))
    make = vn.nn.make_with_state(vn.nn.SpectralNorm)
    layer, state = make(linear, "weight", key=jr.key(1))
    for _ in range(3):
        _, state = layer(jnp.ones(3), state)
    return {"before": linear.weight, "after": layer.layer.weight}


RUNS = {
    "early": {"": early},
    "shared": {"": shared},
    "transfer": {"": transfer},
    "scan": {"nn.Stack": scan},
    "half": {"": half},
    "forgotten": {"jax.vmap": forgotten, "nn.batched": batched},
    "reordered": {"": reordered},
    "stale": {
        "filter_jit": lambda: stale(vn.filter_jit),
        "no jit": lambda: stale(lambda step: step),
        'filter_jit(donate="all")': lambda: stale(vn.filter_jit(donate="all")),
    },
    "lost": {"": lost},
    "zero": {"": zero},
    "overwritten": {"": overwritten},
}
