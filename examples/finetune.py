"""Learns new digits from few examples, on top of a network that is kept as it is.

    python examples/finetune.py --help

A network with batch normalization first learns to read crooked digits from 0 to 4,
upright, lying and upside down. Then its body is frozen, parameters and running
statistics, and a new head learns 5 to 9 from a few examples of each. With five, it
reads 78 % of the held-out ones; a network that learns from scratch reads 70 %. With
one, 55 and 50 %; with twenty, 88 and 87 %. It takes one to two minutes on two cores.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import digits_data
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tools
from jaxtyping import Array, Float, Int, PRNGKeyArray
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from sklearn.decomposition import PCA

import vernal as vn

SHOTS = (1, 2, 5, 10, 20)  # examples of each new digit
DRAWS = 8  # choices of these examples, each with networks of its own
BATCH = 32
FEATURES = 64 * 2 * 2
OPTIMIZER = optax.adam(3e-3)

Images = Float[Array, "n 1 8 8"]
Labels = Int[Array, " n"]
Scalar = Float[Array, ""]


class Body(vn.Module):
    """From an image to its features."""

    conv1: vn.nn.Conv2d
    norm1: vn.nn.BatchNorm
    conv2: vn.nn.Conv2d
    norm2: vn.nn.BatchNorm
    pool: vn.nn.MaxPool2d

    def __init__(self, key: PRNGKeyArray) -> None:
        key1, key2 = jax.random.split(key)
        self.conv1 = vn.nn.Conv2d(1, 24, 3, padding=1, key=key1)
        self.norm1 = vn.nn.BatchNorm(24, axis_name="batch", momentum=0.9)
        self.conv2 = vn.nn.Conv2d(24, 64, 3, padding=1, key=key2)
        self.norm2 = vn.nn.BatchNorm(64, axis_name="batch", momentum=0.9)
        self.pool = vn.nn.MaxPool2d(2, 2)

    def __call__(
        self, image: Float[Array, "1 8 8"], state: vn.nn.State
    ) -> tuple[Float[Array, " features"], vn.nn.State]:
        x, state = self.norm1(self.conv1(image), state)
        x, state = self.norm2(self.conv2(self.pool(jax.nn.relu(x))), state)
        return self.pool(jax.nn.relu(x)).ravel(), state


class Network(vn.Module):
    """A body, and a head that tells classes apart by the features."""

    body: Body
    head: vn.nn.Linear

    def __call__(
        self, image: Float[Array, "1 8 8"], state: vn.nn.State
    ) -> tuple[Float[Array, " classes"], vn.nn.State]:
        features, state = self.body(image, state)
        return self.head(features), state


# Which part of a network is trained: both stand where the network has its parts.
ALL, HEAD = Network(body=True, head=True), Network(body=False, head=True)


class Training(NamedTuple):
    """All that a step changes; each array has an axis of networks in front."""

    trained: Network  # with None in place of what is frozen
    state: vn.nn.State
    opt_state: optax.OptState


def make(body: Body, classes: int, key: PRNGKeyArray) -> tuple[Network, vn.nn.State]:
    """A network with a new head; the body holds the initial values of its state."""
    return vn.nn.split_state(Network(body, vn.nn.Linear(FEATURES, classes, key=key)))


def compute_loss(
    trained: Network,
    frozen: Network,
    state: vn.nn.State,
    images: Images,
    labels: Labels,
) -> tuple[Scalar, vn.nn.State]:
    model = vn.combine(trained, frozen)
    batched = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    logits, state = batched(images, state)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.mean(losses), state


@vn.filter_jit(donate="all-except-first")
def train_step(
    frozen: Network,
    training: Training,
    images: Float[Array, "networks n 1 8 8"],
    labels: Int[Array, "networks n"],
) -> tuple[Training, Scalar]:
    """One step of several networks, each with images of its own."""

    def step(frozen, training, images, labels):
        trained, state, opt_state = training
        value_and_grad = vn.filter_value_and_grad(compute_loss, has_aux=True)
        (loss, state), grads = value_and_grad(trained, frozen, state, images, labels)
        updates, opt_state = OPTIMIZER.update(grads, opt_state, trained)
        return Training(vn.apply_updates(trained, updates), state, opt_state), loss

    training, losses = jax.vmap(step)(frozen, training, images, labels)
    return training, jnp.mean(losses)


@vn.filter_jit
def predict(
    models: Network | Body, states: vn.nn.State, images: Images
) -> Float[Array, "networks n out"]:
    """What several networks make of the same images in inference mode."""

    def one(model, state):
        inference_model = vn.Partial(vn.nn.inference_mode(model), state=state)
        return jax.vmap(inference_model)(images)[0]

    return jax.vmap(one)(models, states)


def train(
    name: str,
    networks: tuple[Network, vn.nn.State],
    which: Network,
    images: Float[np.ndarray, "networks n 1 8 8"],
    labels: Int[np.ndarray, "networks n"],
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
            training, loss = train_step(
                frozen, training, images[chosen], labels[chosen]
            )
            progress.step(loss)
    return vn.combine(training.trained, frozen), training.state


def draw_features(ax: Axes, features: np.ndarray, digits: np.ndarray) -> None:
    """Draws each image as its digit, where the two main directions have it."""
    x, y = PCA(2).fit_transform(features).T
    for digit in range(5, 10):
        where = digits == digit
        marker, color = f"${digit}$", f"C{digit - 5}"
        ax.scatter(x[where], y[where], 60, color, marker=marker, linewidths=0.3)
    tools.style(ax, "Held-out digits that the body never learned, as it sees them")
    ax.set_xlabel("first and second principal component of the features")


def draw(
    path: Path,
    accuracies: dict[str, np.ndarray],
    features: np.ndarray,
    digits: np.ndarray,
) -> None:
    figure = Figure(figsize=(13, 6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, values in accuracies.items():
        mean, deviation = values.mean(axis=1), values.std(axis=1)
        left.plot(SHOTS, mean, ".-", label=name)
        left.fill_between(SHOTS, mean - deviation, mean + deviation, alpha=0.2)
    title = f"Reading 5 to 9: mean and deviation of {DRAWS} choices"
    tools.style(left, title, "examples of each digit", "right on held-out digits")
    left.set_xscale("log")
    left.set_xticks(SHOTS, map(str, SHOTS), minor=False)
    left.set_xticks([], minor=True)
    left.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    left.legend(loc="lower right")
    draw_features(right, features, digits)
    tools.save(figure, path)


def main(arguments: Sequence[str] | None = None) -> None:
    options = tools.parse(
        arguments,
        __doc__,
        "finetune",
        body_steps=(500, "steps to learn 0 to 4"),
        steps=(150, "steps to learn 5 to 9"),
    )
    rng = np.random.default_rng(options.seed)
    images, test_images, labels, test_labels = digits_data.load()
    old, old_labels = images[labels < 5], labels[labels < 5]
    # Lying and upside down they are other classes: the more there is to tell apart, the
    # more the body has to see.
    old = np.concatenate([np.rot90(old, turns, (2, 3)) for turns in range(4)])
    old_labels = np.concatenate([old_labels + 5 * turns for turns in range(4)])
    # Each digit stands crooked in its own way. Of the old ones there are many.
    old = np.concatenate([digits_data.augment(old, rng) for _ in range(8)])
    images, test_images = (digits_data.augment(x, rng) for x in (images, test_images))
    new = test_labels >= 5

    first, *keys = jax.random.split(jax.random.key(options.seed), 1 + DRAWS)
    network = jax.vmap(lambda key: make(Body(key), 20, key))(first[None])
    data = old[None], np.tile(old_labels, 8)[None]
    model, state = train("0 to 4", network, ALL, *data, options.body_steps, rng)
    features = predict(model.body, state, test_images[new])[0]
    # Of the only network: its state becomes the initial values of those to come.
    model, state = jax.tree.map(lambda x: x[0], (model, state))
    body = vn.nn.inference_mode(vn.nn.join_state(model, state).body)

    kinds = {
        "new head, frozen body": (lambda key: make(body, 5, key), HEAD),
        "from scratch": (lambda key: make(Body(key), 5, key), ALL),
    }
    accuracies = {name: np.zeros((len(SHOTS), DRAWS)) for name in kinds}
    for row, shots in enumerate(SHOTS):
        chosen = [
            [
                rng.choice(np.flatnonzero(labels == i), shots, False)
                for i in range(5, 10)
            ]
            for _ in range(DRAWS)
        ]
        chosen = np.reshape(chosen, (DRAWS, -1))
        data = images[chosen], labels[chosen] - 5
        for name, (make_one, which) in kinds.items():
            networks = jax.vmap(make_one)(jnp.stack(keys))
            title = f"5 to 9, {shots} each, {name}"
            networks = train(title, networks, which, *data, options.steps, rng)
            read = np.argmax(predict(*networks, test_images[new]), axis=-1) + 5
            accuracies[name][row] = np.mean(read == test_labels[new], axis=1)
    draw(options.out / "finetune.png", accuracies, features, test_labels[new])
    for shots, *values in zip(SHOTS, *accuracies.values(), strict=True):
        said = (f"{x.mean():.1%} {name}" for x, name in zip(values, kinds, strict=True))
        tools.say(f"{shots:>2} of each new digit: {'; '.join(said)}")


if __name__ == "__main__":
    tools.start(main)
