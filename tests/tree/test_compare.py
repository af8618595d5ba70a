"""Whether trees are equal."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vernal as vn
from tests.strategies import Node, Opaque

opaque = Opaque()

EQUAL = {
    "arrays": (jnp.ones(2), jnp.ones(2)),
    "numpy arrays": (np.ones(2), np.ones(2)),
    "numpy and jax": (np.ones(2, np.float32), jnp.ones(2)),
    "keys": (jax.random.key(1), jax.random.key(1)),
    "empty arrays": (jnp.zeros((0, 2)), jnp.zeros((0, 2))),
    "objects": ([opaque, "a"], [opaque, "a"]),
    "numbers": ([1, 2.0], [1.0, 2]),
    "nothing": (None, None),
    "modules": (Node(jnp.ones(1), tag="x"), Node(jnp.ones(1), tag="x")),
}
UNEQUAL = {
    "values": (jnp.ones(2), jnp.array([1.0, 2.0])),
    "shapes": (jnp.ones(2), jnp.ones((2, 1))),
    "broadcastable shapes": (jnp.ones(1), jnp.ones(())),
    "dtypes": (jnp.ones(2), jnp.ones(2, jnp.float16)),
    "keys": (jax.random.key(1), jax.random.key(2)),
    "array and number": (jnp.array(1.0), 1.0),
    "numpy scalar and number": (np.float32(1), 1.0),
    "objects": (Opaque(), Opaque()),
    "structures": ([1, 2], (1, 2)),
    "none and leaf": ([None], [1]),
    "static fields": (Node(1, tag="x"), Node(1, tag="y")),
    "static functions": (Node(1, fn=jnp.sin), Node(1, fn=jnp.cos)),
    "not a number": (jnp.array(jnp.nan), jnp.array(jnp.nan)),
}


@pytest.mark.parametrize("x, y", EQUAL.values(), ids=EQUAL)
def test_equal(x, y):
    """Equal structure, shapes, dtypes and values are equal."""
    assert bool(vn.tree_equal(x, y)) is True


@pytest.mark.parametrize("x, y", UNEQUAL.values(), ids=UNEQUAL)
def test_unequal(x, y):
    """Any difference in structure, shape, dtype or value is one, from either side."""
    assert bool(vn.tree_equal(x, y)) is False
    assert bool(vn.tree_equal(y, x)) is False


def test_any_number_of_trees():
    """One tree is equal; of three, the odd one counts wherever it stands."""
    assert vn.tree_equal([1]) is True
    assert vn.tree_equal([1], [1], [1]) is True
    for odd in range(3):
        trees = [[1], [1], [1]]
        trees[odd] = [2]
        assert vn.tree_equal(*trees) is False


def test_typematch_tells_the_types_of_leaves():
    """With `typematch`, equal values of other types differ."""
    pairs = [(np.ones(2, np.float32), jnp.ones(2)), (1, 1.0), (True, 1)]
    for x, y in pairs:
        assert bool(vn.tree_equal(x, y)) is True
        assert bool(vn.tree_equal(x, y, typematch=True)) is False
        assert bool(vn.tree_equal(x, x, typematch=True)) is True


@pytest.mark.parametrize("numpy", [np, jnp], ids=["numpy", "jax"])
def test_tolerances(numpy):
    """Inexact arrays may differ by the tolerances, other arrays by nothing."""
    x = numpy.asarray([1.0, 100.0], numpy.float32)
    assert not vn.tree_equal(x, x * 1.01)
    assert vn.tree_equal(x, x * 1.01, rtol=0.02)
    assert not vn.tree_equal(x, x * 1.01, atol=0.02)
    assert vn.tree_equal(x, x + 0.01, atol=0.02)
    n = numpy.asarray([1, 100])
    assert not vn.tree_equal(n, n + 1, rtol=0.5, atol=5.0)


def test_tolerances_in_double_precision():
    """NumPy's float64 is compared as such, though JAX would round it."""
    x = np.ones(2)
    assert not vn.tree_equal(x, x * (1 + 1e-10), rtol=1e-12)
    assert vn.tree_equal(x, x * (1 + 1e-10), rtol=1e-8)


def test_tolerances_do_not_excuse_shapes():
    """Shapes and dtypes must match whatever the tolerances."""
    x = jnp.ones(2)
    assert not vn.tree_equal(x, jnp.ones(1), rtol=1.0, atol=1.0)
    assert not vn.tree_equal(x, jnp.ones(2, jnp.float16), rtol=1.0, atol=1.0)


def test_numpy_arrays_give_a_bool():
    """Where no JAX array is compared, the answer is Python's own."""
    assert vn.tree_equal(np.ones(2), np.ones(2)) is True
    assert vn.tree_equal(np.ones(2), np.zeros(2)) is False


def test_traced_values_give_a_traced_answer():
    """While tracing, the answer is an array; a known difference is False at once."""

    def ask(x, y):
        answer = vn.tree_equal([x, 1], [y, 1])
        assert isinstance(answer, jax.core.Tracer)
        assert vn.tree_equal([x, 1], [y, 2]) is False
        assert vn.tree_equal(x, y[:1]) is False
        return answer

    assert bool(jax.jit(ask)(jnp.ones(2), jnp.ones(2))) is True
    assert bool(jax.jit(ask)(jnp.ones(2), jnp.zeros(2))) is False


TRACES = {
    "jit": jax.jit,
    "vmap": lambda f: jax.vmap(f, axis_size=2, in_axes=None),
    "grad": jax.grad,
}


@pytest.mark.parametrize("trace", TRACES.values(), ids=TRACES)
def test_known_values_give_a_known_answer(trace):
    """Known arrays, compared inside a trace, give an answer that `if` can take."""
    ones, same, zeros = jnp.ones(2), jnp.ones(2), jnp.zeros(2)

    def ask(x):
        assert vn.tree_equal([ones], [same]) is True
        assert vn.tree_equal([ones], [zeros]) is False
        return x

    trace(ask)(1.0)


IN_SHARD_MAP = """
import jax, jax.numpy as jnp, numpy as np, vernal as vn
from jax.sharding import Mesh, PartitionSpec as P

ones, same, zeros = jnp.ones(2), jnp.ones(2), jnp.zeros(2)

def ask(x):
    print(vn.tree_equal(ones, same) is True, vn.tree_equal(ones, zeros) is False)
    return x

mesh = Mesh(np.array(jax.devices()), ("devices",))
jax.shard_map(ask, mesh=mesh, in_specs=P(), out_specs=P())(1.0)
"""


def test_known_values_in_shard_map():
    """So they do in `shard_map` without jit, where operations run on all devices."""
    command = [sys.executable, "-c", IN_SHARD_MAP]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "True True\n"


def test_vmapped_comparison():
    """Under `vmap` there is one answer for each example."""
    x = jnp.array([1.0, 2.0, 3.0])
    answer = jax.vmap(lambda a: vn.tree_equal([a], [jnp.array(2.0)]))(x)
    assert answer.tolist() == [False, True, False]
