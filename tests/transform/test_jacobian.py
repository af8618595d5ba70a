"""Whole Jacobians and Hessians of functions of arbitrary pytrees."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vernal as vn
from tests.strategies import Counted, Node, Opaque, Scale, refuses
from vernal.errors import TransformError

opaque = Opaque()
x = jnp.array([0.5, -1.0, 2.0])
first_order = pytest.mark.parametrize("jac", [vn.filter_jacfwd, vn.filter_jacrev])
every = pytest.mark.parametrize(
    "jac", [vn.filter_jacfwd, vn.filter_jacrev, vn.filter_hessian]
)


def close(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, want)


def f(tree, matrix):
    y = matrix @ jnp.sin(tree["a"])
    return Node(
        y, {"s": tree["b"] * y.sum(), "n": jnp.arange(2), "rest": ["s", opaque]}
    )


TREE = {"a": x, "b": jnp.array(2.0), "n": 3, "key": jax.random.key(0), "none": None}
MATRIX = jnp.arange(6.0).reshape(2, 3)


@first_order
def test_any_trees(jac):
    """The result's tree of the argument's trees, with None for what is no number."""
    got = jac(f)(TREE, MATRIX)
    y = MATRIX @ jnp.diag(jnp.cos(x))
    rest = {"n": None, "key": None, "none": None}
    inner = {"a": 2 * y.sum(0), "b": (MATRIX @ jnp.sin(x)).sum(), **rest}
    outer = {"a": y, "b": jnp.zeros(2), **rest}
    close(got, Node(outer, {"s": inner, "n": None, "rest": [None, None]}))


@first_order
def test_it_agrees_with_jax(jac):
    """On trees of floating arrays it is `jax.jacfwd` and `jax.jacrev`."""
    linear = vn.nn.Linear(3, 2, key=jax.random.key(0))
    f = lambda m: jnp.tanh(m(x))  # noqa: E731
    theirs = {"filter_jacfwd": jax.jacfwd, "filter_jacrev": jax.jacrev}[jac.__name__]
    assert vn.tree_equal(jac(f)(linear), theirs(f)(linear)) is True


@every
def test_it_agrees_with_the_peer(jac):
    """Where the peer has an answer it is the same, in structure and values."""
    f = lambda d, p: (jnp.prod(d["x"] ** p), {"y": d["x"] * d["z"][0]})  # noqa: E731
    d = {"x": x, "z": (jnp.array(2.0), "text"), "n": 1}
    close(jac(f)(d, 3), getattr(eqx, jac.__name__)(f)(d, 3))


def test_hessian():
    """Second derivatives, against the closed form, with keyword arguments fixed."""
    f = lambda d, *, c: {"v": c * d["a"] ** 2 @ d["b"], "s": "text"}  # noqa: E731
    d = {"a": x, "b": jnp.array([1.0, 2.0, 3.0]), "n": 0}
    got = vn.filter_hessian(f)(d, c=jnp.array(2.0))
    mixed = jnp.diag(4 * x)
    aa, bb = jnp.diag(4 * d["b"]), jnp.zeros((3, 3))
    rows = {
        "a": {"a": aa, "b": mixed, "n": None},
        "b": {"a": mixed, "b": bb, "n": None},
    }
    close(got, {"v": {**rows, "n": None}, "s": None})


def test_hessian_agrees_with_jax():
    """On arrays it is `jax.hessian`, also of a function with several results."""
    f = lambda a: (jnp.sin(a) * a.sum(), jnp.prod(a))  # noqa: E731
    close(vn.filter_hessian(f)(x), jax.hessian(f)(x))


@every
def test_aux(jac):
    """What comes beside the result may be anything and is not differentiated."""
    f = Counted(lambda a: ((a**2).sum(), {"a": 2 * a, "o": opaque, "none": None}))
    got, aux = jac(f, has_aux=True)(x)
    want = jac(lambda a: (a**2).sum())(x)
    close(got, want)
    assert aux["a"].tolist() == (2 * x).tolist() and aux["o"] is opaque
    assert not isinstance(aux["a"], jax.core.Tracer) and f.calls == 1
    again, _ = jac(f, True)(x)
    close(again, want)


@every
def test_nothing_to_differentiate(jac):
    """No floating arrays in the argument, or in the result, gives None."""
    assert jac(lambda d: 1.0)({"a": x}) is None
    assert jac(lambda d: (jnp.arange(2), "s"))({"a": x}) == (None, None)
    assert jac(lambda d: (None, "s"), has_aux=True)({"a": x}) == (None, "s")
    got = jac(lambda d: (x,))({"a": 1, "b": jnp.arange(2)})
    none = {"a": None, "b": None}
    assert got in [(none,), ({"a": none, "b": none},)]


@every
def test_under_transformations(jac):
    """It is traced by jit, vmap and scan, and differentiated itself."""
    f = jac(lambda a: (jnp.sin(a) * 2).sum())
    want = f(x)
    close(jax.jit(f)(x), want)
    close(vn.filter_jit(f)(x), want)
    stacked = jnp.stack([x, 2 * x])
    close(jax.vmap(f)(stacked)[0], want)
    close(jax.lax.scan(lambda c, a: (c, f(a)), None, stacked)[1][0], want)
    gradient = jax.grad(lambda a: f(a).sum())(x)
    is_hessian = jac is vn.filter_hessian
    close(gradient, -2 * jnp.cos(x) if is_hessian else -2 * jnp.sin(x))


@every
def test_modules_methods_and_names(jac):
    """Modules and methods are functions too, and the name stays."""

    class M(vn.Module):
        w: object
        slope = jac(lambda self: (self.w**3).sum())

    is_hessian = jac is vn.filter_hessian
    want = M(M(jnp.diag(6 * x))) if is_hessian else M(3 * x**2)
    close(M(x).slope(), want)
    assert jac(Scale(jnp.array(3.0)))(jnp.array(2.0)) == (0 if is_hessian else 3)

    def named(x):
        """Says something."""

    assert (jac(named).__name__, jac(named).__doc__) == ("named", "Says something.")


@every
def test_no_function(jac):
    """What is not callable is refused, in the name that was called."""
    with refuses(TransformError, jac.__name__, "not callable"):
        jac(3)
