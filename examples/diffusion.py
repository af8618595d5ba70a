"""Learns to take noise away from handwritten digits, and makes digits from pure noise.

    python examples/diffusion.py --help

A small U-Net sees a noisy image, the strength of the noise, and which digit it is; it
learns what the image was. From that follows the slope of an ordinary differential
equation, which turns noise into a digit as the strength goes from large to small.
After 1,200 steps, about a minute on two cores, a classifier that was trained on real
digits reads 97.8 % of the made ones as what was asked for, and one that was trained on
made digits only reads 95.8 % of the real ones that were held out.
"""

from collections.abc import Sequence
from typing import NamedTuple

import diffusion_figure
import digits_data
import digits_drawn
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import tools
from diffusion_unet import SPREAD, UNet
from jaxtyping import Array, Float, Int, PRNGKeyArray

import vernal as vn

LEVELS = np.geomspace(10, 0.05, 16, dtype=np.float32)  # of noise, in sampling

Images = Float[Array, "n 1 8 8"]
Labels = Int[Array, " n"]
Scalar = Float[Array, ""]


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
    losses = progress.losses()
    diffusion_figure.draw(options.out, data, path, LEVELS, drawn, scores, losses)


if __name__ == "__main__":
    tools.start(main)
