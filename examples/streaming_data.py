"""Tapes of handwritten digits, a column of pixels at a time."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.datasets import load_digits

GAP = 10  # the label of columns between digits
KINDS = 11

Images = Float[np.ndarray, "n 8 8"]
Piece = tuple[
    Float[np.ndarray, "tapes length 8"],
    Int[np.ndarray, "tapes length"],
    Bool[np.ndarray, " tapes"],
]


class Digits(NamedTuple):
    """Images and what they show."""

    images: Images
    labels: Int[np.ndarray, " n"]


class Tape(NamedTuple):
    """A long series of columns."""

    columns: Float[np.ndarray, "columns 8"]
    labels: Int[np.ndarray, " columns"]
    places: Int[np.ndarray, " columns"]  # which column of its digit it is; -1 in gaps


def split(rng: np.random.Generator) -> tuple[Digits, Digits]:
    """Four fifths of the digits to learn, one to test."""
    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)
    order = rng.permutation(len(images))
    parts = np.split(order, [4 * len(images) // 5])
    train, test = (Digits(images[part], digits.target[part]) for part in parts)
    return train, test


def tape(digits: Digits, count: int, rng: np.random.Generator) -> Tape:
    """So many digits, drawn at random, each after a gap of one to four columns."""
    columns, labels, places = [], [], []
    for i in rng.integers(len(digits.images), size=count):
        gap = int(rng.integers(1, 5))
        columns += [np.zeros((gap, 8), np.float32), digits.images[i].T]
        labels += [GAP] * gap + [digits.labels[i]] * 8
        places += [*[-1] * gap, *range(8)]
    label_array = np.array(labels, np.int32)
    return Tape(np.concatenate(columns), label_array, np.array(places))


def pieces(
    digits: Digits, tapes: int, length: int, rng: np.random.Generator
) -> Iterator[Piece]:
    """For each step the next piece of each tape, its labels, and if a tape is new."""
    while True:
        # They have at least 900 columns; what is more is left out.
        found = [tape(digits, 100, rng) for _ in range(tapes)]
        for start in range(0, 900 - length + 1, length):
            part = slice(start, start + length)
            yield (
                np.stack([x.columns[part] for x in found]),
                np.stack([x.labels[part] for x in found]),
                np.full(tapes, start == 0),
            )
