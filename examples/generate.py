"""Writes like the manual of Python, and keeps what it has read in a cache.

    python examples/generate.py --help

A causal transformer learns the text that Python ships for `help()`, in characters. One
model is called in two ways: with None for a state it reads whole texts, for training;
with a state it reads on from where it is, so that it writes each next character without
reading all those before it again. Both write the same, at very different speeds.
Attention looks back 64 characters, so the cache is that long, and the text has no end.
"""

import time
from collections.abc import Callable, Sequence

import generate_figure
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tools
import transformer_data
from generate_model import Writer
from jaxtyping import Array, Float, Int, PRNGKeyArray

import vernal as vn

CONTEXT = 128  # how many characters a text to learn has
PROMPT = 64  # how many it is given to go on from
ROWS = 3  # how many texts it writes at once
TEMPERATURE = 0.6  # below 1, what the model writes is more usual than what it read

Texts = Int[Array, "rows length"]


@vn.filter_jit(donate="all")
def train_step(
    model: Writer,
    opt_state: optax.OptState,
    optimizer: optax.GradientTransformation,
    texts: Texts,
) -> tuple[Writer, optax.OptState, Float[Array, ""]]:
    def compute_loss(model: Writer) -> Float[Array, ""]:
        logits, _ = vn.nn.batched(model)(texts[:, :-1], None)
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, texts[:, 1:])
        return jnp.mean(nats) / jnp.log(2)

    loss, grads = vn.filter_value_and_grad(compute_loss)(model)
    updates, opt_state = optimizer.update(grads, opt_state, model)
    return vn.apply_updates(model, updates), opt_state, loss


@vn.filter_jit
def write(
    model: Writer, state: vn.nn.State, prompts: Texts, keys: PRNGKeyArray
) -> Texts:
    """Goes on from prompts: it reads them at once, then what it writes, one by one."""
    call = vn.nn.batched(model)
    logits, state = call(prompts, vn.nn.with_rows(state, len(prompts)))

    def add(carry, key):
        logits, state = carry
        new = jax.random.categorical(key, logits / TEMPERATURE)
        logits, state = call(new[:, None], state)
        return (logits[:, -1], state), new

    return jax.lax.scan(add, (logits[:, -1], state), keys)[1].T


@vn.filter_jit
def write_without(model: Writer, prompts: Texts, keys: PRNGKeyArray) -> Texts:
    """The same without a cache: for each character it reads the whole text again."""
    start = prompts.shape[1]

    def add(texts, step):
        i, key = step
        logits, _ = vn.nn.batched(model)(texts, None)  # later ones make no difference
        new = jax.random.categorical(key, logits[:, i - 1] / TEMPERATURE)
        return texts.at[:, i].set(new), new

    texts = jnp.pad(prompts, [(0, 0), (0, len(keys))])
    return jax.lax.scan(add, texts, (start + jnp.arange(len(keys)), keys))[1].T


def speed(run: Callable[..., Texts], *args: object, keys: PRNGKeyArray) -> float:
    """How many characters a text gains in a second: the best of three runs."""
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        jax.block_until_ready(run(*args, keys))
        seconds.append(time.perf_counter() - start)
    return len(keys) / min(seconds[1:])


def main(arguments: Sequence[str] | None = None) -> None:
    options = tools.parse(
        arguments,
        __doc__,
        "generate",
        steps=(500, "training steps"),
        batch_size=(16, "texts in a step"),
        size=(64, "numbers that stand for a character"),
        depth=(2, "blocks of the model"),
        length=(512, "characters to write"),
    )
    train, test = transformer_data.load()
    alphabet, train_tokens, test_tokens = transformer_data.encode(train, test)
    keys = jax.random.split(jax.random.key(options.seed), options.length + 1)
    sizes = len(alphabet), options.size, options.depth
    model, state = vn.nn.make_with_state(Writer)(*sizes, keys[0])
    schedule = optax.cosine_onecycle_schedule(options.steps, 1e-2)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1), optax.adamw(schedule, b2=0.98)
    )
    opt_state = optimizer.init(model)
    shape = options.steps, options.batch_size, CONTEXT
    with tools.Progress(options.steps, options.batch_size, "texts") as progress:
        for texts in transformer_data.batches(train_tokens, *shape, options.seed):
            model, opt_state, loss = train_step(model, opt_state, optimizer, texts)
            progress.step(loss)

    prompts = transformer_data.overlapping(test_tokens, PROMPT)[::20][:ROWS, :PROMPT]
    written = np.asarray(write(model, state, prompts, keys[1:]))
    same = np.array_equal(written, write_without(model, prompts, keys[1:]))
    texts = ["".join(alphabet[i] for i in row) for row in np.hstack([prompts, written])]
    tools.say(f"What it writes after {PROMPT} characters:\n\n{texts[0]}\n")
    lengths = [options.length // n for n in (16, 8, 4, 2, 1)]
    rates = {"with a cache": [], "without a cache": []}
    for n in lengths:
        one = prompts[:1]
        rates["with a cache"].append(
            speed(write, model, state, one, keys=keys[1 : n + 1])
        )
        rates["without a cache"].append(
            speed(write_without, model, one, keys=keys[1 : n + 1])
        )
    generate_figure.draw(options.out, lengths, rates, texts, PROMPT)
    fast, slow = (values[-1] for values in rates.values())
    tools.say(
        f"It writes {fast:,.0f} characters per second with the cache, and {slow:,.0f} "
        f"without, to a length of {PROMPT + options.length}; "
        + ("both the same." if same else "rounding made the texts differ.")
    )


if __name__ == "__main__":
    tools.start(main)
