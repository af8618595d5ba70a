"""How many operations a layer traces to, forward and with its gradient.

The operations are those of jaxprs, without the ones that only move data. The numbers
are exact, so that one more shows; where it is meant, the table is what has to change.
"""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from tests.catalogue import ROWS
from vernal._transform.jaxprs import equations

# JAX's own functions trace to other operations in other versions.
TRACED_WITH = (0, 10)

MOVES = {
    "broadcast_in_dim",
    "concatenate",
    "convert_element_type",
    "copy",
    "jit",
    "pjit",
    "reshape",
    "squeeze",
    "stack",
    "transpose",
}

OPERATIONS: dict[str, tuple[int, int]] = {
    "Linear": (4, 9),
    "MLP": (10, 31),
    "Dropout": (14, 16),
    "Stack": (94, 130),
    "Conv2d": (4, 9),
    "AvgPool2d": (4, 6),
    "MaxPool2d": (3, 5),
    "LayerNorm": (14, 22),
    "RMSNorm": (10, 17),
    "GroupNorm": (14, 23),
    "MultiheadAttention": (42, 83),
    "Embedding": (8, 12),
    "PReLU": (6, 13),
    "GRUCell": (20, 44),
    "LSTMCell": (19, 49),
    "SpectralNorm": (32, 47),
    "WeightNorm": (22, 54),
    "BatchNorm": (90, 98),
    "BatchNorm ema": (84, 92),
    "BatchRenorm": (114, 125),
    "InstanceNorm": (14, 23),
}


def count(fun: Any, *args: Any) -> int:
    """The operations of a function, and of all that is inside of it."""
    jaxpr = jax.make_jaxpr(fun)(*args)
    return sum(e.primitive.name not in MOVES for e in equations(jaxpr))


@pytest.mark.skipif(
    jax.__version_info__[:2] != TRACED_WITH, reason="the table is of another JAX"
)
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations(name: str) -> None:
    """A batch of four examples, in training."""
    (row,) = (row for row in ROWS if row.name == name)
    layer, state = row.split()
    xs = row.batch()

    def forward(layer: Any, state: Any, xs: Any) -> Any:
        return row.call(layer, state, xs)

    def loss(layer: Any, state: Any, xs: Any) -> Any:
        ys, state = forward(layer, state, xs)
        return sum(jnp.sum(y) for y in jax.tree.leaves(ys)), state

    gradient = jax.grad(loss, has_aux=True, allow_int=True)
    args = (layer, state, xs)
    assert (count(forward, *args), count(gradient, *args)) == OPERATIONS[name]
