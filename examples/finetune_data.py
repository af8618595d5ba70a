"""Crooked digits: many of 0 to 4, turned in four ways, and some of 5 to 9."""

from typing import NamedTuple

import digits_data
import numpy as np
from digits_data import Images, Labels
from jaxtyping import Int


class Data(NamedTuple):
    """What the body learns from, what a new head learns from, and what tests it."""

    old_images: Images
    old_labels: Labels  # 0 to 4, 5 to 9 for these lying, and so on up to 19
    new_images: Images
    new_labels: Labels
    test_images: Images
    test_labels: Labels


def load(rng: np.random.Generator) -> Data:
    images, test_images, labels, test_labels = digits_data.load()
    old, old_labels = images[labels < 5], labels[labels < 5]
    # Lying and upside down they are other classes: the more there is to tell apart, the
    # more the body has to see.
    old = np.concatenate([np.rot90(old, turns, (2, 3)) for turns in range(4)])
    old_labels = np.concatenate([old_labels + 5 * turns for turns in range(4)])
    # Each digit stands crooked in its own way. Of the old ones there are many.
    old = np.concatenate([digits_data.augment(old, rng) for _ in range(8)])
    images, test_images = (digits_data.augment(x, rng) for x in (images, test_images))
    new, test = labels >= 5, test_labels >= 5
    return Data(
        old,
        np.tile(old_labels, 8),
        images[new],
        labels[new],
        test_images[test],
        test_labels[test],
    )


def choose(
    labels: Labels, shots: int, draws: int, rng: np.random.Generator
) -> Int[np.ndarray, "draws n"]:
    """Several choices of examples, with so many shots of each digit from 5 to 9."""
    each = [np.flatnonzero(labels == digit) for digit in range(5, 10)]
    chosen = [[rng.choice(x, shots, False) for x in each] for _ in range(draws)]
    return np.reshape(chosen, (draws, -1))
