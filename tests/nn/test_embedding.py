"""Embeddings beside products with one-hot rows, and Equinox."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from tests.strategies import refuses
from tests.world import x64
from vernal import nn
from vernal.errors import HyperparameterError, InputError


@pytest.mark.parametrize("dtype", [None, jnp.float16, jnp.complex64])
@pytest.mark.parametrize("sizes", [(5, 3), (0, 3), (5, 0)])
def test_parameters_are_those_of_equinox(sizes: Any, dtype: Any) -> None:
    """The same key gives the same table, bit for bit."""
    ours = nn.Embedding(*sizes, dtype=dtype, key=jr.key(3))
    theirs = eqx.nn.Embedding(*sizes, dtype=dtype, key=jr.key(3))
    assert (ours.num_embeddings, ours.embedding_size) == sizes
    assert jnp.array_equal(ours.weight, theirs.weight)
    assert ours.weight.dtype == theirs.weight.dtype and not ours.weight.weak_type


def test_rows() -> None:
    """Indices of all kinds give what NumPy gives; also negative ones."""
    weight = np.arange(900, dtype=np.float32).reshape(300, 3)
    embedding = nn.Embedding(weight=jnp.asarray(weight))
    theirs = eqx.nn.Embedding(weight=jnp.asarray(weight))
    kinds = [int, np.int64, np.int8, np.uint8, jnp.int8, jnp.uint8, jnp.int4]
    kinds += [jnp.int32, jnp.uint32, lambda i: np.array(i, np.int16)]
    look_up = jax.jit(lambda m, i: m(i))
    for i in (0, 7, -1, -8):
        for kind in kinds:
            if i >= 0 or kind not in (np.uint8, jnp.uint8, jnp.uint32):
                x = kind(i)
                for y in (
                    embedding(x),
                    embedding(x, key=jr.key(0)),
                    look_up(embedding, x),
                ):
                    np.testing.assert_array_equal(y, weight[i])
        np.testing.assert_array_equal(embedding(i), theirs(i))
    assert jnp.array_equal(embedding(299), weight[299])
    assert jnp.array_equal(embedding(-300), weight[0])


def test_gradient() -> None:
    """It adds up the cotangents of all uses of a row, as a one-hot product does."""
    embedding = nn.Embedding(4, 3, key=jr.key(0))
    xs = jnp.array([2, 0, 2, -1, 2])
    one_hot = np.eye(4)[np.asarray(xs)]
    cotangents = jr.normal(jr.key(1), (5, 3))
    y, pull = jax.vjp(lambda m: jax.vmap(m)(xs), embedding)
    np.testing.assert_allclose(y, one_hot @ np.asarray(embedding.weight), 1e-6)
    (grads,) = pull(cotangents)
    np.testing.assert_allclose(grads.weight, one_hot.T @ np.asarray(cotangents), 1e-5)
    assert jnp.array_equal(grads.weight[1], jnp.zeros(3))


@pytest.mark.parametrize("i", [4, -5, 1000, -(2**31), 2**31 - 1])
def test_traced_index_outside(i: int) -> None:
    """It gives NaN, with gradient 0: not, as in Equinox, the row that is nearest."""
    embedding = nn.Embedding(4, 3, key=jr.key(0))

    @jax.jit
    def run(m: Any, i: Any) -> Any:
        y, pull = jax.vjp(lambda m: m(i), m)
        return y, pull(jnp.ones(3))[0].weight

    y, gradient = run(embedding, jnp.int32(i))
    assert jnp.all(jnp.isnan(y)) and jnp.array_equal(gradient, jnp.zeros((4, 3)))
    theirs = jax.jit(lambda i: eqx.nn.Embedding(4, 3, key=jr.key(0))(i))(jnp.int32(i))
    assert jnp.array_equal(theirs, embedding(3 if i > 0 else 0))
    ys = jax.vmap(embedding)(jnp.array([1, i]))
    assert jnp.array_equal(ys[0], embedding(1)) and jnp.all(jnp.isnan(ys[1]))


def test_wrapped_unsigned_index() -> None:
    """−1 as an unsigned number is large, and no row from the end."""
    embedding = nn.Embedding(4, 3, key=jr.key(0))
    y = jax.jit(lambda i: embedding(i))(jnp.uint32(2**32 - 1))
    assert jnp.all(jnp.isnan(y))
    y = jax.jit(lambda i: embedding(i))(jnp.uint8(255))
    assert jnp.all(jnp.isnan(y))


@pytest.mark.parametrize(
    "i", [4, -5, 2**40, np.int64(2**40), np.uint8(255), np.array(4), jnp.array(-5)]
)
def test_known_index_outside(i: Any) -> None:
    """It raises an error that says which indices there are."""
    embedding = nn.Embedding(4, 3, key=jr.key(0))
    with refuses(InputError, "Embedding", "from -4 to 3", f"got:      {int(i)}"):
        embedding(i)
    with refuses(InputError):
        jax.jit(lambda m: m(i))(embedding)


def test_empty_tables() -> None:
    """A table without rows has nothing to look up; one without columns has."""
    with refuses(InputError, "empty"):
        nn.Embedding(0, 3, key=jr.key(0))(0)
    with refuses(InputError, "empty", "traced"):
        jax.jit(lambda m, i: m(i))(nn.Embedding(0, 3, key=jr.key(0)), 0)
    assert nn.Embedding(2, 0, key=jr.key(0))(1).shape == (0,)


@pytest.mark.parametrize("sizes", [(), (5,), (5, 3), (None, 3), (np.int32(5), 3)])
@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
def test_given_weight(sizes: Any, kind: Any) -> None:
    """Both sizes follow from the table; a key beside it is not used, as in Equinox."""
    weight = kind(np.arange(15, dtype=np.float16).reshape(5, 3))
    for key in (None, jr.key(0)):
        embedding = nn.Embedding(*sizes, weight=weight, key=key)
        assert jnp.array_equal(embedding.weight, weight)
        assert isinstance(embedding.weight, jax.Array)
        assert embedding.weight.dtype == jnp.float16
        assert (embedding.num_embeddings, embedding.embedding_size) == (5, 3)
        assert type(embedding.num_embeddings) is type(embedding.embedding_size) is int


def test_dtype_of_a_given_weight() -> None:
    """It is kept, or converted if another is asked for; weak types are dropped."""
    weight = jnp.broadcast_to(jnp.asarray(2.0), (3, 2))
    assert weight.weak_type
    assert not nn.Embedding(weight=weight).weight.weak_type
    half = nn.Embedding(weight=weight, dtype=jnp.bfloat16)
    assert half.weight.dtype == half(0).dtype == jnp.bfloat16
    integers = nn.Embedding(weight=jnp.arange(6).reshape(3, 2))
    assert jnp.array_equal(integers(1), jnp.array([2, 3]))


def test_double_precision() -> None:
    """In 64-bit mode the table is in double precision, and indices may be, too."""
    with x64():
        embedding = nn.Embedding(4, 3, key=jr.key(0))
        assert embedding.weight.dtype == embedding(jnp.int64(1)).dtype == jnp.float64
        theirs = eqx.nn.Embedding(4, 3, key=jr.key(0))
        assert jnp.array_equal(embedding.weight, theirs.weight)
        for i in (jnp.int64(2**32), jnp.int64(-(2**32)), jnp.uint64(2**32)):
            assert jnp.all(jnp.isnan(jax.jit(lambda i: embedding(i))(i)))


def test_only_the_table_is_a_leaf() -> None:
    """Sizes are static."""
    embedding = nn.Embedding(4, 3, key=jr.key(0))
    assert [x.shape for x in jax.tree.leaves(embedding)] == [(4, 3)]
    other = nn.Embedding(4, 3, key=jr.key(1))
    assert jax.tree.structure(embedding) == jax.tree.structure(other)


WEIGHT = np.ones((4, 3), np.float32)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        *(({"num_embeddings": x}, "num_embeddings") for x in (-1, 2.0, True, None)),
        *(({"embedding_size": x}, "embedding_size") for x in (-1, 2.0, True, None)),
        ({"key": None}, "key"),
        ({"dtype": jnp.int32}, "dtype"),
        ({"weight": WEIGHT, "num_embeddings": 5}, "num_embeddings"),
        ({"weight": WEIGHT, "embedding_size": 4}, "embedding_size"),
    ],
)
def test_bad_arguments(options: dict[str, Any], name: str) -> None:
    """Missing, impossible and contradictory arguments are refused, by name."""
    good = {"num_embeddings": 4, "embedding_size": 3, "key": jr.key(0)}
    with refuses(HyperparameterError, "Embedding", f"`{name}`"):
        nn.Embedding(**{**good, **options})


@pytest.mark.parametrize("weight", [WEIGHT[0], WEIGHT[None], [[1.0, 2.0]], 3.0])
def test_bad_weights(weight: Any) -> None:
    """What is no array of two axes is refused."""
    with refuses(HyperparameterError, "bad argument `weight`"):
        nn.Embedding(weight=weight)


def test_nothing_given() -> None:
    """The message about a missing size tells of the other way."""
    with refuses(HyperparameterError, "`num_embeddings`", "no `weight` is given"):
        nn.Embedding()


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (jnp.array([1, 2]), ["(2,), int32", "jax.vmap(layer)"]),
        (np.array([1]), ["(1,), int64", "jax.vmap(layer)"]),
        (jnp.array(1.0), ["(), float32"]),
        (np.float64(1), ["(), float64"]),
        (1.0, ["float"]),
        (True, ["bool"]),
        (jnp.array(True), ["bool"]),
        (np.True_, ["bool"]),
        ([1], ["list"]),
        (None, ["NoneType"]),
        ("1", ["str"]),
    ],
)
def test_bad_inputs(x: Any, words: list[str]) -> None:
    """What is not one integer is refused."""
    with refuses(InputError, "Embedding", "not an integer", *words):
        nn.Embedding(4, 3, key=jr.key(0))(x)
