"""The tasks in Flax NNX, whose layers take whole batches and keep their own state."""

import functools
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from . import tasks
from .tasks import NOT_APPLICABLE, Without, batch, during, outcome

PACKAGES = ("flax", "jax")


@nnx.jit
def step(model: Any, *args: Any) -> Any:
    """A training step without an optimizer; NNX carries the new state out."""
    return model(*args)


class Count(nnx.Variable):
    """A kind of state."""


class Counter(nnx.Module):
    """Counts its calls."""

    def __init__(self) -> None:
        self.count = Count(jnp.array(0))

    def __call__(self, x: Any) -> Any:
        self.count[...] += 1
        return x


class Body(nnx.Module):
    """A linear layer and a batch norm."""

    def __init__(self, *, rngs: Any) -> None:
        self.linear = nnx.Linear(3, 3, rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.norm(self.linear(x))


def early() -> Any:
    """Trains one norm, and looks in between."""
    norm, xs, outputs = nnx.BatchNorm(3, rngs=nnx.Rngs(0)), batch(3, 2), {}
    for i in range(1, max(tasks.STEPS) + 1):
        norm.train()
        step(norm, xs)
        if i in tasks.STEPS:
            norm.eval()
            outputs[i] = norm(xs)
    return outputs


def shared() -> Any:
    """The same layer, twice in a Sequential."""
    counter = Counter()
    model = nnx.Sequential(counter, counter)
    step(model, jnp.ones(3))
    return [int(count) for count in jax.tree.leaves(nnx.state(model, Count))]


def put_into_new_model(body: Any) -> Any:
    """What it takes."""
    net = nnx.Sequential(body, Body(rngs=nnx.Rngs(1)))
    return net


def transfer() -> Any:
    """Trains a body, puts it into a new model, and trains that for a step."""
    body, xs = Body(rngs=nnx.Rngs(0)), batch(3, 2)
    body.eval()
    untrained = body(xs)
    body.train()
    step(body, xs)
    body.eval()
    before = body(xs)
    net = put_into_new_model(body)
    net.eval()
    after = net.layers[0](xs)
    net.train()
    step(net, xs)
    return {
        "untrained": untrained,
        "before": before,
        "after": after,
        "statements": tasks.statements(put_into_new_model),
    }


class Stack(nnx.Module):
    """The scan over layers that Flax's documentation shows."""

    def __init__(self, *, rngs: Any) -> None:
        @nnx.split_rngs(splits=tasks.DEPTH)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def create(rngs: Any) -> Any:
            return Body(rngs=rngs)

        self.layers = create(rngs)

    def __call__(self, x: Any) -> Any:
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def forward(x: Any, layer: Any) -> Any:
            return layer(x)

        return forward(x, self.layers)


def statistics(norm: Any) -> Any:
    """Mean and variance, for each layer of a stack if it is one."""
    return jnp.stack([norm.mean[...], norm.var[...]], -2)


def scan() -> Any:
    """A scan, and the layers one by one."""
    stack, xs = Stack(rngs=nnx.Rngs(0)), batch(3, 2)
    graphdef, state = nnx.split(stack)
    layerdef, layer_state = nnx.split(stack.layers)
    layers = [
        nnx.merge(layerdef, jax.tree.map(lambda a, i=i: a[i], layer_state))
        for i in range(tasks.DEPTH)
    ]
    jaxpr = jax.make_jaxpr(lambda state: nnx.merge(graphdef, state)(xs))(state)
    outputs, looped = step(stack, xs), xs
    for layer in layers:
        looped = step(layer, looped)
    return {
        "outputs": (outputs, looped),
        "statistics": (
            statistics(stack.layers.norm),
            jnp.stack([statistics(layer.norm) for layer in layers]),
        ),
        "scans": str(jaxpr).count(" scan["),
    }


def half(is_told: bool) -> Any:
    """Half precision in; ``dtype``, that of the output, as by default, or the same."""
    found = {}
    for dtype in ("float16", "bfloat16"):
        xs = jnp.asarray(batch(1000, 20), dtype)
        told = {"dtype": jnp.dtype(dtype)} if is_told else {}
        norm = nnx.BatchNorm(3, momentum=0.0, rngs=nnx.Rngs(0), **told)
        ys = step(norm, xs)
        found[dtype] = {
            "x": xs.astype("float32"),
            "variance": norm.var[...],
            "y": ys.astype("float32"),
            "dtype": str(ys.dtype),
        }
    return found


def forgotten(in_axes: Any) -> Any:
    """Steps under ``nnx.vmap``, where the state goes out by the axes it came in."""
    norm = nnx.BatchNorm(3, axis_name="batch", rngs=nnx.Rngs(0))
    call = nnx.vmap(lambda norm, x: norm(x), in_axes=in_axes, axis_name="batch")
    shapes = [norm.mean.shape]
    for i in (1, 2):
        with during(f"in training step {i}"):
            call(norm, batch(3, 2))
        shapes.append(norm.mean.shape)
    norm.eval()
    return {"shapes": shapes, "inference": outcome(lambda: norm(batch(3, 2)))}


class Saved(nnx.Module):
    """Two norms of one shape."""

    def __init__(self, *, rngs: Any) -> None:
        self.first = nnx.BatchNorm(3, momentum=0.0, rngs=rngs)
        self.second = nnx.BatchNorm(3, momentum=0.0, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.second(self.first(x) + 5)


class Loaded(nnx.Module):
    """The same with its fields in another order."""

    def __init__(self, *, rngs: Any) -> None:
        self.second = nnx.BatchNorm(3, momentum=0.0, rngs=rngs)
        self.first = nnx.BatchNorm(3, momentum=0.0, rngs=rngs)


def means(model: Any) -> dict[str, Any]:
    """The running means of both norms."""
    return {n: np.asarray(getattr(model, n).mean[...]) for n in ("first", "second")}


def reordered() -> Any:
    """Orbax, as in Flax's guide."""
    import orbax.checkpoint as ocp

    model = Saved(rngs=nnx.Rngs(0))
    step(model, batch(1, 2))
    abstract = nnx.eval_shape(lambda: Loaded(rngs=nnx.Rngs(0)))
    graphdef, like = nnx.split(abstract)
    with tempfile.TemporaryDirectory() as folder, ocp.StandardCheckpointer() as files:
        files.save(Path(folder) / "state", nnx.state(model))
        files.wait_until_finished()
        new = nnx.merge(graphdef, files.restore(Path(folder) / "state", like))
    return {"saved": means(model), "loaded": means(new)}


def lost() -> Any:
    """The step returns the output only."""
    counter = Counter()
    for _ in range(2):
        step(counter, jnp.ones(3))
    return int(counter.count[...])


def zero() -> Any:
    """A Linear of zeros."""
    zeros = nnx.initializers.zeros
    linear = nnx.Linear(3, 3, kernel_init=zeros, rngs=nnx.Rngs(0))
    return step(nnx.SpectralNorm(linear, rngs=nnx.Rngs(1)), jnp.ones((1, 3)))


def overwritten() -> Any:
    """A Linear, called in training mode."""
    linear = nnx.Linear(3, 3, rngs=nnx.Rngs(0))
    before = np.asarray(linear.kernel[...])
    layer = nnx.SpectralNorm(linear, rngs=nnx.Rngs(1))
    for _ in range(3):
        step(layer, jnp.ones((1, 3)))
    return {"before": before, "after": linear.kernel[...]}


RUNS = {
    "early": {"": early},
    "shared": {"": shared},
    "transfer": {"": transfer},
    "scan": {"nnx.scan": scan},
    "half": {
        "": functools.partial(half, False),
        "dtype=…": functools.partial(half, True),
    },
    "forgotten": {
        "nnx.vmap, no in_axes": functools.partial(forgotten, 0),
        "nnx.vmap": functools.partial(forgotten, (None, 0)),
    },
    "reordered": {"orbax": reordered},
    "stale": {"": Without(NOT_APPLICABLE, "the layer itself changes")},
    "lost": {"nnx.jit": lost},
    "zero": {"": zero},
    "overwritten": {"": overwritten},
}
