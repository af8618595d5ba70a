"""Trains two networks against each other until one of them draws handwritten digits.

    python examples/gan.py --help

A generator with batch normalization turns noise and the digit asked for into an image.
A critic with spectral normalization looks at images, and tells real from drawn. After
2,000 steps, about a minute on two cores, a classifier that was trained on real digits
reads 98.7 % of the drawn ones as what was asked for, and one that was trained on drawn
digits only reads 93.1 % of the real ones that were held out.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import digits_data
import digits_drawn
import gan_figure
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import tools
from gan_networks import Critic, Wishes, make_generator, make_wishes
from jaxtyping import Array, Float, Int, PRNGKeyArray

import vernal as vn

Images = Float[Array, "n 1 8 8"]
Labels = Int[Array, " n"]
Digits = tuple[Images, Labels]
Scalar = Float[Array, ""]


class Player(NamedTuple):
    """One of the two, with all that its training changes."""

    model: Any
    state: vn.nn.State
    opt_state: optax.OptState


class Game(NamedTuple):
    generator: Player
    critic: Player
    average: tuple[vn.nn.Sequential, vn.nn.State]  # of the last steps' generators


def start(width: int, optimizer: optax.GradientTransformation, seed: int) -> Game:
    def player(make: Callable[..., Any], width: int, key: PRNGKeyArray) -> Player:
        model, state = vn.nn.make_with_state(make)(width, key)
        return Player(model, state, optimizer.init(model))

    keys = jr.split(jr.key(seed))
    generator = player(make_generator, width, keys[0])
    # A copy in floats, as averages are, of the counters in the state as well.
    average = jax.tree.map(lambda x: 1.0 * x, (generator.model, generator.state))
    return Game(generator, player(Critic, max(1, width // 2), keys[1]), average)


def critic_loss(
    critic: Critic, state: vn.nn.State, real: Digits, drawn: Digits
) -> tuple[Scalar, vn.nn.State]:
    """The hinge loss: real images shall get at least 1, drawn ones at most -1."""
    on_real, state = vn.nn.batched(critic)(real, state)
    on_drawn, state = vn.nn.batched(critic)(drawn, state)
    return jnp.mean(jax.nn.relu(1 - on_real) + jax.nn.relu(1 + on_drawn)), state


def generator_loss(
    generator: Any, state: vn.nn.State, wishes: Wishes, labels: Labels, critic: Player
) -> tuple[Scalar, vn.nn.State]:
    """What is drawn shall get as much as possible. The critic's state stays."""
    drawn, state = vn.nn.batched(generator)(wishes, state)
    judge = vn.nn.batched(vn.nn.inference_mode(critic.model))
    return -jnp.mean(judge((drawn, labels), critic.state)[0]), state


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
    wishes = make_wishes(labels, key)
    drawn, _ = vn.nn.batched(generator.model)(wishes, generator.state)
    critic, loss1 = learn(critic_loss, critic, (images, labels), (drawn, labels))
    generator, loss2 = learn(generator_loss, generator, wishes, labels, critic)
    now = (generator.model, generator.state)
    average = jax.tree.map(lambda a, b: 0.99 * a + 0.01 * b, average, now)
    return Game(generator, critic, average), (loss1, loss2)


@vn.filter_jit
def draw(generator: Any, state: vn.nn.State, wishes: Wishes) -> Images:
    """What the generator makes of the wishes in inference mode."""
    return vn.nn.batched(vn.nn.inference_mode(generator))(wishes, state)[0]


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
    step_keys = jr.split(jr.key(options.seed), options.steps)
    schedule = optax.linear_schedule(1e-3, 1e-4, options.steps)
    optimizer = optax.adam(schedule, b1=0.5, b2=0.9)
    game = start(options.width, optimizer, options.seed)
    # The same wishes are drawn again and again while the generator learns.
    wishes = make_wishes(np.arange(10), jr.key(options.seed + 1))
    times = np.ceil(options.steps * np.linspace(0, 1, 10)[1:] ** 2)
    history, losses = {}, []
    with tools.Progress(options.steps, options.batch_size, "images") as progress:
        for i, key in enumerate(step_keys, start=1):
            chosen = rng.integers(len(data.train_labels), size=options.batch_size)
            batch = data.train_images[chosen], data.train_labels[chosen]
            game, loss = train_step(game, optimizer, *batch, key)
            losses.append(loss)
            progress.step(loss[0])
            if i in times:
                history[i] = draw(*game.average, wishes)

    labels = np.arange(10 * options.each) % 10
    wishes = make_wishes(labels, jr.key(options.seed + 2))
    drawn = np.asarray(draw(*game.average, wishes))
    scores = digits_drawn.judge(data, drawn, labels)
    gan_figure.draw(options.out, data, history, drawn, scores, np.transpose(losses))


if __name__ == "__main__":
    tools.start(main)
