"""Heads that share keys and values, beside attention with the shared ones repeated."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import vernal as vn
from tests.strategies import refuses
from tests.world import x64
from vernal import nn
from vernal.errors import HyperparameterError, InputError

SIZES = {"key_size": 5, "value_size": 3, "qk_size": 2, "vo_size": 4}
BIASES = {"use_key_bias": True, "use_value_bias": True}


def repeated(layer: nn.MultiheadAttention) -> nn.MultiheadAttention:
    """The layer in which each head has its own copy of its keys and values."""
    group = layer.num_heads // layer.num_kv_heads
    full = nn.MultiheadAttention(layer.num_heads, 6, **SIZES, **BIASES, key=jr.key(0))

    def repeat(linear: nn.Linear, size: int) -> nn.Linear:
        assert linear.bias is not None
        arrays = [
            jnp.repeat(a.reshape(-1, size, *a.shape[1:]), group, axis=0).reshape(
                -1, *a.shape[1:]
            )
            for a in (linear.weight, linear.bias)
        ]
        return vn.tree_at(lambda m: (m.weight, m.bias), linear, arrays)

    return vn.tree_at(
        lambda m: (m.query_proj, m.output_proj, m.key_proj, m.value_proj),
        full,
        [
            layer.query_proj,
            layer.output_proj,
            repeat(layer.key_proj, layer.qk_size),
            repeat(layer.value_proj, layer.vo_size),
        ],
    )


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("axes", [0, 2, 3])
def test_repeated_heads(groups: int, axes: int) -> None:
    """Output and gradients are those of repeated heads, with and without a mask."""
    rng = np.random.default_rng(0)
    mask = rng.random((4, 3, 7)) < 0.6 if axes else None
    mask = mask[0] if axes == 2 else mask
    shapes = ((3, 6), (7, 5), (7, 3))
    inputs = [rng.normal(size=shape) for shape in shapes]

    @jax.jit
    def run(layer: Any, inputs: Any) -> Any:
        def loss(layer: Any, inputs: Any, widen: Any) -> Any:
            y = widen(layer)(*inputs, mask)
            return jnp.sum(jnp.sin(y)), y

        ways = (lambda m: m, repeated)
        return [
            jax.grad(loss, (0, 1), has_aux=True)(layer, inputs, widen) for widen in ways
        ]

    with x64():
        layer = nn.MultiheadAttention(
            4, 6, **SIZES, **BIASES, num_kv_heads=groups, key=jr.key(1)
        )
        assert layer.key_proj.weight.shape == (2 * groups, 5)
        got, want = map(jax.tree.leaves, run(layer, inputs))
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, 1e-11, 1e-12)


def test_keys_are_not_repeated() -> None:
    """No array has the size of keys for all heads."""
    layer = nn.MultiheadAttention(8, 64, num_kv_heads=2, key=jr.key(0))
    x = jnp.ones((1000, 64))
    program = jax.make_jaxpr(lambda x: layer(x[:1], x, x))(x)
    arrays = [v.aval for e in program.eqns for v in e.outvars]
    assert max(a.size for a in arrays) == 1000 * 2 * 8


def test_by_default_nothing_is_shared() -> None:
    """There are as many heads of keys; the parameters of a key are as before."""
    plain = nn.MultiheadAttention(4, 8, key=jr.key(0))
    assert plain.num_kv_heads == 4
    assert plain == nn.MultiheadAttention(4, 8, num_kv_heads=4, key=jr.key(0))
    with jax.checking_leaks():
        heads: list[Any] = []

        def process(*args: Any) -> Any:
            heads.extend(x.shape for x in args)
            return args

        shared = nn.MultiheadAttention(4, 8, num_kv_heads=2, key=jr.key(0))
        x = jnp.ones((3, 8))
        shared(x, x, x, process_heads=process)
        assert heads == [(3, 4, 2), (3, 2, 2), (3, 2, 2)]
        with refuses(InputError, "`process_heads`", "(3, 2, 2)"):
            shared(x, x, x, process_heads=lambda q, k, v: (q, q, q))


@pytest.mark.parametrize("groups", [0, 3, 8, 2.0, True, "1"])
def test_bad_arguments(groups: Any) -> None:
    """What does not divide the heads is refused."""
    with refuses(HyperparameterError, "MultiheadAttention", "`num_kv_heads`"):
        nn.MultiheadAttention(4, 8, num_kv_heads=groups, key=jr.key(0))
