"""What attention refuses, and in which words."""

from typing import Any

import jax.numpy as jnp
import jax.random as jr
import pytest

from tests.strategies import refuses
from vernal import nn
from vernal.errors import HyperparameterError, InputError

OTHER_SIZES = ("key_size", "value_size", "output_size", "qk_size", "vo_size")


@pytest.mark.parametrize(
    ("options", "name"),
    [
        *(({"num_heads": x}, "num_heads") for x in (0, -1, 2.0, True, None)),
        *(({"query_size": x}, "query_size") for x in (0, -1, 2.0, True, None)),
        *(({name: x}, name) for name in OTHER_SIZES for x in (0, 1.5, "4")),
        ({"num_heads": 5}, "qk_size"),
        ({"num_heads": 5, "qk_size": 1}, "vo_size"),
        *(({"dropout_p": p}, "dropout_p") for p in (-0.1, 1.1, None, float("nan"))),
        ({"dtype": jnp.int32}, "dtype"),
        ({"dtype": jnp.complex64}, "dtype"),
    ],
)
def test_bad_arguments(options: dict[str, Any], name: str) -> None:
    """What is outside its range is refused, by name."""
    with refuses(HyperparameterError, "MultiheadAttention", f"`{name}`"):
        nn.MultiheadAttention(
            **{"num_heads": 2, "query_size": 4, **options, "key": jr.key(0)}
        )


GOOD = {"query": jnp.ones((2, 4)), "key_": jnp.ones((3, 5)), "value": jnp.ones((3, 6))}


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (
            {"query": jnp.ones((2, 5))},
            ["the query has", "(query_length, query_size)", "(2, 5)"],
        ),
        ({"query": jnp.ones(4)}, ["query_length", "(4,)"]),
        ({"query": jnp.ones((7, 2, 4))}, ["jax.vmap(layer)"]),
        ({"query": jnp.ones((2, 4), int)}, ["the query is", "int32"]),
        ({"query": jnp.ones((2, 4), complex)}, ["complex64"]),
        ({"query": [[1.0] * 4]}, ["the query is", "list"]),
        (
            {"key_": jnp.ones((3, 4))},
            ["the key has", "(kv_length, key_size) with key_size = 5"],
        ),
        ({"key_": jnp.ones((4, 5))}, ["as many values as keys", "(4, 6)", "(3, 6)"]),
        ({"value": jnp.ones((3, 5))}, ["the value has", "value_size = 6"]),
        ({"mask": jnp.ones((3, 2), bool)}, ["(2, 3)", "(1, 2, 3)", "got:      (3, 2)"]),
        ({"mask": jnp.ones((2, 2, 3), bool)}, ["(2, 2, 3)"]),
        ({"mask": jnp.ones(3, bool)}, ["(3,)"]),
        ({"mask": jnp.ones((2, 3))}, ["float32", "mask.astype(bool)", "True lets"]),
        ({"mask": jnp.ones((2, 3), int)}, ["int32", "mask.astype(bool)"]),
        ({"mask": [[True] * 3] * 2}, ["list"]),
        ({"mask": True}, ["bool"]),
    ],
)
def test_bad_inputs(inputs: dict[str, Any], words: list[str]) -> None:
    """Inputs and masks of other shapes and dtypes are refused."""
    layer = nn.MultiheadAttention(1, 4, 5, 6, key=jr.key(0))
    with refuses(InputError, "MultiheadAttention", *words):
        layer(**{**GOOD, **inputs})


def test_training_needs_a_key() -> None:
    """The error is that of the sub-layer, with its place."""
    layer = nn.MultiheadAttention(2, 4, dropout_p=0.5, key=jr.key(0))
    x = jnp.ones((3, 4))
    with refuses(InputError, "Dropout at `dropout` of MultiheadAttention", "key=None"):
        layer(x, x, x)


@pytest.mark.parametrize(
    ("process", "word"),
    [
        (lambda q, k, v: (q[:, :1], k, v), "(3, 1, 2), (3, 2, 2), (3, 2, 2)"),
        (lambda q, k, v: (q, k, v.reshape(3, 4)), "(3, 4)"),
        (lambda q, k, v: (q, k), "(3, 2, 2), (3, 2, 2)"),
        (lambda q, k, v: (q, k, None), "None"),
        (lambda q, k, v: q, "Array"),
        (lambda q, k, v: None, "NoneType"),
    ],
)
def test_process_heads_must_keep_shapes(process: Any, word: str) -> None:
    """What does not return three arrays in the same shapes is refused."""
    layer = nn.MultiheadAttention(2, 4, key=jr.key(0))
    x = jnp.ones((3, 4))
    with refuses(InputError, "process_heads", word):
        layer(x, x, x, process_heads=process)
