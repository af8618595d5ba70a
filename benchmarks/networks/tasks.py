"""What is the same in all libraries: the networks' plans, their data, their optimizers.

A ResNet-18 for images of 32 × 32: a stem of 3 × 3, four stages of two basic blocks with
batch normalization, global average pooling and a linear layer. And a language model:
embeddings of tokens and positions, blocks of causal attention and of an MLP, each
behind a layer normalization, a last norm, and a linear head.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from program import Program, fill

CLASSES = 10
WIDTH = 16  # channels of the ResNet's first stage
EPS = 1e-5  # of all norms
MOMENTUM = 0.99  # weight of the past in running averages

SGD = {"learning_rate": 0.1, "momentum": 0.9}
ADAMW = {"learning_rate": 1e-3, "weight_decay": 1e-4}


class Sizes(NamedTuple):
    """The sizes of a transformer."""

    depth: int = 6
    width: int = 128
    heads: int = 4
    length: int = 64
    vocabulary: int = 256


SIZES = Sizes()


class Case(NamedTuple):
    """A network in training, in the words of one library."""

    make: Callable[[Any], Program]
    """From the width of a ResNet, or the :class:`Sizes` of a transformer."""

    place: Callable[[Any], Any]
    """The batch as this library takes it; never part of what is timed."""


def blocks(width: int) -> Iterator[tuple[int, int, int]]:
    """Input channels, output channels and stride of the ResNet's eight blocks."""
    inputs = width
    for stage, outputs in enumerate((width, 2 * width, 4 * width, 8 * width)):
        yield inputs, outputs, 1 if stage == 0 else 2
        yield outputs, outputs, 1
        inputs = outputs


def images(examples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images ``(examples, 3, 32, 32)`` and their labels."""
    rng = np.random.default_rng(seed)
    xs = rng.normal(size=(examples, 3, 32, 32)).astype(np.float32)
    return xs, rng.integers(CLASSES, size=examples).astype(np.int32)


def texts(examples: int, sizes: Sizes, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Tokens ``(examples, length)``, and for each the one that follows it."""
    shape = (examples, sizes.length + 1)
    tokens = np.random.default_rng(seed).integers(sizes.vocabulary, size=shape)
    tokens = tokens.astype(np.int32)
    return tokens[:, :-1], tokens[:, 1:]


def batch(kind: str, size: Any, examples: int, seed: int = 0) -> Any:
    """What a step trains on, before a library arranges it.

    Arguments:
        kind: ``"RESNETS"`` or ``"TRANSFORMERS"``.
        size: the width of a ResNet, or the sizes of a transformer.
        examples: how many.
        seed: other batches have others.
    """
    if kind == "RESNETS":
        return images(examples, seed)
    return texts(examples, size, seed)


def channels_last(batch: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, Any]:
    """Images ``(examples, height, width, channels)``, with their labels."""
    xs, labels = batch
    return np.ascontiguousarray(xs.transpose(0, 2, 3, 1)), labels


def fill_last(shape: tuple[int, ...]) -> np.ndarray:
    """The same weights for a kernel ``(*spatial, in, out)``."""
    *spatial, n, m = shape
    return np.moveaxis(fill((m, n, *spatial)), (0, 1), (-1, -2))


def fill_flax(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The same weights for one of Flax's kernels, by the name that it goes by.

    Its projections to heads are ``(in, heads, size)``, and back ``(heads, size, out)``.
    """
    if "embedding" in name:
        return fill(shape)
    if len(shape) == 3:
        n = shape[0] * shape[1] if ".out." in name else shape[0]
        return fill_last((n, int(np.prod(shape)) // n)).reshape(shape)
    return fill_last(shape)
