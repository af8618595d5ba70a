"""The two networks of the GAN: one draws digits, the other looks at them."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

import vernal as vn

NOISE = 16  # numbers that an image is made from

Labels = Int[Array, " n"]
Wishes = Float[Array, f"n {NOISE}+10"]
Scalar = Float[Array, ""]


def make_wishes(labels: Labels, key: PRNGKeyArray) -> Wishes:
    """What the generator is given: noise, and the digits that are asked for."""
    noise = jr.normal(key, (len(labels), NOISE))
    return jnp.append(noise, jax.nn.one_hot(labels, 10), axis=1)


def make_generator(width: int, key: PRNGKeyArray) -> vn.nn.Sequential:
    """From a wish to 2x2, 4x4 and 8x8 pixels."""
    keys = jr.split(key, 3)
    return vn.nn.Sequential(
        [
            vn.nn.Linear(NOISE + 10, 2 * width * 2 * 2, key=keys[0]),
            lambda x: x.reshape(2 * width, 2, 2),
            vn.nn.BatchNorm(2 * width, "batch", momentum=0.9),
            jax.nn.relu,
            vn.nn.ConvTranspose2d(2 * width, width, 4, 2, padding=1, key=keys[1]),
            vn.nn.BatchNorm(width, "batch", momentum=0.9),
            jax.nn.relu,
            vn.nn.ConvTranspose2d(width, 1, 4, 2, padding=1, key=keys[2]),
            jax.nn.sigmoid,
        ]
    )


class Critic(vn.Module):
    """Judges how real an image looks, by itself and as an image of that digit."""

    layers: vn.nn.Sequential
    real: vn.nn.SpectralNorm[vn.nn.Linear]
    as_digit: vn.nn.SpectralNorm[vn.nn.Embedding]

    def __init__(self, width: int, key: PRNGKeyArray) -> None:
        keys = iter(jr.split(key, 10))

        def normalized(layer: Any, *sizes: Any) -> vn.nn.SpectralNorm[Any]:
            layer = layer(*sizes, key=next(keys))
            return vn.nn.SpectralNorm(layer, "weight", key=next(keys))

        layers = []  # to 6x6, 4x4 and 2x2 pixels
        for sizes in (1, width), (width, 2 * width), (2 * width, 2 * width):
            layers += [normalized(vn.nn.Conv2d, *sizes, 3), jax.nn.leaky_relu]
        self.layers = vn.nn.Sequential([*layers, jnp.ravel])
        self.real = normalized(vn.nn.Linear, 2 * width * 2 * 2, "scalar")
        self.as_digit = normalized(vn.nn.Embedding, 10, 2 * width * 2 * 2)

    def __call__(
        self, digit: tuple[Float[Array, "1 8 8"], Int[Array, ""]], state: vn.nn.State
    ) -> tuple[Scalar, vn.nn.State]:
        image, label = digit
        x, state = self.layers(2 * image - 1, state)
        real, state = self.real(x, state)
        direction, state = self.as_digit(label, state)
        return real + jnp.dot(direction, x), state
