"""Looking at what a function would compute, without computing it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vernal as vn
from tests.strategies import Counted, Counter, Node, Scale

STRUCT = jax.ShapeDtypeStruct((3,), jnp.float32)


def shapes(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


def test_eval_shape():
    """Arrays of the result become structs; everything else is the value itself."""
    marker = object()
    out = vn.filter_eval_shape(
        lambda x, n: {"a": x * n, "n": n, "o": marker, "none": None}, jnp.ones(3), 2.0
    )
    assert type(out["a"]) is jax.ShapeDtypeStruct and out["a"].shape == (3,)
    assert (out["n"], out["none"]) == (2.0, None) and out["o"] is marker


@pytest.mark.parametrize("x", [STRUCT, jnp.ones(3), np.ones(3, np.float32)])
def test_eval_shape_of_any_array(x):
    """Arguments may be arrays or structs, by position or name."""
    out = vn.filter_eval_shape(lambda x, y: x + y, x, y=x)
    assert (out.shape, out.dtype) == ((3,), jnp.float32)


def test_eval_shape_of_a_constructor():
    """A model of any size is described, of the very structure of a real one."""
    key = jax.random.key(0)
    huge = vn.filter_eval_shape(vn.nn.Linear, 10**6, 10**6, key=key)
    assert huge.weight.shape == (10**6, 10**6) and huge.in_features == 10**6
    small = vn.filter_eval_shape(vn.nn.Linear, 2, 3, key=key)
    real = vn.nn.Linear(2, 3, key=key)
    assert jax.tree.structure(small) == jax.tree.structure(real)
    assert shapes(small) == shapes(real)


def test_eval_shape_of_a_model():
    """A Module or method can be the function, and structs can be its leaves."""
    linear = vn.filter_eval_shape(vn.nn.Linear, 3, 2, key=jax.random.key(0))
    assert vn.filter_eval_shape(linear, STRUCT).shape == (2,)
    assert vn.filter_eval_shape(Scale(2.0), STRUCT).shape == (3,)


def test_eval_shape_of_a_stateful_model():
    """`make_with_state` works abstractly, and state with structs goes on doing so."""
    model, state = vn.filter_eval_shape(vn.nn.make_with_state(Counter), STRUCT_INIT)
    assert state.get(model.index).shape == (4,)
    y, state = vn.filter_eval_shape(model, jnp.array(1.0), state)
    assert y.shape == (4,) and state.get(model.index).shape == (4,)


STRUCT_INIT = jnp.ones(4)


def test_eval_shape_computes_nothing():
    """The function is traced once and its operations are not run."""
    f = Counted(lambda x: jnp.linalg.inv(x))
    out = vn.filter_eval_shape(f, jax.ShapeDtypeStruct((50_000, 50_000), jnp.float32))
    assert out.shape == (50_000, 50_000) and f.calls == 1


def test_make_jaxpr():
    """It gives the jaxpr, the result's shapes, and what of the result is static."""
    jaxpr, struct, static = vn.filter_make_jaxpr(lambda x, n: (jnp.sin(x), n, "s"))(
        jnp.ones(3), 5
    )
    assert [str(eqn.primitive) for eqn in jaxpr.jaxpr.eqns] == ["sin"]
    assert struct[0].shape == (3,) and struct[1:] == (None, None)
    assert static == (None, 5, "s")


def test_make_jaxpr_of_structs_and_keywords():
    """Arguments may be structs, and may be passed by name."""
    jaxpr, struct, _ = vn.filter_make_jaxpr(lambda x, *, y: x + y)(STRUCT, y=STRUCT)
    assert len(jaxpr.jaxpr.invars) == 2 and struct.shape == (3,)


def test_make_jaxpr_of_a_model():
    """All arrays of a Module are inputs of its jaxpr, not constants."""
    linear = vn.nn.Linear(3, 2, key=jax.random.key(0))
    jaxpr, struct, _ = vn.filter_make_jaxpr(linear)(jnp.ones(3))
    assert len(jaxpr.jaxpr.invars) == 3 and jaxpr.consts == []
    assert struct.shape == (2,)


def test_make_jaxpr_returns_models():
    """A Module in the result keeps its structure in both parts."""
    _, struct, static = vn.filter_make_jaxpr(lambda x: Node(x, 1, "t"))(jnp.ones(3))
    assert struct.first.shape == (3,) and struct.second is None and struct.tag == "t"
    assert static.first is None and static.second == 1


@pytest.mark.parametrize("trace", [vn.filter_eval_shape, vn.filter_make_jaxpr])
def test_errors_of_the_function(trace):
    """What the function raises comes through as it is."""

    def f(x):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        trace(f, 1) if trace is vn.filter_eval_shape else trace(f)(1)
