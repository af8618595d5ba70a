"""Learns new digits from few examples, on top of a network that is kept as it is.

    python examples/finetune.py --help

A network with batch normalization first learns to read 0 to 4. Then its body is frozen,
parameters and running statistics, and a new head learns 5 to 9 from a few examples of
each. Another network learns the same from scratch.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tools
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split

import vernal as vn

SHOTS = (1, 2, 3, 5, 10, 20, 50)  # examples of each new digit
DRAWS = 8  # choices of these examples
FEATURES = 32
BATCH = 32
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
    linear: vn.nn.Linear
    norm3: vn.nn.BatchNorm

    def __init__(self, key: PRNGKeyArray) -> None:
        keys = jax.random.split(key, 3)
        self.conv1 = vn.nn.Conv2d(1, 16, 3, padding=1, key=keys[0])
        self.norm1 = vn.nn.BatchNorm(16, axis_name="batch", momentum=0.9)
        self.conv2 = vn.nn.Conv2d(16, 32, 3, padding=1, key=keys[1])
        self.norm2 = vn.nn.BatchNorm(32, axis_name="batch", momentum=0.9)
        self.pool = vn.nn.MaxPool2d(2, 2)
        self.linear = vn.nn.Linear(32 * 2 * 2, FEATURES, key=keys[2])
        self.norm3 = vn.nn.BatchNorm(FEATURES, axis_name="batch", momentum=0.9)

    def __call__(
        self, image: Float[Array, "1 8 8"], state: vn.nn.State
    ) -> tuple[Float[Array, " features"], vn.nn.State]:
        x, state = self.norm1(self.conv1(image), state)
        x, state = self.norm2(self.conv2(self.pool(jax.nn.relu(x))), state)
        x, state = self.norm3(self.linear(self.pool(jax.nn.relu(x)).ravel()), state)
        return jax.nn.relu(x), state


class Network(vn.Module):
    """A body, and a head that tells five digits apart by the features."""

    body: Body
    head: vn.nn.Linear

    def __call__(
        self, image: Float[Array, "1 8 8"], state: vn.nn.State
    ) -> tuple[Float[Array, "5"], vn.nn.State]:
        features, state = self.body(image, state)
        return self.head(features), state


class Training(NamedTuple):
    """All that training steps change, for several networks at once."""

    trained: Network  # None stands in place of what is frozen
    state: vn.nn.State
    opt_state: optax.OptState


def make(body: Body, key: PRNGKeyArray) -> tuple[Network, vn.nn.State]:
    """A network of a body, which holds initial values of its state, and a new head."""
    return vn.nn.split_state(Network(body, vn.nn.Linear(FEATURES, 5, key=key)))


def compute_loss(
    trained: Network, frozen: Network, state: vn.nn.State, images: Images, labels: Labels
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
    images: Float[Array, "draws n 1 8 8"],
    labels: Int[Array, "draws n"],
) -> tuple[Training, Scalar]:
    """One step of each network, with images of its own."""

    def step(frozen, training, images, labels):
        trained, state, opt_state = training
        value_and_grad = vn.filter_value_and_grad(compute_loss, has_aux=True)
        (loss, state), grads = value_and_grad(trained, frozen, state, images, labels)
        updates, opt_state = OPTIMIZER.update(grads, opt_state, trained)
        return Training(vn.apply_updates(trained, updates), state, opt_state), loss

    training, losses = jax.vmap(step)(frozen, training, images, labels)
    return training, jnp.mean(losses)


@vn.filter_jit
def run(function, models, states, images):
    """What the networks, or parts of them, make of the same images in inference mode."""

    def one(model, state):
        part = vn.Partial(function(vn.nn.inference_mode(model)), state=state)
        return jax.vmap(part)(images)[0]
    return jax.vmap(one)(models, states)


def train(name, models, states, which, images, labels, steps, rng):
    """Trains networks, each with its part of the images, and what `which` says of them."""
    trained, frozen = vn.partition(models, which)
    training = Training(trained, states, jax.vmap(OPTIMIZER.init)(trained))
    draws, count = labels.shape
    each = np.arange(draws)[:, None]
    with tools.Progress(steps, draws * BATCH, "images", name) as progress:
        for _ in range(steps):
            batch = rng.integers(count, size=(draws, BATCH))
            training, loss = train_step(frozen, training, images[each, batch], labels[each, batch])
            progress.step(loss)
    return vn.combine(training.trained, frozen), training.state

def accuracy(models, states, images, labels):
    logits = run(lambda m: m, models, states, images)
    return np.mean(np.argmax(logits, axis=-1) == labels, axis=1)

def main(arguments=None):
    options = tools.parse(arguments, __doc__, "finetune", steps=(100, "steps"), pretrain_steps=(300, "sadf"))
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    x, xt, y, yt = train_test_split(images, labels.astype(np.int32), test_size=450, stratify=labels, random_state=0)
    rng = np.random.default_rng(options.seed)
    keys = jax.random.split(jax.random.key(options.seed), 2+DRAWS)
    old = y<5
    one = lambda t: jax.tree.map(lambda a: a[None], t)
    model, state = jax.vmap(lambda k: make(Body(k), k))(keys[:1])
    print(state)
    model, state = train("digits 0-4", model, state, Network(True, True), x[old][None], y[old][None], options.pretrain_steps, rng)
    print(accuracy(model, state, xt[yt<5], yt[yt<5]))
    model, state = jax.tree.map(lambda a: a[0], (model, state))
    body = vn.nn.inference_mode(vn.nn.join_state(model, state).body)
    results=[]
    for shots in SHOTS:
        chosen=np.stack([np.concatenate([rng.choice(np.flatnonzero(y==d), shots, replace=False) for d in range(5,10)]) for _ in range(DRAWS)])
        data = x[chosen], y[chosen]-5
        for make_body, which in ((lambda k: body, Network(False, True)), (Body, Network(True, True))):
            m, s = jax.vmap(lambda k: make(make_body(k), k))(keys[2:])
            m, s = train(f"{shots}", m, s, which, *data, options.steps, rng)
            results.append(accuracy(m,s,xt[yt>4], yt[yt>4]-5))
            print(shots, which, results[-1].mean(), results[-1].std())

if __name__ == "__main__":
    tools.start(main)
