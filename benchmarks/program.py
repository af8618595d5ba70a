"""What a benchmark runs: one computation, in the words of one library."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Program(NamedTuple):
    """A computation that can be compiled and then run again and again."""

    step: Callable[[Any, Any], tuple[Any, Any]]
    """``step(carry, batch)`` returns the new carry and the loss; not compiled yet."""

    carry: Any
    """All that changes: parameters, state, optimizer state."""

    jit: Callable[..., Callable[[Any, Any], tuple[Any, Any]]]
    """The library's own ``jit(step, donate=False)``; donating gives the carry away."""


def fill(shape: tuple[int, ...]) -> np.ndarray:
    """Weights for a kernel ``(out, in, *spatial)``: the same in every library.

    Deterministic, of mean zero and of the usual size, 1 / sqrt(fan in).
    """
    fan_in = math.prod(shape[1:])
    values = np.random.default_rng(shape).normal(size=shape)
    return (values / math.sqrt(fan_in)).astype(np.float32)
