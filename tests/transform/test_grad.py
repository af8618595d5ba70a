"""Gradients with respect to the floating arrays of any pytree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vernal as vn
from tests.strategies import Counted, Node, Scale, identical, refuses
from vernal.errors import TransformError

both = pytest.mark.parametrize("grad", [vn.filter_grad, vn.filter_value_and_grad])


def model():
    return {
        "w": jnp.array([1.0, 2.0]),
        "n": jnp.array(3),
        "np": np.array([1.0, 1.0], np.float32),
        "name": "text",
        "rate": 0.5,
        "key": jax.random.key(0),
        "fn": jnp.sin,
        "none": None,
        "node": Node(jnp.array(2.0), 1, "tag"),
    }


def loss(m, factor=1.0):
    return factor * (m["w"] ** 2 + m["np"]).sum() * m["node"].first * m["rate"]


def test_floating_arrays_are_differentiated():
    """The gradient has arrays for floating arrays, also NumPy's, and None elsewhere."""
    grads = vn.filter_grad(loss)(model())
    assert grads["w"].tolist() == [2.0, 4.0]
    assert grads["np"].tolist() == [1.0, 1.0]
    assert float(grads["node"].first) == 3.5
    others = ("n", "name", "rate", "key", "fn", "none")
    assert all(grads[name] is None for name in others)
    assert grads["node"].second is None


def test_the_gradient_has_the_structure_of_the_argument():
    """Modules stay Modules, with their static fields: updates can be applied."""
    m = model()
    grads = vn.filter_grad(loss)(m)
    filtered = vn.filter(m, vn.is_inexact_array)
    assert jax.tree.structure(grads) == jax.tree.structure(filtered)
    assert grads["node"].tag == "tag"
    new = vn.apply_updates(m, grads)
    assert new["w"].tolist() == [3.0, 6.0] and new["name"] == "text"


def test_it_agrees_with_jax():
    """On a tree of floating arrays it is `jax.grad`, to the last bit."""
    linear = vn.nn.Linear(3, 2, key=jax.random.key(0))

    def f(m, x):
        return jnp.tanh(m(x)).sum()

    x = jnp.array([0.1, 0.2, 0.3])
    assert identical_values(vn.filter_grad(f)(linear, x), jax.grad(f)(linear, x))
    ours, theirs = (
        vn.filter_value_and_grad(f)(linear, x),
        jax.value_and_grad(f)(linear, x),
    )
    assert identical_values(ours, theirs)


def identical_values(x, y):
    return bool(vn.tree_equal(x, y))


def test_complex_arrays():
    """Complex parameters are differentiated as JAX does it."""
    z = jnp.array(1.0 + 2.0j)
    f = lambda z: jnp.abs(z) ** 2  # noqa: E731
    assert identical_values(vn.filter_grad(f)(z), jax.grad(f)(z))


def test_value_and_grad():
    """The value comes first."""
    value, grads = vn.filter_value_and_grad(loss)(model())
    assert float(value) == 7.0 and grads["w"].tolist() == [2.0, 4.0]


def test_other_arguments_are_fixed():
    """Further arguments, by position or name, are passed on and not differentiated."""
    x = jnp.array(3.0)
    grads = vn.filter_grad(lambda a, b, *, c: a * b * c)(x, jnp.array(2.0), c=4.0)
    assert float(grads) == 8.0
    assert vn.filter_grad(loss)(model(), factor=2.0)["w"].tolist() == [4.0, 8.0]
    assert vn.filter_grad(loss)(model(), 2.0)["w"].tolist() == [4.0, 8.0]


def test_aux_may_be_anything():
    """With `has_aux` the second result comes back as it is, whatever is in it."""
    marker = object()

    def f(x):
        return x**2, {"a": x + 1, "s": "text", "o": marker, "n": None, "np": np.ones(2)}

    grads, aux = vn.filter_grad(f, has_aux=True)(jnp.array(3.0))
    (value, same), also = vn.filter_value_and_grad(f, has_aux=True)(jnp.array(3.0))
    assert float(grads) == float(also) == 6.0 and float(value) == 9.0
    for out in (aux, same):
        assert float(out["a"]) == 4.0 and out["s"] == "text" and out["o"] is marker
        assert out["n"] is None and out["np"].tolist() == [1.0, 1.0]
        assert not isinstance(out["a"], jax.core.Tracer)


