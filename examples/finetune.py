"""Learns new digits from few examples, on top of a network that is kept as it is.

    python examples/finetune.py --help

A network with batch normalization first learns to read crooked digits from 0 to 4,
upright, lying and upside down. Then its body is frozen, parameters and statistics, and
a new head learns 5 to 9 from a few examples of each. With five, it reads 78.3 % of the
held-out ones; a network that learns from scratch reads 70.1 %.
"""

from collections.abc import Sequence
from typing import NamedTuple

import finetune_data
import finetune_figure
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tools
from finetune_network import Body, Network, make
from jaxtyping import Array, Float, Int

import vernal as vn

SHOTS = (1, 2, 5, 10, 20)  # examples of each new digit
DRAWS = 8  # choices of these examples, each with networks of its own
BATCH = 32
OPTIMIZER = optax.adam(3e-3)

Images = Float[Array, "*networks n 1 8 8"]
Labels = Int[Array, "*networks n"]
Scalar = Float[Array, ""]


# Which part of a network is trained: both stand where the network has its parts.
ALL, HEAD = Network(body=True, head=True), Network(body=False, head=True)


class Training(NamedTuple):
    """All that a step changes; each array has an axis of networks in front."""

    trained: Network  # with None in place of what is frozen
    state: vn.nn.State
    opt_state: optax.OptState


def compute_loss(
    trained: Network, frozen: Network, state: vn.nn.State, batch: tuple[Images, Labels]
) -> tuple[Scalar, vn.nn.State]:
    images, labels = batch
    logits, state = vn.nn.batched(vn.combine(trained, frozen))(images, state)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.mean(losses), state


@vn.filter_jit(donate="all-except-first")
def train_step(
    frozen: Network, training: Training, batch: tuple[Images, Labels]
) -> tuple[Training, Scalar]:
    """One step of several networks, each with images of its own."""

    def step(frozen, training, batch):
        trained, state, opt_state = training
        value_and_grad = vn.filter_value_and_grad(compute_loss, has_aux=True)
        (loss, state), grads = value_and_grad(trained, frozen, state, batch)
        updates, opt_state = OPTIMIZER.update(grads, opt_state, trained)
        return Training(vn.apply_updates(trained, updates), state, opt_state), loss

    training, losses = jax.vmap(step)(frozen, training, batch)
    return training, jnp.mean(losses)


@vn.filter_jit
def predict(
    models: Network | Body, states: vn.nn.State, images: Images
) -> Float[Array, "networks n out"]:
    """What several networks make of the same images in inference mode."""

    def one(model, state):
        return vn.nn.batched(vn.nn.inference_mode(model))(images, state)[0]

    return jax.vmap(one)(models, states)


def train(
    name: str,
    networks: tuple[Network, vn.nn.State],
    which: Network,
    images: Images,
    labels: Labels,
    steps: int,
    rng: np.random.Generator,
) -> tuple[Network, vn.nn.State]:
    """Trains a part of several networks, each with images of its own."""
    models, states = networks
    trained, frozen = vn.partition(models, which)
    training = Training(trained, states, jax.vmap(OPTIMIZER.init)(trained))
    count, size = labels.shape
    each = np.arange(count)[:, None]
    with tools.Progress(steps, count * BATCH, "images", name) as progress:
        for _ in range(steps):
            chosen = each, rng.integers(size, size=(count, BATCH))
            batch = images[chosen], labels[chosen]
            training, loss = train_step(frozen, training, batch)
            progress.step(loss)
    return vn.combine(training.trained, frozen), training.state


def main(arguments: Sequence[str] | None = None) -> None:
    options = tools.parse(
        arguments,
        __doc__,
        "finetune",
        body_steps=(500, "steps to learn 0 to 4"),
        steps=(150, "steps to learn 5 to 9"),
    )
    rng = np.random.default_rng(options.seed)
    data = finetune_data.load(rng)
    first, *keys = jax.random.split(jax.random.key(options.seed), 1 + DRAWS)
    network = jax.vmap(lambda key: make(Body(key), 20, key))(first[None])
    old = data.old_images[None], data.old_labels[None]
    model, state = train("0 to 4", network, ALL, *old, options.body_steps, rng)
    features = predict(model.body, state, data.test_images)[0]
    # Of the only network: its state becomes the initial values of those to come.
    model, state = jax.tree.map(lambda x: x[0], (model, state))
    body = vn.nn.inference_mode(vn.nn.join_state(model, state).body)

    kinds = {
        "new head, frozen body": (lambda key: make(body, 5, key), HEAD),
        "from scratch": (lambda key: make(Body(key), 5, key), ALL),
    }
    accuracies = {name: np.zeros((len(SHOTS), DRAWS)) for name in kinds}
    for row, shots in enumerate(SHOTS):
        chosen = finetune_data.choose(data.new_labels, shots, DRAWS, rng)
        new = data.new_images[chosen], data.new_labels[chosen] - 5
        for name, (make_one, which) in kinds.items():
            networks = jax.vmap(make_one)(jnp.stack(keys))
            title = f"5 to 9, {shots} each, {name}"
            networks = train(title, networks, which, *new, options.steps, rng)
            read = np.argmax(predict(*networks, data.test_images), axis=-1) + 5
            accuracies[name][row] = np.mean(read == data.test_labels, axis=1)
    finetune_figure.draw(options.out, SHOTS, accuracies, features, data.test_labels)
    for shots, *values in zip(SHOTS, *accuracies.values(), strict=True):
        said = (f"{x.mean():.1%} {name}" for x, name in zip(values, kinds, strict=True))
        tools.say(f"{shots:>2} of each new digit: {'; '.join(said)}")


if __name__ == "__main__":
    tools.start(main)
