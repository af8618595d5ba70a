"""The tasks in Haiku, whose functions take parameters and state as dictionaries."""

import functools
import pickle
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import jax.random as jr
import jmp
import numpy as np

from . import tasks
from .tasks import batch, during, outcome

PACKAGES = ("dm-haiku", "jax")


def make_norm(decay_rate: float = 0.99, **options: Any) -> Any:
    """A batch norm with scale and offset; Haiku has no default decay rate."""
    return hk.BatchNorm(True, True, decay_rate, **options)


class Counter(hk.Module):
    """Counts its calls."""

    def __call__(self, x: Any) -> Any:
        count = hk.get_state("count", (), jnp.int32, jnp.zeros)
        hk.set_state("count", count + 1)
        return x


class Body(hk.Module):
    """A linear layer and a batch norm."""

    def __call__(self, x: Any, is_training: bool) -> Any:
        return make_norm()(hk.Linear(3)(x), is_training)


def early() -> Any:
    """Trains one norm, and looks in between."""
    net = hk.transform_with_state(lambda x, is_training: make_norm()(x, is_training))
    apply = jax.jit(net.apply, static_argnums=4)
    xs, outputs = batch(3, 2), {}
    params, state = net.init(None, xs, True)
    for i in range(1, max(tasks.STEPS) + 1):
        _, state = apply(params, state, None, xs, True)
        if i in tasks.STEPS:
            outputs[i], _ = apply(params, state, None, xs, False)
    return outputs


def shared() -> Any:
    """One module, called twice."""

    def call(x: Any) -> Any:
        counter = Counter()
        return counter(counter(x))

    net = hk.transform_with_state(call)
    params, state = net.init(None, jnp.ones(3))
    _, state = net.apply(params, state, None, jnp.ones(3))
    return [int(count) for count in jax.tree.leaves(state)]


def call_body(x: Any, is_training: bool) -> Any:
    """The old model."""
    return Body(name="body")(x, is_training)


def call_net(x: Any, is_training: bool) -> Any:
    """The new model."""
    return Body(name="head")(Body(name="body")(x, is_training), is_training)


def put_into_new_model(params: Any, state: Any) -> Any:
    """What it takes; the body goes by its name."""
    net = hk.transform_with_state(call_net)
    net_params, net_state = net.init(jr.key(1), batch(0, 1), True)
    net_params = hk.data_structures.merge(net_params, params)
    net_state = hk.data_structures.merge(net_state, state)
    return net, net_params, net_state


def transfer() -> Any:
    """Trains a body, puts it into a new model, and trains that for a step."""
    body, xs = hk.transform_with_state(call_body), batch(3, 2)
    # Averages start from the data that `init` is given; so it is given other data.
    params, state = body.init(jr.key(0), batch(0, 1), True)
    untrained, _ = body.apply(params, state, None, xs, False)
    _, state = body.apply(params, state, None, xs, True)
    before, _ = body.apply(params, state, None, xs, False)
    net, net_params, net_state = put_into_new_model(params, state)
    after, _ = body.apply(net_params, net_state, None, xs, False)
    net.apply(net_params, net_state, None, xs, True)
    return {
        "untrained": untrained,
        "before": before,
        "after": after,
        "statements": tasks.statements(put_into_new_model),
    }


def strip(tree: Any) -> Any:
    """The names of a layer's modules, without that of the stack in front."""
    return {name.split("/", 1)[1]: own for name, own in tree.items()}


def flat(tree: Any) -> Any:
    """All values of a tree."""
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def scan() -> Any:
    """``hk.layer_stack``, and the layers one by one."""
    xs = batch(3, 2)
    one = hk.transform_with_state(lambda x: Body()(x, True))
    net = hk.transform_with_state(
        hk.layer_stack(tasks.DEPTH)(lambda x: Body()(x, True))
    )
    params, state = net.init(jr.key(0), xs)

    def apply(params: Any, state: Any, x: Any) -> Any:
        return net.apply(params, state, None, x)

    scans = str(jax.make_jaxpr(apply)(params, state, xs)).count(" scan[")
    outputs, new = jax.jit(apply)(params, state, xs)
    looped, parts = xs, []
    for i in range(tasks.DEPTH):
        own = jax.tree.map(lambda a, i=i: a[i], (strip(params), strip(state)))
        looped, part = one.apply(*own, None, looped)
        parts.append(part)
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)
    return {
        "outputs": (outputs, looped),
        "statistics": (flat(strip(new)), flat(together)),
        "scans": scans,
    }


def half(has_policy: bool) -> Any:
    """Half precision in; a policy makes hk.BatchNorm compute in float32."""
    found = {}
    for dtype in ("float16", "bfloat16"):
        xs = jnp.asarray(batch(1000, 20), dtype)
        policy = f"params=float32,compute=float32,output={dtype}"
        if has_policy:
            hk.mixed_precision.set_policy(hk.BatchNorm, jmp.get_policy(policy))
        net = hk.transform_with_state(lambda x: make_norm(0.0)(x, True))
        params, state = net.init(None, xs)
        ys, state = net.apply(params, state, None, xs)
        hk.mixed_precision.clear_policy(hk.BatchNorm)
        found[dtype] = {
            "x": xs.astype("float32"),
            "variance": jnp.ravel(state["batch_norm/~/var_ema"]["average"]),
            "y": ys.astype("float32"),
            "dtype": str(ys.dtype),
        }
    return found


