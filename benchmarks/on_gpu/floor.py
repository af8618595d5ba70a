r"""The least that batch normalization must move, and how fast a device moves anything.

Let the input have $n$ bytes. A normalized value depends on all values of its channel,
so that both passes read everything for their sums before they write anything:

$$\text{forward} = n\ (x\text{: sums}) + n\ (x) + n\ (y) = 3n$$
$$\text{backward} = 2n\ (x, dy\text{: sums}) + 2n\ (x, dy) + n\ (dx) = 5n$$

The floor is $8n$ over the bandwidth that a large copy reaches in the same run; values
per channel are not counted. It is the floor of a device whose cache holds far less than
$n$. Where the cache is larger, what was read once may come from there, $5n$ are enough,
and the share of the bandwidth may exceed 100 %.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from timing import several

from .clock import Sender


def forward_bytes(shape: tuple[int, ...], dtype: str) -> int:
    """Read the input twice, write the output."""
    return 3 * math.prod(shape) * jnp.dtype(dtype).itemsize


def backward_bytes(shape: tuple[int, ...], dtype: str) -> int:
    """Read the input and the gradient that comes in twice, write the one that goes."""
    return 5 * math.prod(shape) * jnp.dtype(dtype).itemsize


def floor_bytes(shape: tuple[int, ...], dtype: str) -> int:
    """Both passes."""
    return forward_bytes(shape, dtype) + backward_bytes(shape, dtype)


def bandwidth(megabytes: int, goal: float, options: dict[str, Any]) -> dict[str, float]:
    """Bytes per second, read and written together, of a copy and of a triad.

    Arguments:
        megabytes: the size of each array: far more than any cache holds.
        goal: seconds of :class:`clock.Sender`.
        options: of :func:`timing.several`.
    """
    a, b = (jnp.ones(megabytes * 1_000_000 // 4, jnp.float32) for _ in range(2))
    copy, triad = jax.jit(lambda a: -a), jax.jit(lambda a, b: a + 3 * b)
    runs = {
        "copy": Sender(lambda: lambda: copy(a), goal),
        "triad": Sender(lambda: lambda: triad(a, b), goal),
    }
    found = several(runs, reference="copy", warm=3, **options)
    moved = {"copy": 2 * a.nbytes, "triad": 3 * a.nbytes}
    return {
        name: moved[name] / parts["time"].value.median for name, parts in found.items()
    }
