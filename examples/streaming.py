"""Reads digits that pass by on a tape, and says at every moment which one it sees.

    python examples/streaming.py --help

The long series is made of scikit-learn's handwritten digits: one after the other with
gaps between them, a column of pixels at a time. A causal convolution and a GRU keep
their state from call to call. So training goes on along the tapes, a piece at a time;
and the tape with new digits is read in pieces of any length, as a stream is.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
import streaming_data
import streaming_figure
import tools
from jaxtyping import Array, Float, Int, PRNGKeyArray

import vernal as vn

PIECE = 32  # columns that a training step reads of each tape
DIGITS = 300  # on the tape to test with

Columns = Float[Array, "columns 8"]
Labels = Int[Array, "tapes columns"]
State = vn.nn.State | None  # None for a whole tape


class Reader(vn.Module):
    """Says for each column which digit it belongs to, by it and those before it."""

    conv: vn.nn.CausalConv1d
    rnn: vn.nn.RNN[vn.nn.GRUCell]
    head: vn.nn.Linear

    def __init__(self, size: int, key: PRNGKeyArray) -> None:
        key1, key2, key3 = jax.random.split(key, 3)
        self.conv = vn.nn.CausalConv1d(8, size, kernel_size=3, key=key1)
        self.rnn = vn.nn.RNN(vn.nn.GRUCell(size, size, key=key2))
        self.head = vn.nn.Linear(size, streaming_data.KINDS, key=key3)

    def __call__(
        self, x: Columns, state: State
    ) -> tuple[Float[Array, "columns kinds"], State]:
        y, state = self.conv(x.T, state)
        y, state = self.rnn(jax.nn.relu(y).T, state)
        return jax.vmap(self.head)(y), state


@vn.filter_jit(donate="all")
def train_step(
    model: Reader,
    state: vn.nn.State,
    opt_state: optax.OptState,
    optimizer: optax.GradientTransformation,
    tapes: Float[Array, "tapes columns 8"],
    labels: Labels,
) -> tuple[Reader, vn.nn.State, optax.OptState, Float[Array, ""]]:
    """Learns from the next piece of each tape; what came before is in the state."""

    def compute_loss(model: Reader, state: vn.nn.State):
        logits, state = vn.nn.batched(model)(tapes, state)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(losses), state

    value_and_grad = vn.filter_value_and_grad(compute_loss, has_aux=True)
    (loss, state), grads = value_and_grad(model, state)
    updates, opt_state = optimizer.update(grads, opt_state, model)
    return vn.apply_updates(model, updates), state, opt_state, loss


@vn.filter_jit
def read(
    model: Reader, state: State, columns: Columns
) -> tuple[Float[Array, "columns kinds"], State]:
    """The probabilities of what each column belongs to, and the new state."""
    logits, state = model(columns, state)
    return jax.nn.softmax(logits), state


def read_in_pieces(
    model: Reader, state: vn.nn.State, columns: Columns, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "columns kinds"], int]:
    """As the columns of a stream come: some at a time. And how many times."""
    found, start = [], 0
    while start < len(columns):
        stop = start + rng.choice([1, 2, 5, 13])
        some, state = read(model, state, columns[start:stop])
        found.append(np.asarray(some))
        start = stop
    return np.concatenate(found), len(found)


def main(arguments: Sequence[str] | None = None) -> None:
    options = tools.parse(
        arguments,
        __doc__,
        "streaming",
        steps=(1500, "training steps"),
        batch_size=(32, "tapes that are read at once"),
        size=(64, "numbers that the GRU keeps in mind"),
    )
    rng = np.random.default_rng(options.seed)
    train, test = streaming_data.split(rng)
    key = jax.random.key(options.seed)
    model, fresh = vn.nn.make_with_state(Reader)(options.size, key)
    schedule = optax.cosine_onecycle_schedule(options.steps, 5e-3)
    optimizer = optax.chain(optax.clip_by_global_norm(1), optax.adamw(schedule))
    opt_state = optimizer.init(model)
    state = initial = vn.nn.with_rows(fresh, options.batch_size)
    pieces = streaming_data.pieces(train, options.batch_size, PIECE, rng)
    with tools.Progress(options.steps, options.batch_size, "pieces") as progress:
        for _ in range(options.steps):
            columns, labels, is_new = next(pieces)
            state = vn.nn.reset_rows(state, initial, is_new)
            model, state, opt_state, loss = train_step(
                model, state, opt_state, optimizer, columns, labels
            )
            progress.step(loss)

    tape = streaming_data.tape(test, DIGITS, rng)
    whole, _ = read(model, None, tape.columns)
    found, count = read_in_pieces(model, fresh, tape.columns, rng)
    is_right = found.argmax(axis=1) == tape.labels
    by_column = np.array([is_right[tape.places == i].mean() for i in range(8)])
    streaming_figure.draw(options.out, progress.losses(), tape, found, by_column)
    tools.say(
        f"New digits: right in {by_column[0]:.1%} after their first column, in "
        f"{by_column[-1]:.1%} after the last. Read in {count} pieces, the tape gives "
        f"what it gives as a whole, up to {np.abs(found - whole).max():.0e}."
    )


if __name__ == "__main__":
    tools.start(main)