def test_aux_under_jit():
    """Under jit, static parts of the aux are static, and arrays are outputs."""

    @vn.filter_jit
    def step(x):
        return vn.filter_grad(lambda x: (x**2, (x, "text", len)), has_aux=True)(x)

    grads, (x, text, fn) = step(jnp.array(3.0))
    assert (float(grads), float(x), text, fn) == (6.0, 3.0, "text", len)


def test_nothing_to_differentiate():
    """An argument without floating arrays gives None everywhere."""
    grads = vn.filter_grad(lambda m: 1.0)({"a": 1, "b": jnp.arange(2)})
    assert grads == {"a": None, "b": None}


def test_modules_and_methods_as_functions():
    """A Module or bound method can be the function; its own arrays are fixed."""
    assert float(vn.filter_grad(Scale(jnp.array(3.0)))(jnp.array(2.0))) == 3.0

    class M(vn.Module):
        w: object

        def loss(self, x):
            return self.w * x

    assert float(vn.filter_grad(M(jnp.array(3.0)).loss)(jnp.array(2.0))) == 3.0


def test_several_arguments_as_a_tuple():
    """What is to be differentiated goes into one tuple, as the docstring says."""
    grads = vn.filter_grad(lambda ab: ab[0] * ab[1])((jnp.array(2.0), jnp.array(3.0)))
    assert [float(g) for g in grads] == [3.0, 2.0]


def test_second_derivatives():
    """Gradients nest."""
    cube = vn.filter_grad(vn.filter_grad(lambda x: x**3))
    assert float(cube(jnp.array(2.0))) == 12.0


def test_options_reach_jax():
    """`holomorphic` is passed on."""
    f = vn.filter_grad(lambda z: z**2, holomorphic=True)
    assert complex(f(jnp.array(1.0 + 1.0j))) == 2.0 + 2.0j


def test_the_function_runs_once():
    """One gradient, with value and aux, runs the function one time."""
    f = Counted(lambda x: (x**2, "aux"))
    vn.filter_value_and_grad(f, has_aux=True)(jnp.array(3.0))
    vn.filter_grad(f, has_aux=True)(jnp.array(3.0))
    assert f.calls == 2


@both
def test_argnums_is_refused(grad):
    """`argnums` is refused with the way to do it, also as a decorator."""
    with refuses(TransformError, grad.__name__, "argnums=1", "one tuple"):
        grad(loss, argnums=1)
    with refuses(TransformError, "argnums"):
        grad(argnums=(0, 1))


@both
def test_errors_of_the_function(grad):
    """What the function raises comes through as it is."""

    def f(x):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        grad(f)(jnp.ones(()))


def test_the_argument_is_not_changed():
    """The tree that is differentiated keeps its leaves."""
    m = model()
    before = dict(m)
    vn.filter_grad(loss)(m)
    assert identical(m, before)


@pytest.mark.parametrize("transform", [vn.filter_grad, vn.filter_value_and_grad])
def test_the_result_must_be_a_scalar(transform):
    """Another shape, a forgotten has_aux, and one too many, are each explained."""
    x = jnp.ones(3)
    with refuses(TransformError, "scalar", "f32[3]", "sum or mean"):
        transform(lambda x: 2 * x)(x)
    with refuses(TransformError, "shape ()", "(f32[], 'aux')", "has_aux=True"):
        transform(lambda x: (x.sum(), "aux"))(x)
    for wrong in (lambda x: x.sum(), lambda x: (x, 1), lambda x: [x.sum(), 1]):
        with refuses(TransformError, "(value, aux)"):
            transform(wrong, has_aux=True)(x)
