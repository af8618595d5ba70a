"""The language reference of Python as a text, and what others make of it."""

import gzip
from collections import Counter
from collections.abc import Iterator
from pydoc_data.topics import topics

import numpy as np
from jaxtyping import Int

Tokens = Int[np.ndarray, " n"]
Windows = Int[np.ndarray, "windows length"]


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


def encode(train: str, test: str) -> tuple[list[str], Tokens, Tokens]:
    """All characters there are; and the texts as numbers that stand for them."""
    alphabet = sorted(set(train + test))
    numbers = {character: i for i, character in enumerate(alphabet)}
    tokens = (np.array([numbers[x] for x in text], np.int32) for text in (train, test))
    return alphabet, *tokens


def batches(
    tokens: Tokens, steps: int, batch_size: int, context: int, seed: int
) -> Iterator[Windows]:
    """For each step windows from anywhere, one longer than the model's context."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        yield _windows(
            tokens, rng.integers(len(tokens) - context, size=batch_size), context
        )


def overlapping(tokens: Tokens, context: int) -> Windows:
    """Windows of which each begins in the middle of the one before.

    So there is for all characters but the first a window that has read enough before.
    """
    starts = np.arange(0, len(tokens) - context, context // 2)
    return _windows(tokens, starts, context)


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


def _windows(
    tokens: Tokens, starts: Int[np.ndarray, " windows"], context: int
) -> Windows:
    return tokens[starts[:, None] + np.arange(context + 1)]