def call_one(x: Any, is_training: bool) -> Any:
    """A batch norm that takes one example under ``vmap``."""
    return make_norm(cross_replica_axis="batch")(x, is_training)


def forgotten() -> Any:
    """Steps under ``jax.vmap`` without ``out_axes``."""
    net, xs = hk.transform_with_state(call_one), batch(3, 2)
    init = jax.vmap(net.init, (None, 0, None), out_axes=None, axis_name="batch")
    step = jax.vmap(net.apply, (None, None, None, 0, None), axis_name="batch")
    return two_steps(init(None, xs, True), step)


def mapped_inside() -> Any:
    """Steps with ``hk.vmap``, which maps no state."""
    axes = {"in_axes": (0, None), "axis_name": "batch", "split_rng": False}
    net = hk.transform_with_state(lambda xs, t: hk.vmap(call_one, **axes)(xs, t))
    return two_steps(net.init(None, batch(3, 2), True), net.apply)


def two_steps(initial: Any, step: Any) -> Any:
    """Trains, looks at the shapes, and infers."""
    xs, (params, state) = batch(3, 2), initial
    name = "batch_norm/~/mean_ema"
    shapes = [state[name]["average"].shape]
    for i in (1, 2):
        with during(f"in training step {i}"):
            _, state = step(params, state, None, xs, True)
        shapes.append(state[name]["average"].shape)
    return {
        "shapes": shapes,
        "inference": outcome(lambda: step(params, state, None, xs, False)[0]),
    }


class Pair(hk.Module):
    """Two norms of one shape, made in a given order."""

    def __init__(self, names: tuple[str, ...], are_named: bool) -> None:
        super().__init__(name="pair")
        for name in names:
            norm = make_norm(0.0, name=name if are_named else None)
            setattr(self, name, norm)

    def __call__(self, x: Any) -> Any:
        return self.second(self.first(x, True) + 5, True)


def reordered(are_named: bool) -> Any:
    """Pickled dictionaries, as they carry the names of their modules."""
    saved, loaded = ("first", "second"), ("second", "first")
    net = hk.transform_with_state(lambda x: Pair(saved, are_named)(x))
    params, state = net.init(None, batch(1, 2))
    _, state = net.apply(params, state, None, batch(1, 2))
    new_params, new_state = pickle.loads(pickle.dumps((params, state)))

    def means(names: tuple[str, ...], params: Any, state: Any) -> Any:
        def look() -> Any:
            pair = Pair(names, are_named)
            averages = {name: getattr(pair, name).mean_ema.average for name in saved}
            return jax.tree.map(jnp.ravel, averages)

        net = hk.transform_with_state(look)
        return net.apply(params, state, None)[0]

    return {
        "saved": means(saved, params, state),
        "loaded": means(loaded, new_params, new_state),
    }


def stale(transform: Any) -> Any:
    """Goes on with the first state."""
    net = hk.transform_with_state(lambda x: Counter()(x))
    params, state = net.init(None, jnp.ones(3))
    step = transform(lambda state: net.apply(params, state, None, jnp.ones(3))[1])
    step(state)
    return int(step(state)["counter"]["count"])


def lost() -> Any:
    """The step returns the output only."""
    net = hk.transform_with_state(lambda x: Counter()(x))
    params, state = net.init(None, jnp.ones(3))
    step = jax.jit(lambda state, x: net.apply(params, state, None, x)[0])
    for _ in range(2):
        step(state, jnp.ones(3))
    return int(state["counter"]["count"])


def call_normalized(x: Any) -> Any:
    """A weight that is normalized before it is used."""
    weight = hk.get_parameter("w", (3, 3), init=hk.initializers.RandomNormal())
    return x @ hk.SpectralNorm()(weight)


def zero() -> Any:
    """A weight of zeros."""
    net = hk.transform_with_state(call_normalized)
    params, state = net.init(jr.key(0), jnp.ones(3))
    zeros = jax.tree.map(jnp.zeros_like, params)
    return net.apply(zeros, state, None, jnp.ones(3))[0]


def overwritten() -> Any:
    """A random weight; parameters do not come back from ``apply``."""
    net = hk.transform_with_state(call_normalized)
    params, state = net.init(jr.key(0), jnp.ones(3))
    before = jax.tree.map(np.array, params)
    for _ in range(3):
        _, state = net.apply(params, state, None, jnp.ones(3))
    return {"before": jax.tree.leaves(before)[0], "after": jax.tree.leaves(params)[0]}


RUNS = {
    "early": {"": early},
    "shared": {"": shared},
    "transfer": {"merge by name": transfer},
    "scan": {"hk.layer_stack": scan},
    "half": {
        "": functools.partial(half, False),
        "float32 policy": functools.partial(half, True),
    },
    "forgotten": {"jax.vmap": forgotten, "hk.vmap": mapped_inside},
    "reordered": {
        "default names": functools.partial(reordered, False),
        "name=…": functools.partial(reordered, True),
    },
    "stale": {
        "jax.jit": lambda: stale(jax.jit),
        "no jit": lambda: stale(lambda step: step),
        "jax.jit, donated": lambda: stale(functools.partial(jax.jit, donate_argnums=0)),
    },
    "lost": {"": lost},
    "zero": {"": zero},
    "overwritten": {"": overwritten},
}
