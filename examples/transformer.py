"""Learns to write like the manual of Python: a causal transformer, in characters.

    python examples/transformer.py --help

The text is the language reference that Python ships for `help()`. After learning nine
tenths of it, the model takes 2.0 bits for each character of the rest; gzip, which knows
the same text, takes 2.5, and the frequencies of characters alone, 4.6. This takes one
to two minutes on two cores.
"""

import gzip
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tools
from jaxtyping import Array, Float, Int, PRNGKeyArray
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import vernal as vn

CONTEXT = 128  # how many characters the model sees at once
HEADS = 4
TEMPERATURE = 0.6  # below 1, what the model writes is more usual than what it read
LINES, COLUMNS = 20, 72  # of a text that is drawn

Tokens = Int[Array, " length"]
Vectors = Float[Array, "length size"]
Scalar = Float[Array, ""]


class Block(vn.Module):
    """Attention to all earlier characters, then a network for each character."""

    norm1: vn.nn.RMSNorm
    attention: vn.nn.MultiheadAttention
    rotary: vn.nn.RotaryPositionalEmbedding
    norm2: vn.nn.RMSNorm
    mlp: vn.nn.MLP

    def __init__(self, size: int, key: PRNGKeyArray) -> None:
        key1, key2 = jax.random.split(key)
        self.norm1 = vn.nn.RMSNorm(size)
        self.attention = vn.nn.MultiheadAttention(HEADS, size, key=key1)
        self.rotary = vn.nn.RotaryPositionalEmbedding(size // HEADS)
        self.norm2 = vn.nn.RMSNorm(size)
        self.mlp = vn.nn.MLP(size, size, 4 * size, 1, jax.nn.gelu, key=key2)

    def __call__(self, x: Vectors) -> Vectors:
        causal = jnp.tril(jnp.ones((len(x), len(x)), bool))
        turn = jax.vmap(self.rotary, in_axes=1, out_axes=1)
        y = jax.vmap(self.norm1)(x)
        x = x + self.attention(
            y, y, y, causal, process_heads=lambda q, k, v: (turn(q), turn(k), v)
        )
        return x + jax.vmap(lambda z: self.mlp(self.norm2(z)))(x)


class Transformer(vn.Module):
    """Predicts each next character. Input and output have one table of characters."""

    tables: vn.nn.Shared[tuple[vn.nn.Embedding, vn.nn.Linear]]
    blocks: list[Block]
    norm: vn.nn.RMSNorm

    def __init__(
        self, characters: int, size: int, depth: int, key: PRNGKeyArray
    ) -> None:
        key1, key2, *keys = jax.random.split(key, 2 + depth)
        weight = 0.02 * jax.random.normal(key1, (characters, size))
        embedding = vn.nn.Embedding(weight=weight)
        output = vn.nn.Linear(size, characters, use_bias=False, key=key2)
        self.tables = vn.nn.Shared(
            (embedding, output),
            lambda pair: pair[1].weight,
            lambda pair: pair[0].weight,
        )
        self.blocks = [Block(size, key) for key in keys]
        self.norm = vn.nn.RMSNorm(size)

    def __call__(self, tokens: Tokens) -> Float[Array, "length characters"]:
        embedding, output = self.tables()
        x = jax.vmap(embedding)(tokens)
        for block in self.blocks:
            x = block(x)
        return jax.vmap(lambda z: output(self.norm(z)))(x)


def surprises(model: Transformer, text: Tokens) -> Float[Array, " length-1"]:
    """How many bits tell each character but the first, for who knows the model."""
    logits = model(text[:-1])
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, text[1:])
    return nats / math.log(2)


def compute_loss(model: Transformer, texts: Int[Array, "n length"]) -> Scalar:
    return jnp.mean(jax.vmap(surprises, in_axes=(None, 0))(model, texts))


class Training(NamedTuple):
    """All that a training step changes."""

    model: Transformer
    opt_state: optax.OptState


@vn.filter_jit(donate="all")
def train_step(
    training: Training,
    optimizer: optax.GradientTransformation,
    texts: Int[Array, "n length"],
) -> tuple[Training, Scalar]:
    model, opt_state = training
    loss, grads = vn.filter_value_and_grad(compute_loss)(model, texts)
    updates, opt_state = optimizer.update(grads, opt_state, model)
    return Training(vn.apply_updates(model, updates), opt_state), loss


@vn.filter_jit
def measure(
    model: Transformer, texts: Int[Array, "n length"]
) -> Float[Array, "n length-1"]:
    return jax.lax.map(lambda text: surprises(model, text), texts, batch_size=16)


@vn.filter_jit
def write(model: Transformer, prompt: Tokens, key: PRNGKeyArray, length: int) -> Tokens:
    """Goes on from a prompt, each time with a character that the model finds likely."""

    def add(window, key):
        new = jax.random.categorical(key, model(window)[-1] / TEMPERATURE)
        new = new.astype(window.dtype)
        return jnp.append(window[1:], new), new

    _, text = jax.lax.scan(add, prompt, jax.random.split(key, length))
    return text


