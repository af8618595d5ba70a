"""Trains two networks against each other until one of them draws handwritten digits.

    python examples/gan.py --help

A generator with batch normalization turns noise and the digit asked for into an image.
A critic with spectral normalization looks at images, and tells real from drawn. After
2,000 steps, about a minute on two cores, a classifier that was trained on real digits
reads 98 % of the drawn ones as what was asked for, and one that was trained on drawn
digits only reads 93 % of the real ones that were held out.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

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

NOISE = 16  # numbers that an image is made from

Image = Float[Array, "1 8 8"]
Images = Float[Array, "n 1 8 8"]
Labels = Int[Array, " n"]
Noise = Float[Array, f"n {NOISE}"]
Scalar = Float[Array, ""]


def to_image(x: Float[Array, " size"]) -> Float[Array, "channels 2 2"]:
    return x.reshape(-1, 2, 2)


class Generator(vn.Module):
    """From 2x2 to 4x4 to 8x8 pixels."""

    layers: vn.nn.Sequential

    def __init__(self, width: int, key: PRNGKeyArray) -> None:
        keys = jr.split(key, 3)
        wide, narrow = 2 * width, width
        self.layers = vn.nn.Sequential(
            [
                vn.nn.Linear(NOISE + 10, wide * 2 * 2, key=keys[0]),
                to_image,
                vn.nn.BatchNorm(wide, "batch", momentum=0.9),
                jax.nn.relu,
                vn.nn.ConvTranspose2d(wide, narrow, 4, 2, padding=1, key=keys[1]),
                vn.nn.BatchNorm(narrow, "batch", momentum=0.9),
                jax.nn.relu,
                vn.nn.ConvTranspose2d(narrow, 1, 4, 2, padding=1, key=keys[2]),
                jax.nn.sigmoid,
            ]
        )

    def __call__(
        self, noise: Float[Array, f"{NOISE}"], label: Int[Array, ""], state: vn.nn.State
    ) -> tuple[Image, vn.nn.State]:
        return self.layers(jnp.append(noise, jax.nn.one_hot(label, 10)), state)


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

        self.layers = vn.nn.Sequential(
            [
                normalized(vn.nn.Conv2d, 1, width, 3),  # 6x6 remain
                jax.nn.leaky_relu,
                normalized(vn.nn.Conv2d, width, 2 * width, 3),  # 4x4
                jax.nn.leaky_relu,
                normalized(vn.nn.Conv2d, 2 * width, 2 * width, 3),  # 2x2
                jax.nn.leaky_relu,
                jnp.ravel,
            ]
        )
        self.real = normalized(vn.nn.Linear, 2 * width * 2 * 2, "scalar")
        self.as_digit = normalized(vn.nn.Embedding, 10, 2 * width * 2 * 2)

    def __call__(
        self, image: Image, label: Int[Array, ""], state: vn.nn.State
    ) -> tuple[Scalar, vn.nn.State]:
        x, state = self.layers(2 * image - 1, state)
        real, state = self.real(x, state)
        digit, state = self.as_digit(label, state)
        return real + jnp.dot(digit, x), state


class Player(NamedTuple):
    """One of the two, with all that its training changes."""

    model: Any
    state: vn.nn.State
    opt_state: optax.OptState


class Game(NamedTuple):
    generator: Player
    critic: Player
    average: tuple[Generator, vn.nn.State]  # of the generator, over the last steps


def make_optimizer(steps: int) -> optax.GradientTransformation:
    return optax.adam(optax.linear_schedule(1e-3, 1e-4, steps), b1=0.5, b2=0.9)


def start(width: int, optimizer: optax.GradientTransformation, seed: int) -> Game:
    def player(kind: type[vn.Module], width: int, key: PRNGKeyArray) -> Player:
        model, state = vn.nn.make_with_state(kind)(width, key)
        return Player(model, state, optimizer.init(model))

    keys = jr.split(jr.key(seed))
    generator = player(Generator, width, keys[0])
    average = jax.tree.map(jnp.copy, (generator.model, generator.state))
    return Game(generator, player(Critic, max(1, width // 2), keys[1]), average)


def batched(
    model: Any, xs: Array, labels: Labels, state: vn.nn.State
) -> tuple[Array, vn.nn.State]:
    """The model on a batch of examples, which share one state."""
    axes = (0, 0, None), (0, None)
    return jax.vmap(model, *axes, axis_name="batch")(xs, labels, state)


def critic_loss(
    critic: Critic, state: vn.nn.State, real: Images, drawn: Images, labels: Labels
) -> tuple[Scalar, vn.nn.State]:
    """The hinge loss: real images shall get at least 1, drawn ones at most -1."""
    on_real, state = batched(critic, real, labels, state)
    on_drawn, state = batched(critic, drawn, labels, state)
    return jnp.mean(jax.nn.relu(1 - on_real) + jax.nn.relu(1 + on_drawn)), state


def generator_loss(
    generator: Generator, state: vn.nn.State, critic: Player, x: Noise, labels: Labels
) -> tuple[Scalar, vn.nn.State]:
    """What is drawn shall get as much as possible. The critic's state stays."""
    drawn, state = batched(generator, x, labels, state)
    judge = vn.nn.inference_mode(critic.model)
    return -jnp.mean(batched(judge, drawn, labels, critic.state)[0]), state


