"""Products of the Jacobian with a vector, from either side."""

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
t = jnp.array([1.0, 2.0, -1.0])


def mixed(tree, power, *, shift=0.0):
    """A function with all kinds of leaves in and out."""
    return {
        "y": jnp.sin(tree["a"]) * tree["b"] + shift,
        "fixed": tree["b"] ** power,
        "count": jnp.arange(3) * tree["n"],
        "rest": [power, "text", None, opaque, jnp.sin],
        "node": Node(tree["a"].sum(), tree["b"], "tag"),
    }


TREE = {"a": x, "b": jnp.array([1.0, 2.0, 3.0]), "n": 2}


XT = ((x, t), (t, x))


def equal(a, b):
    return vn.tree_equal(a, b) is True


def test_jvp_of_any_trees():
    """Value and derivative, with None for what does not move or is no number."""
    tangent = {"a": t, "b": None, "n": None}
    out, moved = vn.filter_jvp(mixed, (TREE, 2), (tangent, None), shift=1.0)
    assert equal(out, mixed(TREE, 2, shift=1.0))
    np.testing.assert_allclose(moved["y"], jnp.cos(x) * TREE["b"] * t, rtol=1e-6)
    assert float(moved["node"].first) == 2.0 and moved["node"].tag == "tag"
    assert moved["fixed"] is moved["count"] is moved["node"].second is None
    assert moved["rest"] == [None] * 5
    leaf = lambda y: y is None  # noqa: E731
    assert jax.tree.structure(out, is_leaf=leaf) == jax.tree.structure(
        moved, is_leaf=leaf
    )


def test_jvp_agrees_with_jax():
    """On arrays it is `jax.jvp`, also with complex numbers."""
    f = lambda a, b: (a * b, jnp.exp(a))  # noqa: E731
    for z in (jnp.float32(1), jnp.complex64(1j)):
        primals, tangents = jax.tree.map(lambda a, z=z: a.astype(z.dtype) * z, XT)
        ours, theirs = (j(f, primals, tangents) for j in (vn.filter_jvp, jax.jvp))
        assert equal(ours, theirs)


def test_jvp_agrees_with_the_peer():
    """Where both have an answer it is the same, None included."""
    for tangents in (({"a": t, "b": None, "n": None}, None),):
        args = (lambda d, p: {**mixed(d, p), "node": 0}, (TREE, 2), tangents)
        assert equal(vn.filter_jvp(*args), eqx.filter_jvp(*args))


def test_jvp_of_python_numbers():
    """Floats move, whether tangents are floats or arrays; a list of primals will do."""
    for moved in (1.0, jnp.array(1.0)):
        out, tangent = vn.filter_jvp(lambda a, n: a**n, [3.0, 2], [moved, None])
        assert (float(out), float(tangent)) == (9.0, 6.0)


def test_jvp_without_movement():
    """If nothing moves all tangents are None, and the value is there."""
    f = Counted(lambda a, s: (2 * a, s))
    out, moved = vn.filter_jvp(f, (x, "s"), (None, None))
    assert equal(out, (2 * x, "s")) and moved == (None, None) and f.calls == 1


def test_jvp_knows_dependence_through_other_functions():
    """What depends is known through jit, branches and loops, one leaf at a time."""

    @jax.jit
    def inner(a, b):
        return jax.lax.cond(True, lambda: (a, b), lambda: (2 * a, b)), b

    ((p, q), r), ((dp, dq), dr) = vn.filter_jvp(inner, (x, x), (t, None))
    assert equal((p, q, r), (x, x, x)) and equal(dp, t)
    assert dr is None and (dq is None or not dq.any())


def test_jvp_asks_only_about_its_own_direction():
    """What moves in a derivative around it does not count, and keeps moving there."""

    def f(c):
        out, moved = vn.filter_jvp(lambda a: (a * c, c, 2 * c), (x,), (t,))
        assert moved[1] is moved[2] is None
        return moved[0], out[2]

    def fixed(c):
        _, moved = vn.filter_jvp(lambda a: (c, 2 * c), (x,), (t,))
        assert moved == (None, None)
        return c

    assert equal(jax.jvp(fixed, (x,), (t,)), (x, t))
    out, tangent = jax.jvp(f, (x,), (x,))
    assert equal(out, (t * x, 2 * x)) and equal(tangent, (t * x, 2 * x))
    gradient = jax.grad(lambda c: f(c)[0].sum())(x)
    assert equal(gradient, t)


def test_jvp_in_jvp():
    """Second directional derivatives, against the closed form."""
    first = lambda a: vn.filter_jvp(jnp.sin, (a,), (t,))[1]  # noqa: E731
    _, second = vn.filter_jvp(first, (x,), (t,))
    np.testing.assert_allclose(second, -jnp.sin(x) * t**2, rtol=1e-6)


def test_jvp_under_transformations():
    """It is traced by jit, vmap and scan like any code."""

    def f(a, b):
        return vn.filter_jvp(mixed, ({"a": a, "b": b, "n": 2}, 2), DIRECTION)[1]["y"]

    want = jnp.cos(x) * x * t
    DIRECTION = ({"a": t, "b": None, "n": None}, None)
    np.testing.assert_allclose(jax.jit(f)(x, x), want, rtol=1e-6)
    stacked = jnp.stack([x, x])
    for ys in (
        jax.vmap(f)(stacked, stacked),
        jax.lax.scan(lambda c, a: (c, f(a, a)), None, stacked)[1],
    ):
        np.testing.assert_allclose(ys[1], want, rtol=1e-6)