def load() -> tuple[str, str]:
    """What `help()` shows about the language: nine tenths to learn, one to test."""
    text = "\n\n".join(text for _, text in sorted(topics.items()))
    paragraphs = [x.strip("\n") for x in text.split("\n\n")]
    # Many stand in several topics; and tables are no text.
    unique = [x for x in dict.fromkeys(paragraphs) if "|  " not in x and "--" not in x]
    parts: tuple[list[str], list[str]] = [], []
    for i, paragraph in enumerate(unique):
        parts[i // 20 % 10 == 9].append(paragraph)
    train, test = map("\n\n".join, parts)
    return train, test


def baselines(train: str, test: str) -> dict[str, float]:
    """Bits for each character of the test, for who knows the training text."""

    def size(text: str) -> int:
        return 8 * len(gzip.compress(text.encode(), mtime=0))

    counts = Counter(train)
    frequencies = [counts[x] / len(train) for x in test if x in counts]
    return {
        "frequencies of characters": -float(np.mean(np.log2(frequencies))),
        "gzip": (size(train + test) - size(train)) / len(test),
    }


def draw_text(ax: Axes, title: str, text: str, bits: np.ndarray) -> None:
    """Draws each character on a ground that is the redder, the more bits it takes."""
    ax.set_title(title, fontsize=12, loc="left")
    x, y = 0, 0
    for character, value in zip(text, bits, strict=True):
        shown = "\N{RETURN SYMBOL}" if character == "\n" else character
        color = colormaps["YlOrRd"](min(value / 10, 1)) if value else "white"
        ax.add_patch(Rectangle((x, y), 1, 1, facecolor=color, edgecolor="none"))
        where = {"ha": "center", "va": "center", "clip_on": True}
        ax.text(x + 0.5, y + 0.5, shown, fontsize=9.5, family="monospace", **where)
        x, y = (0, y + 1) if character == "\n" or x == COLUMNS else (x + 1, y)
        if y == LINES:
            break
    ax.set(xlim=(-1, COLUMNS + 2), ylim=(LINES, -0.2))
    ax.set_axis_off()


def draw(
    path: Path,
    losses: np.ndarray,
    bits: np.ndarray,
    reference: dict[str, float],
    texts: Sequence[tuple[str, str, np.ndarray]],
) -> None:
    figure = Figure(figsize=(15, 11), layout="constrained")
    (left, right), panels = figure.subplots(2, 2, height_ratios=[1, 1.5])
    left.plot(losses, linewidth=0.7, label="training text")
    result = bits[:, CONTEXT // 2 :].mean()
    left.plot(len(losses), result, "o", color="tab:red", label="held-out text")
    for (name, value), dash in zip(reference.items(), (":", "--"), strict=True):
        left.axhline(value, color="black", linestyle=dash, label=name)
    left.set_ylim(0, None)
    left.legend()
    tools.style(left, "Training", "step", "bits per character")
    right.plot(np.arange(1, CONTEXT + 1), bits.mean(axis=0))
    title = "Held-out text: how much it has to read before it knows what comes"
    tools.style(right, title, "characters read before", "bits per character")
    right.set_xscale("log", base=2)
    right.xaxis.set_major_formatter("{x:.0f}")
    right.set_ylim(0, None)
    for ax, (title, text, values) in zip(panels, texts, strict=True):
        draw_text(ax, title, text, values)
    tools.save(figure, path)


def main(arguments: Sequence[str] | None = None) -> None:
    options = tools.parse(
        arguments,
        __doc__,
        "transformer",
        steps=(800, "training steps"),
        batch_size=(16, "texts in a step"),
        size=(64, "numbers that stand for a character"),
        depth=(2, "blocks of the model"),
    )
    train, test = load()
    alphabet = sorted(set(train + test))
    tokens = np.array([alphabet.index(x) for x in train], np.int32)
    test_tokens = np.array([alphabet.index(x) for x in test], np.int32)

    model_key, write_key = jax.random.split(jax.random.key(options.seed))
    rng = np.random.default_rng(options.seed)
    model = Transformer(len(alphabet), options.size, options.depth, model_key)
    schedule = optax.cosine_onecycle_schedule(options.steps, 1e-2)
    adam = optax.adamw(schedule, b2=0.98, weight_decay=0.05)
    optimizer = optax.chain(optax.clip_by_global_norm(1), adam)
    training = Training(model, optimizer.init(model))
    per_step = options.batch_size * CONTEXT
    with tools.Progress(options.steps, per_step, "characters") as progress:
        for _ in range(options.steps):
            starts = rng.integers(len(tokens) - CONTEXT, size=(options.batch_size, 1))
            texts = tokens[starts + np.arange(CONTEXT + 1)]
            training, loss = train_step(training, optimizer, texts)
            progress.step(loss)

    # Windows of which each begins in the middle of the one before, so that there is
    # for all characters (but the first) a window that has read enough before them.
    half = CONTEXT // 2
    starts = np.arange(0, len(test) - CONTEXT, half)[:, None]
    bits = measure(training.model, test_tokens[starts + np.arange(CONTEXT + 1)])
    bits = np.asarray(bits)
    reference = baselines(train, test)
    known = bits[:, half:].ravel()  # of the characters from half + 1 on
    prompt = test_tokens[:CONTEXT]
    written = write(training.model, prompt, write_key, 1000)
    written = "".join(alphabet[i] for i in written)
    tools.say(f"What it writes:\n\n{written}\n")
    first = test.index("\n\n", half) + 2  # where a paragraph begins
    title = "Held-out text; red is a surprise"
    texts = [
        (title, test[first : first + 1500], known[first - half - 1 :][:1500]),
        ("What it writes", written, np.zeros(len(written))),
    ]
    draw(options.out / "transformer.png", progress.losses(), bits, reference, texts)
    by_frequency, by_gzip = reference.values()
    tools.say(
        f"Held-out text takes {known.mean():.2f} bits per character; {by_gzip:.2f} "
        "with gzip, which knows the same text, and "
        f"{by_frequency:.2f} by the frequencies of characters."
    )


if __name__ == "__main__":
    tools.start(main)
