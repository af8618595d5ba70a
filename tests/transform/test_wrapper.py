"""What all transformed functions have in common."""

import copy
import inspect
import pickle

import jax
import jax.numpy as jnp
import pytest

import vernal as vn
from tests.strategies import Scale

WRAPPERS = {
    "filter_jit": vn.filter_jit,
    "filter_grad": vn.filter_grad,
    "filter_value_and_grad": vn.filter_value_and_grad,
    "filter_vmap": vn.filter_vmap,
    "filter_make_jaxpr": vn.filter_make_jaxpr,
}
each_wrapper = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
with_options = pytest.mark.parametrize(
    "wrap", [vn.filter_jit, vn.filter_grad, vn.filter_value_and_grad, vn.filter_vmap]
)


def square(x, scale: float = 1.0):
    """Squares."""
    return scale * x**2


@each_wrapper
def test_names(wrap):
    """A transformed function has the name, docstring and module of the function."""
    wrapped = wrap(square)
    assert wrapped.__name__ == "square" and wrapped.__doc__ == "Squares."
    assert wrapped.__module__ == square.__module__
    assert wrapped.__qualname__ == square.__qualname__
    assert wrapped.__wrapped__ is square


@each_wrapper
def test_signature(wrap):
    """It has the signature of the function, for help and editors."""
    assert inspect.signature(wrap(square)) == inspect.signature(square)


@each_wrapper
def test_a_function_adds_no_leaves(wrap):
    """Around a plain function it is only metadata; a Module keeps its leaves."""
    assert jax.tree.leaves(wrap(square)) == []
    assert jax.tree.leaves(wrap(Scale(2.0)))[0] == 2.0


@each_wrapper
def test_it_can_be_copied(wrap):
    """Copying it, or mapping over it, gives a function that works alike."""
    wrapped, x = wrap(total), jnp.array([[3.0]])
    expected = jax.tree.map(str, wrapped(x))
    copied = copy.copy(wrapped), copy.deepcopy(wrapped)
    for other in (*copied, jax.tree.map(lambda x: x, wrapped)):
        assert jax.tree.map(str, other(x)) == expected


def total(x):
    return (x**2).sum()


def triple(x):
    return 3 * x


def test_pickle():
    """A transformed function of a module-level function can be pickled before use."""
    jitted = pickle.loads(pickle.dumps(vn.filter_jit(triple)))
    assert float(jitted(jnp.array(2.0))) == 6.0


def test_pickle_after_use():
    """What was compiled is left out of the pickle."""
    jitted = vn.filter_jit(triple)
    jitted(jnp.array(2.0))
    assert float(pickle.loads(pickle.dumps(jitted))(jnp.array(2.0))) == 6.0


def test_repr_is_short():
    """A transformed function prints as one, not as what it has compiled."""
    jitted = vn.filter_jit(square)
    jitted(jnp.array(2.0))
    assert "square" in repr(jitted) and "object at 0x" not in repr(jitted)


class Model(vn.Module):
    weight: object

    @vn.filter_jit
    def jitted(self, x):
        assert isinstance(self.weight, jax.core.Tracer)
        return self.weight * x

    @vn.filter_grad
    def loss(self, x):
        return self.weight * x

    @vn.filter_value_and_grad(has_aux=True)
    def loss_with_aux(self, x):
        return self.weight * x, "aux"

    @vn.filter_vmap(in_axes=(None, 0))
    def each(self, x):
        return self.weight * x

    @classmethod
    @vn.filter_jit
    def make(cls, weight):
        return cls(weight)

    @staticmethod
    @vn.filter_jit
    def add(a, b):
        return a + b


def test_as_decorators_of_methods():
    """In a class body they make methods, whose first argument is the instance."""
    model = Model(jnp.array(2.0))
    assert float(model.jitted(3.0)) == 6.0
    assert float(model.loss(3.0).weight) == 3.0
    (value, aux), grads = model.loss_with_aux(3.0)
    assert (float(value), aux, float(grads.weight)) == (6.0, "aux", 3.0)
    assert model.each(jnp.arange(3.0)).tolist() == [0.0, 2.0, 4.0]


def test_as_decorators_of_class_and_static_methods():
    """They go under `classmethod` and `staticmethod`, on the class and an instance."""
    made = Model.make(jnp.array(1.0))
    assert type(made) is Model and float(made.weight) == 1.0
    assert float(made.make(jnp.array(5.0)).weight) == 5.0
    assert float(Model.add(jnp.array(1.0), 2.0)) == 3.0 == float(made.add(1.0, 2.0))


def test_a_decorated_method_is_a_pytree():
    """Accessed on an instance, it holds the instance, like any method."""
    method = Model(jnp.array(2.0)).jitted
    assert jax.tree.leaves(method) == [2.0]
    doubled = jax.tree.map(lambda x: 2 * x, method)
    assert float(doubled(3.0)) == 12.0


def test_a_decorated_method_on_the_class():
    """Accessed on the class, it takes the instance as its first argument."""
    assert float(Model.jitted(Model(jnp.array(2.0)), 3.0)) == 6.0


def test_a_decorated_method_of_another_class():
    """A class that is no Module may have such methods; its instances are static."""

    class Plain:
        @vn.filter_jit
        def run(self, x):
            return (self, x + 1)

    plain = Plain()
    out = plain.run(jnp.array(1.0))
    assert out[0] is plain and float(out[1]) == 2.0


@with_options
def test_with_and_without_brackets(wrap):
    """As a decorator each one is written bare, or with options in brackets."""

    @wrap()
    def brackets(x):
        return total(x)

    x = jnp.array([[3.0]])
    assert jax.tree.map(str, brackets(x)) == jax.tree.map(str, wrap(total)(x))
    assert brackets.__name__ == "brackets"


def test_nested():
    """Transformed functions can be transformed, in any order."""
    x = jnp.arange(3.0)
    fns = [
        vn.filter_jit(vn.filter_vmap(vn.filter_grad(square))),
        vn.filter_vmap(vn.filter_jit(vn.filter_grad(square))),
        vn.filter_vmap(vn.filter_grad(vn.filter_jit(square))),
        jax.jit(jax.vmap(vn.filter_grad(square))),
        vn.filter_jit(jax.vmap(jax.grad(square))),
    ]
    for fn in fns:
        assert fn(x).tolist() == [0.0, 2.0, 4.0]
