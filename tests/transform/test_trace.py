"""Looking at what a function would compute, without computing it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vernal as vn
from tests.strategies import Counted, Counter, Node, Scale, refuses
from vernal.errors import TransformError

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


def test_closure_convert():
    """What a function closes over becomes a list of arrays, which can be replaced."""
    shift, scale = np.arange(3, dtype=np.float32), jnp.array(2)

    def f(tree, n, *, act):
        return {"y": act(tree["x"]) * n + shift, "i": scale + 1, "rest": ["s", n, act]}

    closed = vn.filter_closure_convert(f, {"x": jnp.ones(3)}, 2.0, act=jnp.sin)
    assert sorted(c.dtype.name for c in closed.consts) == ["float32", "int32"]
    assert all(isinstance(c, jax.Array) for c in closed.consts)
    x = jnp.array([0.5, 1.0, 2.0])
    out = closed({"x": x}, 2.0, act=jnp.sin)
    np.testing.assert_allclose(out["y"], 2 * jnp.sin(x) + shift, rtol=1e-6)
    assert int(out["i"]) == 3 and out["rest"] == ["s", 2.0, jnp.sin]
    moved = jax.tree.map(lambda c: c + jnp.ones((), c.dtype), closed)
    out = moved({"x": x}, 2.0, act=jnp.sin)
    np.testing.assert_allclose(out["y"], 2 * jnp.sin(x) + shift + 1, rtol=1e-6)
    assert int(out["i"]) == 4


def test_closure_convert_takes_hold_of_tracers():
    """Closed-over values that are being differentiated become arguments."""

    @jax.custom_vjp
    def apply(f, x):
        return f(x)

    apply.defvjp(lambda f, x: (f(x), (f, x)), lambda r, g: jax.vjp(apply_, *r)[1](g))
    apply_ = lambda f, x: f(x)  # noqa: E731

    @jax.jit
    @jax.grad
    def slope(z):
        return apply(vn.filter_closure_convert(lambda x: jnp.sin(x) * z, z), z)

    z = 0.7
    np.testing.assert_allclose(slope(z), np.sin(z) + z * np.cos(z), rtol=1e-6)


def test_closure_convert_under_transformations():
    """The result goes through jit, vmap, scan and grad as a pytree."""
    w = jnp.array([1.0, 2.0, 3.0])
    closed = vn.filter_closure_convert(lambda x: jnp.sin(x) @ w, w)
    x = jnp.array([0.5, 1.0, 2.0])
    want = jnp.sin(x) @ w
    call = lambda c, x: c(x)  # noqa: E731
    np.testing.assert_allclose(jax.jit(call)(closed, x), want, rtol=1e-6)
    np.testing.assert_allclose(vn.filter_jit(closed)(x), want, rtol=1e-6)
    both = jax.vmap(call, (None, 0))(closed, jnp.stack([x, x]))
    np.testing.assert_allclose(both[1], want, rtol=1e-6)
    run = lambda c, x: jax.lax.scan(lambda s, y: (s + c(y), None), 0.0, x)[0]  # noqa: E731
    np.testing.assert_allclose(run(closed, jnp.stack([x, x])), 2 * want, rtol=1e-6)
    grads, slope = jax.grad(call, (0, 1))(closed, x)
    np.testing.assert_allclose(grads.consts[0], jnp.sin(x), rtol=1e-6)
    np.testing.assert_allclose(slope, jnp.cos(x) * w, rtol=1e-6)


def test_closure_convert_of_a_model():
    """A Module's parameters are among the constants; structs will do as examples."""
    linear = vn.nn.Linear(3, 2, key=jax.random.key(0))
    closed = vn.filter_closure_convert(linear, STRUCT)
    assert sorted(c.shape for c in closed.consts) == [(2,), (2, 3)]
    np.testing.assert_array_equal(closed(jnp.ones(3)), linear(jnp.ones(3)))
    assert closed.in_struct == ((STRUCT,), {})
    assert (closed.out_struct.shape, closed.out_struct.dtype) == ((2,), jnp.float32)


def test_closure_convert_does_not_run_the_function():
    """It is traced once, and calls run the trace."""
    f = Counted(lambda x: x + 1)
    closed = vn.filter_closure_convert(f, STRUCT)
    closed(jnp.ones(3))
    assert closed(np.ones(3)).tolist() == [2.0] * 3 and f.calls == 1


def test_closure_convert_forgets_weak_types():
    """Whether a dtype may give way is no part of the example, nor of the result."""
    weak, strong = jnp.asarray(2.0), jnp.array(2.0, jnp.float32)
    for example, given in ((weak, strong), (strong, weak), (weak, weak)):
        f = vn.filter_closure_convert(lambda x: (x + x, x.weak_type), example)
        out, was_weak = f(given)
        assert float(out) == 4.0 and not out.weak_type and not was_weak


OTHER = {
    "shape": (jnp.ones(2), 1, {}, ["float32[3]", "float32[2]", "[0]"]),
    "dtype": (jnp.arange(3), 1, {}, ["float32[3]", "int32[3]"]),
    "value": (jnp.ones(3), 2, {}, ["another value at [1]", "expected: 1", "2"]),
    "kind": (jnp.ones(3), jnp.array(1), {}, ["another value at [1]", "int32[]"]),
    "structure": ([jnp.ones(3)], 1, {}, ["another structure"]),
    "keyword": (jnp.ones(3), 1, {"k": 1}, ["another structure"]),
}


@pytest.mark.parametrize("x, n, kwargs, words", OTHER.values(), ids=OTHER)
def test_closure_convert_called_otherwise(x, n, kwargs, words):
    """Arguments that are not like the example are named."""
    closed = vn.filter_closure_convert(lambda x, n, **kwargs: x * n, jnp.ones(3), 1)
    with refuses(TransformError, "filter_closure_convert", *words):
        closed(x, n, **kwargs)


def test_closure_convert_of_no_function():
    """What is not callable is refused."""
    with refuses(TransformError, "filter_closure_convert", "not callable"):
        vn.filter_closure_convert(3)
