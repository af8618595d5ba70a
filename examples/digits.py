"""Trains a small network with state on handwritten digits: vernal from end to end.

    python examples/digits.py --help

Stop it with Ctrl-C whenever you like: the same command goes on where it was, and ends
bit for bit as if it had never been stopped.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import digits_data
import digits_figure
import digits_report
import jax
import jax.numpy as jnp
import optax
from digits_data import Digits
from digits_figure import History
from digits_options import Recipe, parse
from digits_report import Progress, say
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

import vernal as vn

Scalar = Float[Array, ""]

LAG = 2  # how many steps later the metrics of a step are looked at
INTERRUPTED = 130  # the exit status that shells know for Ctrl-C


class Network(vn.Module):
    """Two convolutions and two linear maps, with layers between that have state."""

    conv1: vn.nn.Conv2d
    norm1: vn.nn.BatchNorm
    conv2: vn.nn.SpectralNorm[vn.nn.Conv2d]
    norm2: vn.nn.BatchNorm
    linear1: vn.nn.SpectralNorm[vn.nn.Linear]
    norm3: vn.nn.BatchNorm
    linear2: vn.nn.Linear
    pool: vn.nn.MaxPool2d

    def __init__(self, width: int, key: PRNGKeyArray) -> None:
        keys = jax.random.split(key, 6)
        conv2 = vn.nn.Conv2d(width, 2 * width, 3, padding=1, key=keys[1])
        linear1 = vn.nn.Linear(2 * width * 2 * 2, 2 * width, key=keys[3])

        self.conv1 = vn.nn.Conv2d(1, width, 3, padding=1, key=keys[0])
        self.norm1 = vn.nn.BatchNorm(width, axis_name="batch", momentum=0.9)
        self.conv2 = vn.nn.SpectralNorm(conv2, "weight", key=keys[2])
        self.norm2 = vn.nn.BatchNorm(2 * width, axis_name="batch", momentum=0.9)
        self.linear1 = vn.nn.SpectralNorm(linear1, "weight", key=keys[4])
        self.norm3 = vn.nn.BatchNorm(2 * width, axis_name="batch", momentum=0.9)
        self.linear2 = vn.nn.Linear(2 * width, 10, key=keys[5])
        self.pool = vn.nn.MaxPool2d(kernel_size=2, stride=2)

    def __call__(
        self, image: Float[Array, "1 8 8"], state: vn.nn.State
    ) -> tuple[Float[Array, "10"], vn.nn.State]:
        x, state = self.norm1(self.conv1(image), state)
        x = self.pool(jax.nn.relu(x))
        x, state = self.conv2(x, state)
        x, state = self.norm2(x, state)
        x = self.pool(jax.nn.relu(x))
        x, state = self.linear1(jnp.ravel(x), state)
        x, state = self.norm3(x, state)
        return self.linear2(jax.nn.relu(x)), state


class Training(NamedTuple):
    """All that a training step changes."""

    model: Network
    state: vn.nn.State
    opt_state: optax.OptState


def measure(logits: Float[Array, "n 10"], labels: ArrayLike) -> tuple[Scalar, Scalar]:
    """The mean cross entropy, and the part of the digits that is read correctly."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.mean(losses), jnp.mean(jnp.argmax(logits, axis=1) == labels)


def compute_loss(
    model: Network,
    state: vn.nn.State,
    images: Float[Array, "n 1 8 8"],
    labels: Int[Array, " n"],
) -> tuple[Scalar, tuple[vn.nn.State, Scalar]]:
    """The loss in training mode; and beside it the new state, and the accuracy."""
    # The images are batched; the state is not: all of them have a part in one new one.
    batched = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    logits, state = batched(images, state)
    loss, accuracy = measure(logits, labels)
    return loss, (state, accuracy)


@vn.filter_jit(donate="all")
def train_step(
    training: Training,
    optimizer: optax.GradientTransformation,
    images: Float[Array, "n 1 8 8"],
    labels: Int[Array, " n"],
) -> tuple[Training, tuple[Scalar, Scalar]]:
    """One step. What comes out takes over the memory of what came in."""
    model, state, opt_state = training
    value_and_grad = vn.filter_value_and_grad(compute_loss, has_aux=True)
    (loss, (state, accuracy)), grads = value_and_grad(model, state, images, labels)
    updates, opt_state = optimizer.update(grads, opt_state, model)
    model = vn.apply_updates(model, updates)
    return Training(model, state, opt_state), (loss, accuracy)


@vn.filter_jit
def predict(
    model: Network, state: vn.nn.State, images: Float[Array, "n 1 8 8"]
) -> Float[Array, "n 10"]:
    """The logits in inference mode, which leaves the state as it is."""
    inference_model = vn.Partial(vn.nn.inference_mode(model), state=state)
    logits, _ = jax.vmap(inference_model)(images)
    return logits


