"""A network in two parts: what it sees in an image, and what it makes of it."""

import jax
from jaxtyping import Array, Float, PRNGKeyArray

import vernal as vn

FEATURES = 64 * 2 * 2


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


def make(body: Body, classes: int, key: PRNGKeyArray) -> tuple[Network, vn.nn.State]:
    """A network with a new head; the body holds the initial values of its state."""
    return vn.nn.split_state(Network(body, vn.nn.Linear(FEATURES, classes, key=key)))
