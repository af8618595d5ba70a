"""Derivatives written by hand, for functions of arbitrary pytrees."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vernal as vn
from tests.strategies import Node, Opaque, Scale, refuses
from vernal.errors import TransformError

opaque = Opaque()
x = jnp.array([0.5, -1.0, 2.0])
t = jnp.array([1.0, 2.0, -1.0])


def make_jvp(seen=None, lib=vn):
    """sin(a) * b**power + shift, whose derivative in `a` is ten times too large."""

    @lib.filter_custom_jvp
    def f(tree, power, *, shift=0.0, tag=None):
        return jnp.sin(tree["a"]) * tree["b"] ** power + shift

    @f.def_jvp
    def rule(primals, tangents, *, shift=0.0, tag=None):
        if seen is not None:
            seen.append((primals, tangents, shift, tag))
        (tree, power), (moved, _) = primals, tangents
        slope = None
        if moved["a"] is not None:
            slope = 10 * jnp.cos(tree["a"]) * tree["b"] ** power * moved["a"]
        return f(tree, power, shift=shift, tag=tag), slope

    return f


TREE = {"a": x, "b": jnp.array([1.0, 2.0, 3.0]), "n": jnp.arange(2), "s": "text"}
TENFOLD = 10 * jnp.cos(x) * TREE["b"] ** 2


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_jvp_rule_gets_and_gives_trees():
    """The rule has the arguments as they were, and None for what does not move."""
    seen = []
    f = make_jvp(seen)
    close(f(TREE, 2, shift=jnp.array(1.0), tag=opaque), jnp.sin(x) * TREE["b"] ** 2 + 1)
    assert seen == []
    grad = jax.grad(lambda a: f({**TREE, "a": a}, 2, shift=x, tag=opaque).sum())(x)
    close(grad, TENFOLD)
    [(primals, tangents, shift, tag)] = seen
    assert primals[0]["s"] == "text" and primals[1] == 2 and tag is opaque
    assert shift.shape == (3,)
    assert isinstance(primals, tuple) and isinstance(tangents, tuple)
    none = {"b": None, "n": None, "s": None}
    assert {**tangents[0], "a": 0} == {**none, "a": 0} and tangents[1] is None


def test_jvp_agrees_with_the_peer():
    """The same rule gives the same derivatives, forward and backward."""
    results = []
    for lib in (vn, eqx):
        f = make_jvp(lib=lib)
        g = lambda a, f=f: f({**TREE, "a": a}, 2)  # noqa: E731
        results.append((jax.jvp(g, (x,), (t,)), jax.grad(lambda a, g=g: g(a).sum())(x)))
    assert vn.tree_equal(*results) is True


def test_jvp_agrees_with_jax():
    """On arrays it is `jax.custom_jvp`."""

    def f(a, b):
        return a * b

    def rule(primals, tangents):
        return f(*primals), 2 * tangents[0] + 3 * tangents[1]

    ours, theirs = vn.filter_custom_jvp(f), jax.custom_jvp(f)
    ours.def_jvp(rule)
    theirs.defjvp(rule)
    _, tangent = jax.jvp(ours, (x, t), (np.asarray(t), np.asarray(x)))
    assert isinstance(tangent, jax.Array)
    want = jax.jvp(theirs, (x, t), (t, x))
    assert vn.tree_equal(jax.jvp(ours, (x, t), (t, x)), want) is True


def test_jvp_results_of_any_kind():
    """Results may hold anything; None in their tangents is zero."""

    @vn.filter_custom_jvp
    def f(a, n):
        return Node(2 * a, {"n": jnp.arange(n), "o": opaque, "z": a, "f": 1.0})

    @f.def_jvp
    def rule(primals, tangents):
        none = {"n": None, "o": None, "z": None, "f": None}
        return f(*primals), Node(5 * tangents[0], none)

    for call in (f, vn.filter_jit(f)):
        out, moved = vn.filter_jvp(call, (x, 3), (t, None))
        close(out.first, 2 * x)
        close(moved.first, 5 * t)
        assert out.second["o"] is opaque and out.second["f"] == 1.0
        assert out.second["n"].tolist() == [0, 1, 2] and out.tag == "tag"
        assert moved.second["n"] is moved.second["o"] is None
        assert moved.second["z"] is None or not moved.second["z"].any()
    grads = jax.grad(lambda a: (f(a, 3).first + f(a, 3).second["z"]).sum())(x)
    close(grads, [5.0] * 3)


def test_jvp_under_transformations():
    """The rule is used under jit, vmap, scan and checkpoint, and in any order."""
    f = make_jvp()

    def g(a):
        return f({**TREE, "a": a}, 2, shift=TREE["b"], tag=opaque).sum()

    stacked = jnp.stack([x, x])
    grad = jax.grad(g)
    runs = [
        jax.jit(grad)(x),
        jax.grad(jax.jit(g))(x),
        jax.vmap(grad)(stacked)[1],
        jax.grad(lambda a: jax.vmap(g)(a).sum())(stacked)[1],
        jax.grad(lambda a: jax.lax.scan(lambda c, b: (c, g(b)), 0, a)[1].sum())(
            stacked
        )[0],
        jax.grad(jax.checkpoint(g))(x),
        jax.grad(lambda a: jax.lax.cond(True, g, g, a))(x),
        vn.filter_jacfwd(g)(x),
    ]
    for got in runs:
        close(got, TENFOLD)


def test_jvp_second_derivatives():
    """The rule is differentiated like other code: it calls the function."""
    f = make_jvp()
    g = lambda a: f({**TREE, "a": a}, 2).sum()  # noqa: E731
    second = jax.grad(lambda a: jax.grad(g)(a).sum())(x)
    close(second, -10 * jnp.sin(x) * TREE["b"] ** 2)


@pytest.mark.parametrize("derivative", [jax.grad, jax.jit, jax.jacfwd])
def test_python_floats(derivative):
    """Floats that JAX differentiates are arrays for the function and its rules."""

    def with_jvp(a, b):
        f = vn.filter_custom_jvp(lambda a: a * b + 0 * a.ndim)
        f.def_jvp(lambda p, t: (f(*p), 7 * b * t[0]))
        return f(a)

    def with_vjp(a, b):
        f = vn.filter_custom_vjp(lambda a, b: a * b)
        f.def_fwd(lambda perturbed, a, b: (a * b, None))
        f.def_bwd(lambda residuals, grad, perturbed, a, b: 7 * grad * b + 0 * a.ndim)
        return f(a, b)

    for f in (with_jvp, with_vjp):
        if not (f is with_vjp and derivative is jax.jacfwd):
            assert float(derivative(f)(2.0, 3.0)) == (
                6 if derivative is jax.jit else 21
            )
    assert float(jax.jvp(lambda a: with_jvp(a, 3.0), (2.0,), (1.0,))[1]) == 21.0
    with refuses(TransformError, "filter_custom_vjp", "no rule"):
        jax.grad(with_vjp, argnums=1)(2.0, 3.0)


def test_jvp_keywords_are_fixed():
    """A derivative that no rule gives is an error, not zero; one may stop it."""
    f = make_jvp()
    with refuses(TransformError, "filter_custom_jvp", "keyword", "stop_gradient"):
        jax.grad(lambda s: f(TREE, 2, shift=s).sum())(x)
    stop = jax.lax.stop_gradient
    grads = jax.grad(lambda a: f({**TREE, "a": a}, 2, shift=stop(a)).sum())(x)
    close(grads, TENFOLD)


@pytest.mark.parametrize("custom", [vn.filter_custom_jvp, vn.filter_custom_vjp])
def test_a_module_as_the_function(custom):
    """Its parameters are fixed: a derivative in them is an error, not zero."""

    def value(factor, a):
        f = custom(Scale(factor))
        if custom is vn.filter_custom_jvp:
            f.def_jvp(lambda p, t: (f(*p), 7 * t[0]))
        else:
            f.def_fwd(lambda perturbed, a: (f(a), None))
            f.def_bwd(lambda residuals, grad, perturbed, a: 7 * grad)
        return f(a).sum()

    holder = vn.nn.Lambda(jnp.tanh)  # its field has the name of one of ours
    assert custom(holder).fn is holder
    factor = jnp.array(2.0)
    close(value(factor, x), 2 * x.sum())
    close(jax.jit(jax.grad(value, argnums=1))(factor, x), [7.0] * 3)
    with refuses(TransformError, custom.__name__, "no rule"):
        jax.grad(value)(factor, x)


@pytest.mark.parametrize("custom", [vn.filter_custom_jvp, vn.filter_custom_vjp])
def test_names_methods_and_missing_rules(custom):
    """It keeps the name, works as a method, and is of no use without its rules."""

    class M(vn.Module):
        w: object

        @custom
        def call(self, a):
            """Says something."""
            return self.w * a

        if custom is vn.filter_custom_jvp:
            call.def_jvp(lambda p, t: (p[0].w * p[1], t[0].w * jnp.full(3, 100.0)))
        else:
            call.def_fwd(lambda perturbed, self, a: (self.w * a, None))
            call.def_bwd(lambda r, grad, p, self, a: M(grad.sum() * 100))

    assert (M.call.__name__, M.call.__doc__) == ("call", "Says something.")
    assert repr(M.call) == f"<{custom.__name__} of call>"
    close(M(x).call(x), x**2)
    grads = vn.filter_jit(vn.filter_grad(lambda m, a: m.call(a)[0]))(M(x[0]), x)
    close(grads.w, 100.0)

    def lonely(a):
        return a

    with refuses(TransformError, custom.__name__, "lonely", "rule"):
        custom(lonely)(x)
    with refuses(TransformError, custom.__name__, "not callable"):
        custom(3)


def test_jvp_rule_that_returns_what_does_not_fit():
    """The tangents must be those of the result."""
    f = vn.filter_custom_jvp(lambda a: (a, 1))
    for wrong in (x, (x, 1.0), (x[:2], None)):
        f.def_jvp(lambda p, t, wrong=wrong: ((p[0], 1), wrong))
        with refuses(TransformError, "filter_custom_jvp, `tangent_out`", "fit"):
            jax.jvp(f, (x,), (t,))


def test_jvp_old_names():
    """`defjvp` warns, and its rule gets zeros; `defjvps` is refused."""
    seen = []
    f = vn.filter_custom_jvp(lambda a, b, n: a * b)

    def rule(primals, tangents):
        seen.append(tangents)
        return f(*primals), 3 * tangents[0] + tangents[1]

    with pytest.warns(DeprecationWarning, match="def_jvp"):
        assert f.defjvp(rule) is rule
    close(jax.grad(lambda a: f(a, x, 2).sum())(x), [3.0] * 3)
    assert seen[0][1].tolist() == [0.0] * 3 and seen[0][2] is None
    with refuses(TransformError, "defjvps", "def_jvp"):
        f.defjvps(rule, None)


def make_vjp(seen=None, lib=vn):
    """sin(a) * b**power + shift, whose gradient in `a` is ten times too large."""

    @lib.filter_custom_vjp
    def f(tree, power, *, shift=0.0, tag=None):
        return {"y": jnp.sin(tree["a"]) * tree["b"] ** power + shift, "tag": tag}

    @f.def_fwd
    def fwd(perturbed, tree, power, *, shift=0.0, tag=None):
        if seen is not None:
            seen.append(("fwd", perturbed, tree, power, tag))
        out = f(tree, power, shift=shift, tag=tag)
        return out, {"cos": jnp.cos(tree["a"]), "rest": ["text", tag]}

    @f.def_bwd
    def bwd(residuals, grad, perturbed, tree, power, *, shift=0.0, tag=None):
        if seen is not None:
            seen.append(("bwd", perturbed, tree, power, tag, residuals, grad))
        slope = 10 * residuals["cos"] * tree["b"] ** power * grad["y"]
        return {"a": slope, "b": None, "n": None, "s": None}

    return f


def test_vjp_rules_get_and_give_trees():
    """The rules have the arguments as they were, flags, and residuals of any kind."""
    seen = []
    f = make_vjp(seen)
    assert f(TREE, 2, tag=opaque)["tag"] is opaque and seen == []
    grad = jax.grad(lambda a: f({**TREE, "a": a}, 2, tag=opaque)["y"].sum())(x)
    close(grad, TENFOLD)
    forward, backward = seen
    flags = {"a": True, "b": False, "n": False, "s": False}
    assert forward[0] == "fwd" and backward[0] == "bwd"
    for _, perturbed, tree, power, tag, *_ in seen:
        assert perturbed == flags and tree["s"] == "text" and power == 2
        assert tag is opaque and tree["n"].tolist() == [0, 1]
    residuals, grad = backward[5:]
    assert residuals["rest"] == ["text", opaque]
    assert grad["tag"] is None and grad["y"].tolist() == [1.0] * 3


def test_vjp_agrees_with_the_peer():
    """The same rules give the same values and gradients."""
    results = []
    for lib in (vn, eqx):
        f = make_vjp(lib=lib)
        g = lambda tree, f=f: (f(tree, 2, tag="t")["y"] * t).sum()  # noqa: E731
        results.append(lib.filter_value_and_grad(g)(TREE))
    assert vn.tree_equal(*results) is True


def test_vjp_agrees_with_jax():
    """On arrays it is `jax.custom_vjp`."""
    ours = vn.filter_custom_vjp(lambda ab: ab[0] * ab[1])
    ours.def_fwd(lambda perturbed, ab: (ours(ab), None))
    ours.def_bwd(lambda residuals, g, perturbed, ab: (2 * g, 3 * g * ab[0]))
    theirs = jax.custom_vjp(lambda ab: ab[0] * ab[1])
    theirs.defvjp(lambda ab: (theirs(ab), ab), lambda ab, g: ((2 * g, 3 * g * ab[0]),))
    grads = [jax.vjp(f, (x, t))[1](x) for f in (ours, theirs)]
    assert vn.tree_equal(*grads) is True


def test_vjp_zeros():
    """Results that nothing depends on have None as their gradient; None is zero."""
    seen = []
    f = vn.filter_custom_vjp(lambda ab, n: (ab[0], ab[1], jnp.arange(n), "text"))
    f.def_fwd(lambda perturbed, ab, n: (f(ab, n), None))

    @f.def_bwd
    def bwd(residuals, grad, perturbed, ab, n):
        seen.append((grad, perturbed))
        return (grad[0], None)

    grads = jax.grad(lambda ab: f(ab, 2)[0].sum())((x, t))
    close(grads[0], [1.0] * 3)
    close(grads[1], [0.0] * 3)
    (first, *others), perturbed = seen[0]
    assert first.tolist() == [1.0] * 3 and others == [None] * 3
    assert perturbed == (True, True)


def test_vjp_under_transformations():
    """The rules are used under jit, vmap, scan and checkpoint, and in any order."""
    f = make_vjp()

    def g(a, b=TREE["b"]):
        return f({**TREE, "a": a}, 2, shift=b, tag=opaque)["y"].sum()

    stacked = jnp.stack([x, x])
    grad = jax.grad(g)
    along = lambda a: jax.lax.scan(lambda c, b: (c, g(b)), 0, a)[1].sum()  # noqa: E731
    runs = [
        jax.jit(grad)(x, x),
        jax.grad(jax.jit(g))(x, x),
        jax.vmap(grad)(stacked, stacked)[1],
        jax.vmap(grad, (None, 0))(x, stacked)[1],
        jax.grad(lambda a: jax.vmap(g)(a).sum())(stacked)[1],
        jax.grad(along)(stacked)[0],
        jax.grad(jax.checkpoint(g))(x),
        jax.grad(lambda a: jax.lax.cond(True, g, g, a))(x),
        vn.filter_jacrev(g)(x),
    ]
    for got in runs:
        close(got, TENFOLD)


def test_vjp_second_derivatives():
    """Both rules are differentiated like other code."""
    f = make_vjp()
    g = lambda a: f({**TREE, "a": a}, 2)["y"].sum()  # noqa: E731
    second = jax.grad(lambda a: jax.grad(g)(a).sum())(x)
    # The cosine in the residuals is the true one, so its derivative is as well.
    close(second, -10 * jnp.sin(x) * TREE["b"] ** 2)


def test_vjp_other_arguments_are_fixed():
    """A derivative that the rules do not give is an error, not zero."""
    f = make_vjp()
    with refuses(TransformError, "filter_custom_vjp", "other arguments", "one tuple"):
        jax.grad(lambda s: f(TREE, 2, shift=s)["y"].sum())(x)
    stop = jax.lax.stop_gradient
    g = lambda a: f({**TREE, "a": a}, 2, shift=stop(a))["y"].sum()  # noqa: E731
    close(jax.grad(g)(x), TENFOLD)


def test_vjp_has_no_forward_mode():
    """JAX's own error about forward mode comes through."""
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda a: make_vjp()({**TREE, "a": a}, 2)["y"], (x,), (t,))