@vn.filter_jit(donate="all")
def train_step(
    game: Game,
    optimizer: optax.GradientTransformation,
    images: Images,
    labels: Labels,
    key: PRNGKeyArray,
) -> tuple[Game, tuple[Scalar, Scalar]]:
    """One step of the critic, and then one of the generator."""

    def learn(loss: Any, player: Player, *data: Any) -> tuple[Player, Scalar]:
        model, state, opt_state = player
        value_and_grad = vn.filter_value_and_grad(loss, has_aux=True)
        (value, state), grads = value_and_grad(model, state, *data)
        updates, opt_state = optimizer.update(grads, opt_state, model)
        return Player(vn.apply_updates(model, updates), state, opt_state), value

    generator, critic, average = game
    noise = jr.normal(key, (len(images), NOISE))
    drawn, _ = batched(generator.model, noise, labels, generator.state)
    critic, loss1 = learn(critic_loss, critic, images, drawn, labels)
    generator, loss2 = learn(generator_loss, generator, critic, noise, labels)
    now = (generator.model, generator.state)
    average = jax.tree.map(lambda a, b: 0.99 * a + 0.01 * b, average, now)
    return Game(generator, critic, average), (loss1, loss2)


@vn.filter_jit
def draw(model: Generator, state: vn.nn.State, noise: Noise, labels: Labels) -> Images:
    """What the generator makes of the noise in inference mode."""
    return batched(vn.nn.inference_mode(model), noise, labels, state)[0]


def main(arguments: Sequence[str] | None = None) -> None:
    options = tools.parse(
        arguments,
        __doc__,
        "gan",
        steps=(2000, "steps of both networks"),
        batch_size=(64, "images in a step"),
        width=(32, "channels of the generator's second layer"),
        each=(135, "how many of each digit to draw in the end"),
    )
    data = digits_data.load()
    rng = np.random.default_rng(options.seed)
    optimizer = make_optimizer(options.steps)
    game = start(options.width, optimizer, options.seed)

    # The same noise, drawn again and again while the generator learns.
    times = np.unique(
        np.ceil(options.steps * np.linspace(0, 1, 10)[1:] ** 2).astype(int)
    )
    noise, digits = jr.normal(jr.key(options.seed + 1), (10, NOISE)), np.arange(10)
    history, losses = [], []
    with tools.Progress(options.steps, options.batch_size, "images") as progress:
        for i, key in enumerate(jr.split(jr.key(options.seed), options.steps), start=1):
            chosen = rng.integers(len(data.train_labels), size=options.batch_size)
            batch = data.train_images[chosen], data.train_labels[chosen]
            game, loss = train_step(game, optimizer, *batch, key)
            losses.append(loss)
            progress.step(loss[0])
            if i in times:
                history.append(draw(*game.average, noise, digits))

    labels = np.arange(10 * options.each) % 10
    noise = jr.normal(jr.key(options.seed + 2), (len(labels), NOISE))
    drawn = np.asarray(draw(*game.average, noise, labels))
    scores = digits_drawn.judge(data, drawn, labels)
    captions = "the same noise all along, after so many steps", times.tolist()
    sheet = np.stack(history, axis=1)[:, :, 0]
    figure, ax = digits_drawn.draw(data, sheet, captions, drawn, scores)
    critic, generator = np.transpose(losses)
    name = "critic: 2 when it cannot tell real from drawn"
    digits_drawn.curve(ax, critic, "tab:blue", name)
    name = "generator: less when the critic takes its digits for real"
    digits_drawn.curve(ax, generator, "tab:orange", name)
    tools.style(ax, "hinge losses, and their moving averages", "step")
    tools.save(figure, options.out / "gan.png")


if __name__ == "__main__":
    tools.start(main)
