"""Learns to write like the manual of Python: a causal transformer, in characters.

    python examples/transformer.py --help

The text is the language reference that Python ships for `help()`. After learning nine
tenths of it, the model takes 2.20 bits for each character of the rest; gzip, which
knows the same text, takes 2.57, and the frequencies of characters alone, 4.69.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tools
import transformer_data
import transformer_figure
from jaxtyping import Array, Float, Int, PRNGKeyArray

import vernal as vn

CONTEXT = 128  # how many characters the model sees at once
HEADS = 4
TEMPERATURE = 0.6  # below 1, what the model writes is more usual than what it read

Tokens = Int[Array, " length"]
Texts = Int[Array, "n length"]
Vectors = Float[Array, "length size"]


class Block(vn.Module):
    """Attention to all earlier characters, then a network for each character."""

    norm: vn.nn.RMSNorm
    attention: vn.nn.MultiheadAttention
    rotary: vn.nn.RotaryPositionalEmbedding
    mlp: vn.nn.Sequential

    def __init__(self, size: int, key: PRNGKeyArray) -> None:
        key1, key2 = jax.random.split(key)
        self.norm = vn.nn.RMSNorm(size)
        self.attention = vn.nn.MultiheadAttention(HEADS, size, key=key1)
        self.rotary = vn.nn.RotaryPositionalEmbedding(size // HEADS)
        mlp = vn.nn.MLP(size, size, 4 * size, 1, jax.nn.gelu, key=key2)
        self.mlp = vn.nn.Sequential([vn.nn.RMSNorm(size), mlp])

    def __call__(self, x: Vectors) -> Vectors:
        causal = jnp.tril(jnp.ones((len(x), len(x)), bool))
        turn = jax.vmap(self.rotary, in_axes=1, out_axes=1)
        y = jax.vmap(self.norm)(x)
        x = x + self.attention(
            y, y, y, causal, process_heads=lambda q, k, v: (turn(q), turn(k), v)
        )
        return x + jax.vmap(self.mlp)(x)


class Transformer(vn.Module):
    """Predicts each next character. Input and output have one table of characters."""

    embedding: vn.nn.Embedding
    blocks: vn.nn.Stack[Block]
    norm: vn.nn.RMSNorm

    def __init__(self, kinds: int, size: int, depth: int, key: PRNGKeyArray) -> None:
        key1, key2 = jax.random.split(key)
        weight = 0.02 * jax.random.normal(key1, (kinds, size))
        self.embedding = vn.nn.Embedding(weight=weight)
        self.blocks = vn.nn.Stack(lambda key: Block(size, key), depth, key=key2)
        self.norm = vn.nn.RMSNorm(size)

    def __call__(self, tokens: Tokens) -> Float[Array, "length kinds"]:
        x = self.blocks(jax.vmap(self.embedding)(tokens))
        return jax.vmap(self.norm)(x) @ self.embedding.weight.T


def surprises(model: Transformer, texts: Texts) -> Float[Array, "n length-1"]:
    """How many bits tell each character but the first, for who knows the model."""
    logits = vn.nn.batched(model)(texts[:, :-1])
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, texts[:, 1:])
    return nats / jnp.log(2)


def compute_loss(model: Transformer, texts: Texts) -> Float[Array, ""]:
    return jnp.mean(surprises(model, texts))


@vn.filter_jit(donate="all")
def train_step(
    model: Transformer,
    opt_state: optax.OptState,
    optimizer: optax.GradientTransformation,
    texts: Texts,
) -> tuple[Transformer, optax.OptState, Float[Array, ""]]:
    loss, grads = vn.filter_value_and_grad(compute_loss)(model, texts)
    updates, opt_state = optimizer.update(grads, opt_state, model)
    return vn.apply_updates(model, updates), opt_state, loss


@vn.filter_jit
def write(model: Transformer, prompt: Tokens, key: PRNGKeyArray, length: int) -> Tokens:
    """Goes on from a prompt, each time with a character that the model finds likely."""

    def add(window, key):
        new = jax.random.categorical(key, model(window)[-1] / TEMPERATURE)
        return jnp.append(window[1:], new), new

    return jax.lax.scan(add, prompt, jax.random.split(key, length))[1]


def main(arguments: Sequence[str] | None = None) -> None:
    options = tools.parse(
        arguments,
        __doc__,
        "transformer",
        steps=(600, "training steps"),
        batch_size=(16, "texts in a step"),
        size=(64, "numbers that stand for a character"),
        depth=(2, "blocks of the model"),
    )
    train, test = transformer_data.load()
    alphabet, train_tokens, test_tokens = transformer_data.encode(train, test)
    keys = jax.random.split(jax.random.key(options.seed))
    model = Transformer(len(alphabet), options.size, options.depth, keys[0])
    schedule = optax.cosine_onecycle_schedule(options.steps, 1e-2)
    adam = optax.adamw(schedule, b2=0.98, weight_decay=0.05)
    optimizer = optax.chain(optax.clip_by_global_norm(1), adam)
    opt_state = optimizer.init(model)
    shape = options.steps, options.batch_size, CONTEXT
    with tools.Progress(options.steps, options.batch_size, "texts") as progress:
        for texts in transformer_data.batches(train_tokens, *shape, options.seed):
            model, opt_state, loss = train_step(model, opt_state, optimizer, texts)
            progress.step(loss)

    texts = transformer_data.overlapping(test_tokens, CONTEXT)
    bits = np.asarray(vn.filter_jit(surprises)(model, texts))
    written = write(model, test_tokens[:CONTEXT], keys[1], 1000)
    written = "".join(alphabet[i] for i in written)
    tools.say(f"What it writes:\n\n{written}\n")
    others = transformer_data.baselines(train, test)
    transformer_figure.draw(options.out, progress.losses(), bits, others, test, written)
    by_frequency, by_gzip = others.values()
    tools.say(
        f"Held-out text takes {bits[:, CONTEXT // 2 :].mean():.2f} bits per character; "
        f"{by_gzip:.2f} with gzip, {by_frequency:.2f} by the frequencies of characters."
    )


if __name__ == "__main__":
    tools.start(main)
