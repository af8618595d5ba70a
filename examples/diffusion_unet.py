"""A small U-Net, which guesses what a noisy image of a digit was without its noise."""

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

import vernal as vn

SPREAD = 0.75  # standard deviation of the pixels, which are from -1 to 1
CONTEXT = 64  # numbers that tell the layers about the noise and the digit

Image = Float[Array, "1 8 8"]
Scalar = Float[Array, ""]


class Block(vn.Module):
    """Two convolutions and a shortcut; the context scales and shifts between them."""

    norm1: vn.nn.GroupNorm
    conv1: vn.nn.Conv2d
    context: vn.nn.Linear
    norm2: vn.nn.GroupNorm
    conv2: vn.nn.Conv2d
    shortcut: vn.nn.Conv2d

    def __init__(self, channels: int, out_channels: int, key: PRNGKeyArray) -> None:
        keys = jr.split(key, 4)
        self.norm1 = vn.nn.GroupNorm(4, channels)
        self.conv1 = vn.nn.Conv2d(channels, out_channels, 3, padding=1, key=keys[0])
        self.context = vn.nn.Linear(CONTEXT, 2 * out_channels, key=keys[1])
        self.norm2 = vn.nn.GroupNorm(4, out_channels)
        self.conv2 = vn.nn.Conv2d(out_channels, out_channels, 3, padding=1, key=keys[2])
        self.shortcut = vn.nn.Conv2d(channels, out_channels, 1, key=keys[3])

    def __call__(
        self, x: Float[Array, "channels h w"], context: Float[Array, f"{CONTEXT}"]
    ) -> Float[Array, "out_channels h w"]:
        y = self.conv1(jax.nn.silu(self.norm1(x)))
        scale, shift = self.context(context).reshape(2, -1, 1, 1)
        y = self.norm2(y) * (1 + scale) + shift
        return self.shortcut(x) + self.conv2(jax.nn.silu(y))


class UNet(vn.Module):
    """Guesses what an image was without its noise, looking at 8x8 and at 4x4 pixels."""

    digit: vn.nn.Embedding
    strength: vn.nn.MLP
    first: vn.nn.Conv2d
    fine1: Block
    down: vn.nn.AvgPool2d
    coarse: Block
    up: vn.nn.ConvTranspose2d
    fine2: Block
    last: vn.nn.Conv2d

    def __init__(self, width: int, key: PRNGKeyArray) -> None:
        keys = jr.split(key, 8)
        self.digit = vn.nn.Embedding(10, CONTEXT, key=keys[0])
        self.strength = vn.nn.MLP(16, CONTEXT, 64, 1, jax.nn.silu, key=keys[1])
        self.first = vn.nn.Conv2d(1, width, 3, padding=1, key=keys[2])
        self.fine1 = Block(width, width, keys[3])
        self.down = vn.nn.AvgPool2d(2, 2)
        self.coarse = Block(width, 3 * width, keys[4])
        self.up = vn.nn.ConvTranspose2d(3 * width, width, 2, 2, key=keys[5])
        self.fine2 = Block(2 * width, width, keys[6])
        self.last = vn.nn.Conv2d(width, 1, 3, padding=1, key=keys[7])

    def __call__(self, image: Image, noise: Scalar, label: Int[Array, ""]) -> Image:
        waves = jnp.log(noise) * 2.0 ** jnp.arange(-3, 5)
        waves = jnp.concatenate([jnp.sin(waves), jnp.cos(waves)])
        context = jax.nn.silu(self.strength(waves) + self.digit(label))
        # What goes into the layers, and what shall come out, has variance 1 at any
        # strength of the noise: https://arxiv.org/abs/2206.00364, section 5.
        total = jnp.sqrt(noise**2 + SPREAD**2)
        fine = self.fine1(self.first(image / total), context)
        coarse = self.up(self.coarse(self.down(fine), context))
        y = self.fine2(jnp.concatenate([fine, coarse]), context)
        y = self.last(jax.nn.silu(y))
        return (SPREAD / total) ** 2 * image + noise * SPREAD / total * y
