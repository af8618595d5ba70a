"""Handwritten digits, and light augmentation of them in NumPy."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

Images = Float[np.ndarray, "n 1 8 8"]
Labels = Int[np.ndarray, " n"]

TRAIN_SIZE, TEST_SIZE = 1347, 450


class Digits(NamedTuple):
    """The training and the test part of the data; intensities are from 0 to 1."""

    train_images: Images
    test_images: Images
    train_labels: Labels
    test_labels: Labels


def load() -> Digits:
    """The 1,797 digits that scikit-learn ships; a fixed quarter is held out."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    labels = labels.astype(np.int32)
    return Digits(
        *train_test_split(
            images,
            labels,
            train_size=TRAIN_SIZE,
            test_size=TEST_SIZE,
            stratify=labels,
            random_state=0,
        )
    )


def batches(
    data: Digits, batch_size: int, seed: int, epoch: int
) -> Iterator[tuple[Images, Labels]]:
    """Yields the augmented batches of one epoch; a short last one is left out.

    All that is random comes from (seed, epoch), so any epoch can be done again.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(data.train_labels))
    for start in range(0, len(order) - batch_size + 1, batch_size):
        chosen = order[start : start + batch_size]
        yield augment(data.train_images[chosen], rng), data.train_labels[chosen]


def augment(images: Images, rng: np.random.Generator) -> Images:
    """Rotates by up to 15°, scales by up to 10 % and shifts by up to one pixel."""
    count, _, height, width = images.shape
    angle = np.radians(rng.uniform(-15, 15, (count, 1, 1)))
    scale = rng.uniform(0.9, 1.1, (count, 1, 1))
    shift_y, shift_x = rng.uniform(-1, 1, (2, count, 1, 1))
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)

    # Where in the original each pixel comes from, measured from the center.
    center_y, center_x = (height - 1) / 2, (width - 1) / 2
    grid_y, grid_x = np.mgrid[:height, :width]
    grid_y, grid_x = grid_y - center_y, grid_x - center_x
    y = cos * grid_y - sin * grid_x + shift_y + center_y
    x = sin * grid_y + cos * grid_x + shift_x + center_x

    # A border of zeros stands for all that is outside.
    padded = np.pad(images[:, 0], ((0, 0), (1, 2), (1, 2)))
    y, x = np.clip(y + 1, 0, height + 1), np.clip(x + 1, 0, width + 1)
    return _interpolate(padded, y, x)[:, None].astype(np.float32)


def _interpolate(images: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The images at fractional positions, linear between the four next pixels."""
    each = np.arange(len(images))[:, None, None]
    top, left = y.astype(int), x.astype(int)
    down, right = y - top, x - left
    upper = images[each, top, left] * (1 - right) + images[each, top, left + 1] * right
    top = top + 1
    lower = images[each, top, left] * (1 - right) + images[each, top, left + 1] * right
    return upper * (1 - down) + lower * down
