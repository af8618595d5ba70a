"""What is the same in all libraries: shapes, the plan of the ResNet-50, and data."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np

Layout = Literal["NCHW", "NHWC"]

# Channels and pixels of the inputs of a ResNet-50's batch normalizations, at 224 × 224.
SHAPES = ((64, 112), (256, 56), (512, 28), (1024, 14), (2048, 7))


class Norm(NamedTuple):
    """A batch normalization in training, that is still to be differentiated."""

    apply: Callable[[Any, Any, Any], tuple[Any, Any]]
    """``apply(params, stats, x)`` returns the output and the new running averages."""

    params: Any
    stats: Any


class Size(NamedTuple):
    """The size of a ResNet of bottleneck blocks; by default, of the ResNet-50."""

    dtype: str = "float32"
    """Of activations, and of the kernels as they are used; parameters are float32."""

    depths: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    classes: int = 1000
    pixels: int = 224

    @property
    def features(self) -> int:
        """How many the last layer sees."""
        return 4 * self.width * 2 ** (len(self.depths) - 1)


TINY = {"depths": (1, 1), "width": 4, "classes": 5, "pixels": 16}


def blocks(size: Size) -> Iterator[tuple[int, int, int]]:
    """Input channels, inner channels and stride of each block.

    Four times as many channels go out, and the stride is that of the middle one of
    three convolutions.
    """
    inputs = size.width
    for stage, depth in enumerate(size.depths):
        inner = size.width * 2**stage
        for i in range(depth):
            yield inputs, inner, 2 if stage and i == 0 else 1
            inputs = 4 * inner


@functools.lru_cache(maxsize=2)  # An input and its gradient are the same for all.
def values(shape: tuple[int, ...], layout: Layout, seed: int) -> np.ndarray:
    """Entries ``(batch, channels, *pixels)``, arranged; far from normalized."""
    rng = np.random.default_rng(seed)
    xs = 2 * rng.standard_normal(shape, np.float32) + np.float32(0.5)
    return np.ascontiguousarray(arranged(xs, "NCHW", layout))


def arranged(xs: Any, now: Layout, then: Layout) -> Any:
    """A batch with its axes in another order: a view, unless it must be copied."""
    if now == then:
        return xs
    return xs.transpose(0, 2, 3, 1) if then == "NHWC" else xs.transpose(0, 3, 1, 2)


def images(size: Size, examples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images ``(examples, 3, height, width)`` and their labels."""
    rng = np.random.default_rng(seed)
    shape = (examples, 3, size.pixels, size.pixels)
    xs = rng.standard_normal(shape, np.float32)
    return xs, rng.integers(size.classes, size=examples).astype(np.int32)
