"""The tasks in Equinox."""

import functools
import tempfile
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from . import tasks
from .tasks import batch, during, outcome

PACKAGES = ("equinox", "jax")

# Without a mode, "ema" is taken, with a warning that advises "batch".
MODES = ("batch", "ema")
NAMED = {"batch": "batch_state_index", "ema": "ema_state_index"}


def batched(model: Any, out_axes: Any = (0, None)) -> Any:
    """As in Equinox's example of batch norm."""
    return jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=out_axes)


class Counter(eqx.Module):
    """Counts its calls."""

    index: eqx.nn.StateIndex

    def __init__(self) -> None:
        self.index = eqx.nn.StateIndex(jnp.array(0))

    def __call__(self, x: Any, state: Any) -> Any:
        return x, state.set(self.index, state.get(self.index) + 1)


class Body(eqx.Module):
    """A linear layer and a batch norm."""

    linear: eqx.nn.Linear
    norm: eqx.nn.BatchNorm

    def __init__(self, key: Any) -> None:
        self.linear = eqx.nn.Linear(3, 3, key=key)
        self.norm = eqx.nn.BatchNorm(3, "batch", mode="batch")

    def __call__(self, x: Any, state: Any) -> Any:
        return self.norm(self.linear(x), state)


class Net(eqx.Module):
    """A body and a head."""

    body: Body
    head: Body

    def __init__(self, body: Body, key: Any) -> None:
        self.body = body
        self.head = Body(key)

    def __call__(self, x: Any, state: Any) -> Any:
        x, state = self.body(x, state)
        return self.head(x, state)


class NetOfTwoStates(eqx.Module):
    """A body and a head, each with a state of its own."""

    body: Body
    head: Body

    def __call__(self, x: Any, states: Any) -> Any:
        x, body_state = self.body(x, states[0])
        x, head_state = self.head(x, states[1])
        return x, (body_state, head_state)


def early(mode: str) -> Any:
    """Trains one norm, and looks in between."""
    norm, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(3, "batch", mode=mode)
    step, xs, outputs = eqx.filter_jit(batched(norm)), batch(3, 2), {}
    for i in range(1, max(tasks.STEPS) + 1):
        _, state = step(xs, state)
        if i in tasks.STEPS:
            outputs[i], _ = batched(eqx.nn.inference_mode(norm))(xs, state)
    return outputs


class Twice(eqx.Module):
    """One layer at two places."""

    first: Counter
    second: Counter

    def __init__(self) -> None:
        self.first = self.second = Counter()

    def __call__(self, x: Any, state: Any) -> Any:
        x, state = self.first(x, state)
        return self.second(x, state)


class TwiceShared(eqx.Module):
    """One layer at two places, by ``eqx.nn.Shared``."""

    shared: eqx.nn.Shared

    def __init__(self) -> None:
        counter = Counter()
        self.shared = eqx.nn.Shared((counter, counter), lambda x: x[1], lambda x: x[0])

    def __call__(self, x: Any, state: Any) -> Any:
        first, second = self.shared()
        x, state = first(x, state)
        return second(x, state)


def shared(model_class: Any) -> Any:
    """One call."""
    model, state = eqx.nn.make_with_state(model_class)()
    _, state = model(jnp.ones(3), state)
    return [int(count) for count in jax.tree.leaves(state)]


def split_anew(body: Any, state: Any) -> Any:
    """What one would write first."""
    net, net_state = eqx.nn.make_with_state(Net)(body, jr.key(1))
    return net, net_state


def copy_slots(body: Any, state: Any) -> Any:
    """A fresh body in the new model; parameters and slots are copied by hand."""
    net, net_state = eqx.nn.make_with_state(lambda k: Net(Body(k), k))(jr.key(1))

    def parts(body: Any) -> Any:
        return body.linear, body.norm.weight, body.norm.bias

    net = eqx.tree_at(lambda net: parts(net.body), net, parts(body))
    for name in ("batch_counter", "batch_state_index"):
        value = state.get(getattr(body.norm, name))
        net_state = net_state.set(getattr(net.body.norm, name), value)
    return net, net_state


