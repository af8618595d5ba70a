"""Multiply-adds: against numbers counted by hand, and against XLA's own count."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, PartitionSpec

from vernal import nn
from vernal._summary.costs import COST, LOOPS, costs

KEY = jax.random.key(0)


def cost(f, *shapes):
    args = [jax.ShapeDtypeStruct(shape, "float32") for shape in shapes]
    return costs(jax.make_jaxpr(f)(*args))


def multiply_adds(f, *shapes):
    return cost(f, *shapes)[COST, None]


PRODUCTS = [
    (lambda a, b: a @ b, [(2, 3), (3, 5)], 2 * 3 * 5),
    (lambda a, b: a @ b, [(3,), (3,)], 3),
    (
        lambda a, b: jnp.einsum("bij,bkj->bik", a, b),
        [(7, 2, 3), (7, 5, 3)],
        7 * 2 * 5 * 3,
    ),
    (lambda a, b: jnp.einsum("ijk,jkl->il", a, b), [(2, 3, 5), (3, 5, 7)], 2 * 15 * 7),
    (lambda a: jnp.tanh(a) * a, [(3,)], 0),
]


@pytest.mark.parametrize(("f", "shapes", "expected"), PRODUCTS)
def test_products(f, shapes, expected):
    """A matrix product costs its output times what is summed over; others nothing."""
    assert multiply_adds(f, *shapes) == expected


CONVOLUTIONS = [
    # 16 outputs of 36 positions, each of 3 × 9 entries.
    (nn.Conv2d(3, 16, 3, padding=1, key=KEY), (3, 6, 6), 16 * 36 * 27),
    (nn.Conv2d(3, 16, 3, stride=2, key=KEY), (3, 7, 7), 16 * 9 * 27),
    # Each output sees the 2 channels of its group.
    (nn.Conv1d(4, 6, 5, groups=2, key=KEY), (4, 10), 6 * 6 * 2 * 5),
    (nn.Conv1d(2, 3, 3, dilation=2, key=KEY), (2, 9), 3 * 5 * 6),
    # Each of the 5 inputs of 2 channels meets the whole kernel.
    (nn.ConvTranspose1d(2, 3, 4, stride=3, key=KEY), (2, 5), 5 * 2 * 3 * 4),
]


@pytest.mark.parametrize(("layer", "shape", "expected"), CONVOLUTIONS)
def test_convolutions(layer, shape, expected):
    """Padding counts as in the literature; the zeros of a dilated input do not."""
    assert multiply_adds(layer, shape) == expected
    batched = multiply_adds(jax.vmap(layer), (10, *shape))
    assert batched == 10 * expected


def test_kernels_of_an_ensemble():
    """Under a vmap over kernels JAX makes groups of them: the count is the same."""
    layers = jax.vmap(lambda key: nn.Conv1d(2, 3, 3, key=key))(jax.random.split(KEY, 4))
    run = jax.vmap(lambda layer, x: layer(x), in_axes=(0, None))
    jaxpr = jax.make_jaxpr(run)(layers, jnp.ones((2, 9)))
    assert costs(jaxpr)[COST, None] == 4 * (3 * 7) * (2 * 3)


def dot(x):
    return x @ x


custom_dot = jax.custom_jvp(dot)
custom_dot.defjvps(lambda tangent, out, x: tangent)

LOOPS_AND_BRANCHES = [
    (lambda x: jax.lax.scan(lambda c, _: (dot(c), None), x, length=5)[0], 5 * 8),
    (lambda x: jax.checkpoint(dot)(jax.jit(dot)(x)), 2 * 8),
    (lambda x: jax.lax.cond(x[0, 0] > 0, dot, lambda x: dot(dot(x)), x), 2 * 8),
    (custom_dot, 8),
    (lambda x: jax.grad(lambda x: dot(x).sum())(x), 8 + 2 * 8),
    (lambda x: jax.vmap(dot)(jnp.broadcast_to(x, (3, 2, 2))), 3 * 8),
]


@pytest.mark.parametrize(("f", "expected"), LOOPS_AND_BRANCHES)
def test_what_is_inside_counts(f, expected):
    """Loops multiply; of branches the costliest counts; the rest is looked into."""
    assert multiply_adds(f, (2, 2)) == expected


def test_a_loop_of_unknown_length():
    """A while loop counts as one turn, and is reported if it has anything to count."""
    found = cost(lambda x: jax.lax.while_loop(lambda x: x[0, 0] < 9, dot, x), (2, 2))
    assert (found[COST, None], found[LOOPS, None]) == (8, 1)
    found = cost(lambda x: jax.lax.while_loop(lambda x: x < 9, jnp.cos, x), ())
    assert found[LOOPS, None] == 0


def test_devices():
    """Within shard_map each device does its part: the parts add up to the whole."""
    mesh = Mesh(jax.devices()[:8], "i")
    spec = PartitionSpec("i")
    mapped = jax.shard_map(lambda x: x @ x.T, mesh=mesh, in_specs=spec, out_specs=spec)
    assert multiply_adds(mapped, (16, 3)) == 8 * 2 * 2 * 3


def test_xla_agrees():
    """XLA counts two operations for each multiply-add of a network without padding."""
    layers = [nn.Conv2d(3, 8, 3, key=KEY), nn.Lambda(jnp.ravel)]
    network = nn.Sequential([*layers, nn.MLP(8 * 36, 10, 64, 2, key=KEY)])
    x = jax.ShapeDtypeStruct((32, 3, 8, 8), "float32")
    run = jax.vmap(network)
    counted = 2 * costs(jax.make_jaxpr(run)(x))[COST, None]
    by_hand = 2 * 32 * (8 * 36 * 27 + 288 * 64 + 64 * 64 + 64 * 10)
    flops = jax.jit(run).lower(x).cost_analysis()["flops"]
    others = 32 * (8 * 36 + 2 * 2 * 64 + 10)  # bias of all layers, relu of two
    assert counted == by_hand
    assert counted <= flops <= counted + others