def test_jvp_of_a_model():
    """The model's own parameters can be the direction."""
    model = vn.nn.Linear(3, 2, key=jax.random.key(0))
    out, moved = vn.filter_jvp(lambda m: m(x), (model,), (model,))
    np.testing.assert_allclose(out, moved, rtol=1e-6)  # it is linear in them


BAD = {
    "structure": ((x, 1), (t,), ["structure", "`tangents`"]),
    "integer": ((x, 1), (t, 1), ["None at [1]"]),
    "shape": ((x,), (t[:2],), ["float32[3] at [0]", "float32[2]"]),
    "no sequence": (x, (t,), ["`primals` is no sequence", "(primal,)"]),
}


@pytest.mark.parametrize("primals, tangents, words", BAD.values(), ids=BAD)
def test_jvp_of_what_does_not_fit(primals, tangents, words):
    """Tangents that do not belong to the primals are refused."""
    with refuses(TransformError, "filter_jvp", *words):
        vn.filter_jvp(lambda *a: a, primals, tangents)


def test_vjp_of_any_trees():
    """Cotangents in the structure of the result give those of the arguments."""
    out, pullback = vn.filter_vjp(mixed, TREE, 2)
    assert equal(out, mixed(TREE, 2))
    zero = jax.tree.map(lambda _: None, out)
    grads, none = pullback({**zero, "y": t})
    np.testing.assert_allclose(grads["a"], jnp.cos(x) * TREE["b"] * t, rtol=1e-6)
    np.testing.assert_allclose(grads["b"], jnp.sin(x) * t, rtol=1e-6)
    assert grads["n"] is None and none is None
    full = jax.tree.map(jnp.ones_like, vn.filter(out, vn.is_inexact_array))
    grads, _ = pullback(full)
    np.testing.assert_allclose(grads["a"], jnp.cos(x) * TREE["b"] + 1, rtol=1e-6)


def test_vjp_agrees_with_jax_and_the_peer():
    """On arrays it is `jax.vjp`; with other leaves it is the peer's."""
    f = lambda a, b: (a * b, jax.lax.complex(a, b) ** 2)  # noqa: E731
    cotangent = (t, jax.lax.complex(t, x))
    (ours, pull), (theirs, jax_pull) = vn.filter_vjp(f, x, t), jax.vjp(f, x, t)
    assert equal(ours, theirs) and equal(pull(cotangent), jax_pull(cotangent))
    f = lambda a, n: (a**n, [n, a])  # noqa: E731
    (ours, pull), (theirs, their_pull) = (v.filter_vjp(f, x, 3) for v in (vn, eqx))
    cotangent = (t, [None, x])
    assert equal(ours, theirs) and equal(pull(cotangent), their_pull(cotangent))


def test_vjp_with_aux():
    """What comes beside the result may be anything, and has no cotangent."""
    f = Counted(lambda a: (a**2, {"aux": a, "s": opaque}))
    out, pullback, aux = vn.filter_vjp(f, x, has_aux=True)
    assert equal(out, x**2) and equal(pullback(t), (2 * x * t,))
    assert equal(aux["aux"], x) and aux["s"] is opaque and f.calls == 1
    assert not isinstance(aux["aux"], jax.core.Tracer)


def test_vjp_across_jit():
    """The pullback is a pytree: a compiled function can return and take it."""
    out, pullback = vn.filter_jit(lambda a: vn.filter_vjp(lambda b: b**2, a))(x)
    assert equal(out, x**2) and equal(pullback(t), (2 * x * t,))
    assert equal(jax.jit(lambda p, c: p(c))(pullback, t), (2 * x * t,))


def test_vjp_under_vmap_and_grad():
    """Pullbacks are mapped over, and differentiated themselves."""
    f = lambda a: vn.filter_vjp(jnp.sin, a)[1](a)[0]  # noqa: E731
    np.testing.assert_allclose(jax.vmap(f)(x), x * jnp.cos(x), rtol=1e-6)
    want = jnp.cos(x) - x * jnp.sin(x)
    np.testing.assert_allclose(jax.vmap(jax.grad(f))(x), want, rtol=1e-5)


def test_vjp_without_numbers():
    """Without floating arrays, or without arguments, there is nothing to pull back."""
    out, pullback = vn.filter_vjp(lambda n: (n, "s"), 2)
    assert out == (2, "s") and pullback((None, None)) == (None,)
    out, pullback = vn.filter_vjp(lambda: x)
    assert equal(out, x) and pullback(t) == ()


def test_vjp_of_a_module():
    """A Module can be the function; to differentiate it, make it an argument."""
    _, pullback = vn.filter_vjp(Scale(jnp.array(3.0)), x)
    assert equal(pullback(t), (3 * t,))
    _, pullback = vn.filter_vjp(lambda m, a: m(a), Scale(jnp.array(3.0)), x)
    model, _ = pullback(jnp.ones(3))
    assert isinstance(model, Scale) and float(model.factor) == 1.5


def test_vjp_of_what_does_not_fit():
    """Cotangents that do not belong to the result are refused."""
    _, pullback = vn.filter_vjp(lambda a: (a, 1), x)
    with refuses(TransformError, "filter_vjp, the cotangents", "structure"):
        pullback(t)
    with refuses(TransformError, "filter_vjp", "None at [1]"):
        pullback((t, 1.0))
    with refuses(TransformError, "filter_vjp", "float32[3] at [0]"):
        pullback((t[:1], None))


@pytest.mark.parametrize("product", [vn.filter_jvp, vn.filter_vjp])
def test_no_function(product):
    """What is not callable is refused."""
    with refuses(TransformError, product.__name__, "not callable"):
        product(3, (x,), (t,))