def keep_two_states(body: Any, state: Any) -> Any:
    """The new model is written for two states, and passes on one to each part."""
    head, head_state = eqx.nn.make_with_state(Body)(jr.key(1))
    net, net_state = NetOfTwoStates(body, head), (state, head_state)
    return net, net_state


def transfer(put_into_new_model: Any) -> Any:
    """Trains a body, puts it into a new model, and trains that for a step."""
    xs = batch(3, 2)
    body, state = eqx.nn.make_with_state(Body)(jr.key(0))
    untrained, _ = batched(eqx.nn.inference_mode(body))(xs, state)
    _, state = batched(body)(xs, state)
    before, _ = batched(eqx.nn.inference_mode(body))(xs, state)
    net, net_state = put_into_new_model(body, state)
    own = net_state[0] if isinstance(net_state, tuple) else net_state
    after, _ = batched(eqx.nn.inference_mode(net.body))(xs, own)
    batched(net)(xs, net_state)
    return {
        "untrained": untrained,
        "before": before,
        "after": after,
        "statements": tasks.statements(put_into_new_model),
    }


class Stack(eqx.Module):
    """The scan over layers that Equinox's documentation shows, with the state added."""

    layers: Body

    def __init__(self, key: Any) -> None:
        self.layers = eqx.filter_vmap(Body)(jr.split(key, tasks.DEPTH))

    def __call__(self, x: Any, state: Any) -> Any:
        arrays, rest = eqx.partition(self.layers, eqx.is_array)

        def step(x: Any, own: Any) -> Any:
            return eqx.combine(own[0], rest)(x, own[1])

        x, part = jax.lax.scan(step, x, (arrays, state.substate(self.layers)))
        return x, state.update(part)


def scan() -> Any:
    """A scan, and the layers one by one."""
    xs = batch(3, 2)
    stack, state = eqx.nn.make_with_state(Stack)(jr.key(0))
    scans = str(jax.make_jaxpr(batched(stack))(xs, state)).count(" scan[")
    outputs, new = eqx.filter_jit(batched(stack))(xs, state)
    looped, parts = xs, []
    index = stack.layers.norm.batch_state_index
    for i in range(tasks.DEPTH):
        arrays, rest = eqx.partition(stack.layers, eqx.is_array)
        layer = eqx.combine(jax.tree.map(lambda a, i=i: a[i], arrays), rest)
        part = jax.tree.map(lambda a, i=i: a[i], state.substate(stack.layers))
        looped, part = batched(layer)(looped, part)
        parts.append(jnp.stack(part.get(index)))
    return {
        "outputs": (outputs, looped),
        "statistics": (jnp.stack(new.get(index), 1), jnp.stack(parts)),
        "scans": scans,
    }


def half(mode: str, is_told: bool) -> Any:
    """Half precision in; ``dtype`` as by default, or that of the input."""
    found = {}
    for dtype in ("float16", "bfloat16"):
        xs = jnp.asarray(batch(1000, 20), dtype)
        make = eqx.nn.make_with_state(eqx.nn.BatchNorm)
        told = {"dtype": jnp.dtype(dtype)} if is_told else {}
        norm, state = make(3, "batch", momentum=0.0, mode=mode, **told)
        ys, state = batched(norm)(xs, state)
        found[dtype] = {
            "x": xs.astype("float32"),
            "variance": state.get(getattr(norm, NAMED[mode]))[1],
            "y": ys.astype("float32"),
            "dtype": str(ys.dtype),
        }
    return found


def forgotten() -> Any:
    """Steps under ``jax.vmap`` without ``out_axes``."""
    xs = batch(3, 2)
    norm, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(3, "batch", mode="batch")
    step = batched(norm, out_axes=0)
    shapes = [state.get(norm.batch_state_index)[0].shape]
    for i in (1, 2):
        with during(f"in training step {i}"):
            _, state = step(xs, state)
        shapes.append(state.get(norm.batch_state_index)[0].shape)
    trained = batched(eqx.nn.inference_mode(norm))
    return {"shapes": shapes, "inference": outcome(lambda: trained(xs, state)[0])}