class Run(NamedTuple):
    """All there is to know about a training that may be under way."""

    epoch: int  # the next one, counted from 0
    training: Training
    history: History


def make_optimizer(recipe: Recipe) -> optax.GradientTransformation:
    steps = recipe.epochs * recipe.steps
    schedule = optax.cosine_onecycle_schedule(steps, peak_value=5e-3)
    return optax.adamw(schedule, weight_decay=1e-2)


def start(recipe: Recipe) -> Run:
    """A run before its first step."""
    key = jax.random.key(recipe.seed)
    model, state = vn.nn.make_with_state(Network)(recipe.width, key)
    opt_state = make_optimizer(recipe).init(model)
    history = History.start(recipe.epochs, recipe.steps, state)
    return Run(0, Training(model, state, opt_state), history)


def save(path: Path, recipe: Recipe, run: Run) -> None:
    """Writes a checkpoint; an interruption leaves the old one or the new one."""
    vn.tree_serialise_leaves(path, (recipe, run))


def load(path: Path, recipe: Recipe) -> Run:
    """Reads a checkpoint, which must have been made by the same recipe."""
    try:
        with path.open("rb") as file:
            found = vn.tree_deserialise_leaves(file, recipe)
        if found == recipe:
            return vn.tree_deserialise_leaves(path, (recipe, start(recipe)))[1]
    except vn.errors.ModelFileError as error:
        sys.exit(
            f"{path} is damaged, or no checkpoint of this program. "
            f"Delete it, or start anew with --fresh.\n{error}"
        )
    options = [f"--{k.replace('_', '-')} {v}" for k, v in found._asdict().items()]
    sys.exit(
        f"{path} was made with other options: {' '.join(options)}\n"
        "Go on with those, or choose another folder with --out, or start anew with "
        "--fresh."
    )


def train_epoch(
    run: Run,
    recipe: Recipe,
    optimizer: optax.GradientTransformation,
    data: Digits,
    progress: Progress,
) -> Run:
    """Shows the network each training image once, and measures it on the others."""
    epoch, training, history = run
    metrics: list[tuple[Scalar, Scalar]] = []
    batches = digits_data.batches(data, recipe.batch_size, recipe.seed, epoch)
    for step, (images, labels) in enumerate(batches):
        # This returns at once: the next batch is prepared while the device computes.
        training, metric = train_step(training, optimizer, images, labels)
        metrics.append(metric)
        # To read a number is to wait for it, so this shows one from a few steps ago.
        if step >= LAG:
            progress.step(epoch, step - LAG, *metrics[step - LAG])
    model, state, _ = training
    test_metrics = measure(predict(model, state, data.test_images), data.test_labels)
    history.record(epoch, metrics, test_metrics, state)
    progress.epoch(epoch, history)
    return Run(epoch + 1, training, history)


def train(recipe: Recipe, data: Digits, checkpoint: Path, fresh: bool) -> Run:
    """Trains from the start or from the checkpoint on, and writes one each epoch."""
    if fresh or not checkpoint.exists():
        run = start(recipe)
        save(checkpoint, recipe, run)
    else:
        run = load(checkpoint, recipe)
        say(f"Found {checkpoint}: {run.epoch} of {recipe.epochs} epochs are done.")
    if run.epoch == recipe.epochs:
        say("This run is finished; to train anew, add --fresh.")
        return run
    optimizer = make_optimizer(recipe)
    with Progress(recipe.epochs, recipe.steps, recipe.batch_size) as progress:
        while run.epoch < recipe.epochs:
            run = train_epoch(run, recipe, optimizer, data, progress)
            save(checkpoint, recipe, run)
    return run


def show(run: Run, data: Digits, out: Path) -> None:
    """Prints what came out, and writes the model and the figure."""
    model, state, _ = run.training
    digits_report.print_state(run.history.state)
    vn.tree_serialise_leaves(out / "model.eqx", (model, state))
    logits = predict(model, state, data.test_images)
    digits_figure.draw(out / "digits.png", run.history, model, data, logits)
    _, accuracy = measure(logits, data.test_labels)
    say(
        f"{accuracy:.2%} of {len(data.test_labels)} held-out digits are read correctly."
    )
    say(f"See {out / 'digits.png'}; the model is in {out / 'model.eqx'}.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    recipe, out, fresh = parse(arguments)
    try:
        out.mkdir(parents=True, exist_ok=True)
        data = digits_data.load()
        run = train(recipe, data, out / "checkpoint.eqx", fresh)
        show(run, data, out)
    except KeyboardInterrupt:
        say("Stopped. The same command (without --fresh) goes on from here.")
        return INTERRUPTED
    except OSError as error:
        sys.exit(f"{error.filename}: {error.strerror}")
    return 0


if __name__ == "__main__":
    status = main()
    if status == INTERRUPTED:
        # JAX may crash when Python tidies up after an interrupted compilation.
        os._exit(status)
    sys.exit(status)