def test_vjp_gradient_that_does_not_fit():
    """The gradient must be one of the first argument."""
    f = vn.filter_custom_vjp(lambda tree: tree["a"] * 2)
    f.def_fwd(lambda perturbed, tree: (f(tree), None))
    for wrong in (x, {"a": x, "n": 1.0}, {"a": x[:2], "n": None}):
        f.def_bwd(lambda *args, wrong=wrong: wrong)
        with refuses(TransformError, "filter_custom_vjp, the gradient", "fit"):
            jax.grad(lambda a: f({"a": a, "n": 1}).sum())(x)


def test_vjp_one_rule_is_not_enough():
    """A forward rule without a backward one is reported when the function is called."""
    f = vn.filter_custom_vjp(lambda a: a)
    f.def_fwd(lambda perturbed, a: (a, None))
    with refuses(TransformError, "filter_custom_vjp", "def_bwd"):
        f(x)
    with refuses(TransformError, "def_bwd", "not callable"):
        f.def_bwd(None)


def test_vjp_old_name():
    """`defvjp` warns; its rules have no flags, and get zeros in place of None."""
    seen = []
    f = vn.filter_custom_vjp(lambda a, n: (a, a**2, n))

    def bwd(residuals, grad, a, n):
        seen.append(grad)
        return 3 * grad[0] + residuals * grad[1]

    with pytest.warns(DeprecationWarning, match="def_fwd"):
        f.defvjp(lambda a, n: (f(a, n), 2 * a), bwd)
    close(jax.grad(lambda a: f(a, 2)[0].sum())(x), [3.0] * 3)
    assert seen[0][1].tolist() == [0.0] * 3 and seen[0][2] is None