class Saved(eqx.Module):
    """Two norms of one shape."""

    first: eqx.nn.BatchNorm
    second: eqx.nn.BatchNorm

    def __init__(self) -> None:
        self.first = eqx.nn.BatchNorm(3, "batch", momentum=0.0, mode="batch")
        self.second = eqx.nn.BatchNorm(3, "batch", momentum=0.0, mode="batch")

    def __call__(self, x: Any, state: Any) -> Any:
        x, state = self.first(x, state)
        return self.second(x + 5, state)


class Loaded(eqx.Module):
    """The same with its fields in another order."""

    second: eqx.nn.BatchNorm
    first: eqx.nn.BatchNorm

    def __init__(self) -> None:
        self.second = eqx.nn.BatchNorm(3, "batch", momentum=0.0, mode="batch")
        self.first = eqx.nn.BatchNorm(3, "batch", momentum=0.0, mode="batch")


def means(model: Any, state: Any) -> dict[str, Any]:
    """The running means of both norms."""
    norms = {"first": model.first, "second": model.second}
    return {n: state.get(norm.batch_state_index)[0] for n, norm in norms.items()}


def reordered() -> Any:
    """``eqx.tree_serialise_leaves`` and ``eqx.tree_deserialise_leaves``."""
    model, state = eqx.nn.make_with_state(Saved)()
    _, state = batched(model)(batch(1, 2), state)
    with tempfile.TemporaryDirectory() as folder:
        eqx.tree_serialise_leaves(Path(folder) / "file", (model, state))
        like = eqx.nn.make_with_state(Loaded)()
        new = eqx.tree_deserialise_leaves(Path(folder) / "file", like)
    return {"saved": means(model, state), "loaded": means(*new)}


def stale(transform: Any) -> Any:
    """Goes on with the first state."""
    counter, state = eqx.nn.make_with_state(Counter)()
    step = transform(lambda state: counter(jnp.ones(3), state)[1])
    step(state)
    return int(step(state).get(counter.index))


def lost() -> Any:
    """The step returns the output only."""
    counter, state = eqx.nn.make_with_state(Counter)()
    step = eqx.filter_jit(lambda x, state: counter(x, state)[0])
    for _ in range(2):
        step(jnp.ones(3), state)
    return int(state.get(counter.index))


def zero() -> Any:
    """A Linear of zeros."""
    linear = eqx.nn.Linear(3, 3, key=jr.key(0))
    linear = jax.tree.map(jnp.zeros_like, linear)
    make = eqx.nn.make_with_state(eqx.nn.SpectralNorm)
    layer, state = make(linear, "weight", key=jr.key(1))
    return layer(jnp.ones(3), state)[0]


def overwritten() -> Any:
    """A Linear, called in training mode."""
    linear = eqx.nn.Linear(3, 3, key=jr.key(0))
    make = eqx.nn.make_with_state(eqx.nn.SpectralNorm)
    layer, state = make(linear, "weight", key=jr.key(1))
    for _ in range(3):
        _, state = layer(jnp.ones(3), state)
    return {"before": linear.weight, "after": layer.layer.weight}


RUNS = {
    "early": {f'mode="{mode}"': functools.partial(early, mode) for mode in MODES},
    "shared": {
        "the same object": functools.partial(shared, Twice),
        "nn.Shared": functools.partial(shared, TwiceShared),
    },
    "transfer": {
        "make_with_state": functools.partial(transfer, split_anew),
        "slots copied by hand": functools.partial(transfer, copy_slots),
        "two states": functools.partial(transfer, keep_two_states),
    },
    "scan": {"lax.scan, by hand": scan},
    "half": {
        f'mode="{mode}"' + ", dtype=…" * is_told: functools.partial(half, mode, is_told)
        for mode in MODES
        for is_told in (False, True)
    },
    "forgotten": {"jax.vmap": forgotten},
    "reordered": {"": reordered},
    "stale": {
        "filter_jit": lambda: stale(eqx.filter_jit),
        "no jit": lambda: stale(lambda step: step),
        'filter_jit(donate="all")': lambda: stale(eqx.filter_jit(donate="all")),
    },
    "lost": {"": lost},
    "zero": {"": zero},
    "overwritten": {"": overwritten},
}
