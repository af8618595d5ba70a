"""Watches what the running statistics of two networks go through as they learn.

    python examples/watch_state.py --help

Both are the same network, and read the same handwritten digits. One is trained with
care; the other in a hurry: with batches of 4, a large learning rate that never decays,
and `momentum=0.1` as one knows it from PyTorch, where it is the weight of the new batch
and not of the past. `StateRecorder` follows each running statistic of each layer, and
says which ones do not settle. The price shows in inference, where they take the place
of the batch's own: 75 % of the held-out digits are read with them, and 84 % with
statistics of their own.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import digits_data
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import tools
import watch_figure
from digits_data import Digits
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

import vernal as vn

Images = Float[Array, "n 1 8 8"]
Labels = Int[Array, " n"]
Scalar = Float[Array, ""]


class Recipe(NamedTuple):
    """How a network is trained."""

    name: str
    batch_size: int
    momentum: float  # the weight of the past in the running averages
    rate: float
    decays: bool


RECIPES = (
    Recipe("with care", 64, 0.95, 4e-3, True),
    Recipe("in a hurry", 4, 0.1, 2e-2, False),
)


class Network(vn.Module):
    """Three convolutions and two linear maps; batch norm after each but the last."""

    convs: tuple[vn.nn.Conv2d, ...]
    linear: vn.nn.Linear
    head: vn.nn.Linear
    norms: tuple[vn.nn.BatchNorm, ...]
    pool: vn.nn.MaxPool2d

    def __init__(self, width: int, momentum: float, key: PRNGKeyArray) -> None:
        keys = jr.split(key, 5)
        sizes = (1, width, 2 * width, 2 * width)
        pairs = zip(sizes, sizes[1:], keys[:3], strict=False)
        self.convs = tuple(
            vn.nn.Conv2d(n, m, 3, padding=1, key=key) for n, m, key in pairs
        )
        self.linear = vn.nn.Linear(2 * width * 2 * 2, 4 * width, key=keys[3])
        self.head = vn.nn.Linear(4 * width, 10, key=keys[4])
        channels = (*sizes[1:], 4 * width)
        self.norms = tuple(
            vn.nn.BatchNorm(n, axis_name="batch", momentum=momentum) for n in channels
        )
        self.pool = vn.nn.MaxPool2d(2, 2)

    def __call__(
        self, x: Float[Array, "1 8 8"], state: vn.nn.State
    ) -> tuple[Float[Array, "10"], vn.nn.State]:
        *norms, last = self.norms
        for i, (conv, norm) in enumerate(zip(self.convs, norms, strict=True)):
            x, state = norm(conv(x), state)
            x = jax.nn.relu(x)
            x = self.pool(x) if i < 2 else x
        x, state = last(self.linear(jnp.ravel(x)), state)
        return self.head(jax.nn.relu(x)), state


class Training(NamedTuple):
    """All that a step changes."""

    model: Network
    state: vn.nn.State
    opt_state: optax.OptState


def compute_loss(
    model: Network, state: vn.nn.State, images: Images, labels: Labels
) -> tuple[Scalar, vn.nn.State]:
    logits, state = vn.nn.batched(model)(images, state)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.mean(losses), state


@vn.filter_jit(donate="all")
def train_step(
    training: Training,
    optimizer: optax.GradientTransformation,
    images: Images,
    labels: Labels,
) -> tuple[Training, Scalar]:
    model, state, opt_state = training
    value_and_grad = vn.filter_value_and_grad(compute_loss, has_aux=True)
    (loss, state), grads = value_and_grad(model, state, images, labels)
    updates, opt_state = optimizer.update(grads, opt_state, model)
    return Training(vn.apply_updates(model, updates), state, opt_state), loss


@vn.filter_jit
def accuracy(
    model: Network, state: vn.nn.State, images: Images, labels: ArrayLike
) -> Scalar:
    logits, _ = vn.nn.batched(model)(images, state)
    return jnp.mean(jnp.argmax(logits, axis=1) == labels)


class Outcome(NamedTuple):
    """What came of a training."""

    recipe: Recipe
    recorder: vn.nn.StateRecorder
    losses: Float[np.ndarray, " steps"]
    with_state: float  # the part that is read with the running statistics
    with_batch: float  # the part that is read with those of all test images


def train(recipe: Recipe, data: Digits, options: Any) -> Outcome:
    make = vn.nn.make_with_state(Network)
    model, state = make(options.width, recipe.momentum, jr.key(options.seed))
    rate: Any = recipe.rate
    if recipe.decays:
        rate = optax.cosine_decay_schedule(rate, options.steps)
    optimizer = optax.adamw(rate, weight_decay=1e-2)
    training = Training(model, state, optimizer.init(model))
    recorder = vn.nn.StateRecorder()
    rng = np.random.default_rng(options.seed)
    size, name = recipe.batch_size, recipe.name
    with tools.Progress(options.steps, size, "images", f"{name:<10}") as progress:
        for step in range(options.steps):
            chosen = rng.integers(len(data.train_labels), size=size)
            images = digits_data.augment(data.train_images[chosen], rng)
            labels = data.train_labels[chosen]
            training, loss = train_step(training, optimizer, images, labels)
            # The next step takes over the memory of this state: that does no harm.
            recorder.record(step, training.state)
            progress.step(loss)
    test = data.test_images, data.test_labels
    model, state, _ = training
    with_state = accuracy(vn.nn.inference_mode(model), state, *test)
    with_batch = accuracy(model, state, *test)
    return Outcome(
        recipe, recorder, progress.losses(), float(with_state), float(with_batch)
    )


def main(arguments: Sequence[str] | None = None) -> None:
    options = tools.parse(
        arguments,
        __doc__,
        "watch_state",
        steps=(600, "steps of each network"),
        width=(16, "channels of the first layer"),
    )
    data = digits_data.load()
    outcomes = [train(recipe, data, options) for recipe in RECIPES]
    for outcome in outcomes:
        tools.say(
            f"\nTrained {outcome.recipe.name}: {outcome.with_state:.1%} of "
            f"{len(data.test_labels)} held-out digits are read with the running "
            f"statistics,\n{outcome.with_batch:.1%} with statistics of their own."
        )
        if tools.console.is_terminal:
            tools.console.print(outcome.recorder)
        else:
            tools.say(str(outcome.recorder))
    watch_figure.draw(options.out, outcomes)


if __name__ == "__main__":
    tools.start(main)
