"""Learns to take noise away from handwritten digits, and makes digits from pure noise.

    python examples/diffusion.py --help

A small U-Net sees a noisy image, the strength of the noise, and which digit it is; it
learns what the image was. From that follows the slope of an ordinary differential
equation, which turns noise into a digit as the strength goes from large to small.
After 1,200 steps, about a minute on two cores, a classifier that was trained on real
digits reads 98 % of the made ones as what was asked for, and one that was trained on
made digits only reads 96 % of the real ones that were held out.
"""

from collections.abc import Sequence
from typing import NamedTuple

import digits_data
import digits_drawn
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import tools
from jaxtyping import Array, Float, Int, PRNGKeyArray

import vernal as vn

SPREAD = 0.75  # standard deviation of the pixels, which are from -1 to 1
LEVELS = np.geomspace(10, 0.05, 16, dtype=np.float32)  # of noise, in sampling
CONTEXT = 64  # numbers that tell the layers about the noise and the digit

Image = Float[Array, "1 8 8"]
Images = Float[Array, "n 1 8 8"]
Labels = Int[Array, " n"]
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


class Training(NamedTuple):
    """All that a training step changes."""

    model: UNet
    average: UNet  # of the model, over the last steps
    opt_state: optax.OptState


def make_optimizer(steps: int) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_onecycle_schedule(steps, peak_value=5e-3))


def compute_loss(
    model: UNet, images: Images, labels: Labels, key: PRNGKeyArray
) -> Scalar:
    """How far the guesses are from the images, 1 where nothing is known."""
    keys = jr.split(key)
    noise = jnp.exp(1.2 * jr.normal(keys[0], labels.shape) - 1)
    column = noise[:, None, None, None]
    noisy = images + column * jr.normal(keys[1], images.shape)
    errors = (jax.vmap(model)(noisy, noise, labels) - images) ** 2
    return jnp.mean(errors * (1 / column**2 + 1 / SPREAD**2))


@vn.filter_jit(donate="all")
def train_step(
    training: Training,
    optimizer: optax.GradientTransformation,
    images: Images,
    labels: Labels,
    key: PRNGKeyArray,
) -> tuple[Training, Scalar]:
    model, average, opt_state = training
    loss, grads = vn.filter_value_and_grad(compute_loss)(model, images, labels, key)
    updates, opt_state = optimizer.update(grads, opt_state, model)
    model = vn.apply_updates(model, updates)
    average = jax.tree.map(lambda a, b: 0.99 * a + 0.01 * b, average, model)
    return Training(model, average, opt_state), loss


@jax.jit
def sample(
    model: UNet, noise: Images, labels: Labels
) -> tuple[Images, Float[Array, "levels n 1 8 8"]]:
    """Goes from noise to digits by Heun's method; returns them and the way there."""

    def slope(x: Images, level: Scalar) -> Images:
        # That is -level times the score, the gradient of the log density of x.
        return (x - jax.vmap(model, in_axes=(0, None, 0))(x, level, labels)) / level

    def step(x: Images, levels: Float[Array, "2"]) -> tuple[Images, Images]:
        here, there = levels
        first = slope(x, here)
        second = slope(x + (there - here) * first, there)
        return x + (there - here) * (first + second) / 2, x

    pairs = jnp.stack([LEVELS[:-1], LEVELS[1:]], axis=1)
    x, path = jax.lax.scan(step, LEVELS[0] * noise, pairs)
    # The last step goes to where there is no noise at all.
    end = x - LEVELS[-1] * slope(x, LEVELS[-1])
    return end, jnp.concatenate([path, x[None]])


def main(arguments: Sequence[str] | None = None) -> None:
    options = tools.parse(
        arguments,
        __doc__,
        "diffusion",
        steps=(1200, "training steps"),
        batch_size=(64, "images in a step"),
        width=(4, "groups of four channels at full size"),
        each=(50, "how many of each digit to draw in the end"),
    )
    data = digits_data.load()
    rng = np.random.default_rng(options.seed)
    keys = jr.split(jr.key(options.seed), options.steps + 2)
    optimizer = make_optimizer(options.steps)
    model = UNet(4 * options.width, keys[-1])
    training = Training(model, jax.tree.map(jnp.copy, model), optimizer.init(model))
    with tools.Progress(options.steps, options.batch_size, "images") as progress:
        for key in keys[: options.steps]:
            chosen = rng.integers(len(data.train_labels), size=options.batch_size)
            images, labels = data.train_images[chosen], data.train_labels[chosen]
            training, loss = train_step(
                training, optimizer, 2 * images - 1, labels, key
            )
            progress.step(loss)

    tools.say("Making digits from noise ...")
    labels = np.arange(10 * options.each) % 10
    noise = jr.normal(keys[-2], (len(labels), 1, 8, 8))
    drawn, path = jax.device_get(sample(training.average, noise, labels))
    drawn = np.clip((drawn + 1) / 2, 0, 1)
    scores = digits_drawn.judge(data, drawn, labels)

    # The way there, with the noisy images shrunk to the range of the others.
    shrunk = path[:, :10, 0] * (SPREAD / np.hypot(LEVELS, SPREAD))[:, None, None, None]
    way = np.append((shrunk[:-1:2] + 1) / 2, [drawn[:10, 0]], axis=0).swapaxes(0, 1)
    times = [*(f"{level:.2g}" for level in LEVELS[:-1:2]), "0"]
    captions = "from noise of this strength to digits", times
    figure, ax = digits_drawn.draw(data, way, captions, drawn, scores)
    name = "error of the guesses, weighted by the noise; 1 is to know nothing"
    digits_drawn.curve(ax, progress.losses(), "tab:blue", name)
    tools.style(ax, "loss, and its moving average", "step")
    ax.set_ylim(0, 1.2)
    tools.save(figure, options.out / "diffusion.png")


if __name__ == "__main__":
    tools.start(main)
