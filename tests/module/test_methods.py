"""Methods of Modules: accessed on an instance, they are pytrees that hold it."""

import abc
import functools
import inspect
import pickle

import jax
import jax.numpy as jnp
import pytest

import vernal as vn
from tests.strategies import Counted, Scale, identical
from vernal._module.module import BoundMethod


class Affine(vn.Module):
    weight: object
    name: object = vn.field(static=True, default="affine")

    def apply(self, x, y=0.0):
        """Multiplies and adds."""
        return self.weight * x + y

    def __call__(self, x):
        return self.apply(x)


class Shifted(Affine):
    def apply(self, x, y=0.0):
        return super().apply(x, y) + 1.0


def test_a_bound_method_is_called_like_one():
    """It gets its instance first, and all arguments that are passed."""
    assert Affine(2.0).apply(3.0) == 6.0
    assert Affine(2.0).apply(3.0, y=1.0) == 7.0
    assert Affine.apply(Affine(2.0), 3.0) == 6.0


def test_a_bound_method_is_a_pytree():
    """Its leaves are those of its instance, and mapping over it maps those."""
    method = Affine(2.0).apply
    assert jax.tree.leaves(method) == [2.0]
    doubled = jax.tree.map(lambda x: 2 * x, method)
    assert doubled(3.0) == 12.0 and type(doubled) is BoundMethod
    assert jax.tree.structure(method) == jax.tree.structure(Affine(5.0).apply)


def test_the_parts_of_a_bound_method():
    """`__self__`, `__func__`, `__name__` and the signature are as Python's."""
    affine = Affine(2.0)
    method = affine.apply
    assert method.__self__ is affine and method.__func__ is Affine.apply
    assert method.__name__ == "apply"
    assert str(inspect.signature(method)) == "(x, y=0.0)"


def test_the_rest_of_a_bound_method():
    """Its docstring is that of the function."""
    method = Affine(2.0).apply
    assert method.__doc__ == "Multiplies and adds."
    assert inspect.getdoc(method) == "Multiplies and adds."


def test_equality_and_hash():
    """Methods are equal by function and instance, as values."""
    ones, same, other = (Affine(jnp.full(2, k)) for k in (1.0, 1.0, 2.0))
    assert ones.apply == same.apply != other.apply
    assert hash(ones.apply) == hash(same.apply)
    assert ones.apply != Shifted(ones.weight).apply
    assert Affine.apply is Affine.apply


def test_pickle():
    """A method comes back from a pickle with its instance."""
    method = Affine(jnp.ones(2)).apply
    back = pickle.loads(pickle.dumps(method))
    assert back == method and back(3.0).tolist() == [3.0, 3.0]


def test_super():
    """`super()` reaches the base's method, which is a pytree too."""

    class Deeper(Shifted):
        def base(self):
            return super().apply

    assert Shifted(2.0).apply(3.0) == 7.0 and Shifted(2.0)(3.0) == 7.0
    assert jax.tree.leaves(Deeper(2.0).base()) == [2.0]
    assert Deeper(2.0).base()(3.0) == 7.0


def test_a_method_is_frozen():
    """A bound method is immutable as any Module."""
    with pytest.raises(AttributeError):
        Affine(2.0).apply.__self__ = 3


def test_under_jit():
    """`jax.jit` and `filter_jit` take a method; `filter_jit` traces its instance."""
    affine = Affine(jnp.ones(2))
    assert jax.jit(affine.apply)(3.0).tolist() == [3.0, 3.0]
    traces = Counted(lambda method, x: method(x))
    jitted = vn.filter_jit(traces)
    for weight in (1.0, 2.0, 3.0):
        out = jitted(Affine(jnp.full(2, weight)).apply, jnp.ones(2))
        assert out.tolist() == [weight, weight]
    assert traces.calls == 1


def test_a_method_as_the_jitted_function():
    """The instance of a jitted method is traced, not a constant."""
    seen = []

    class M(vn.Module):
        w: object

        def run(self, x):
            seen.append(self.w)
            return self.w * x

    out = vn.filter_jit(M(jnp.ones(2)).run)(jnp.ones(2))
    assert isinstance(seen[0], jax.core.Tracer) and out.tolist() == [1.0, 1.0]


def test_through_jit_and_back():
    """A method can be passed into and returned from a jitted function."""
    out = jax.jit(lambda method: method)(Affine(jnp.ones(2)).apply)
    assert type(out) is BoundMethod and out(2.0).tolist() == [2.0, 2.0]


def test_under_grad():
    """The gradient with respect to a method is that with respect to its instance."""
    method = Affine(jnp.array(2.0)).apply
    grads = jax.grad(lambda m: m(3.0))(method)
    assert float(grads.__self__.weight) == 3.0
    grads = vn.filter_grad(lambda m, x: m(x))(method, 4.0)
    assert float(grads.__self__.weight) == 4.0 and type(grads) is BoundMethod


def test_under_vmap():
    """A method is vmapped like a function, and mapped over like a model."""
    assert jax.vmap(Affine(2.0).apply)(jnp.arange(3.0)).tolist() == [0.0, 2.0, 4.0]
    methods = Affine(jnp.arange(3.0)).apply
    out = vn.filter_vmap(lambda m, x: m(x), in_axes=(0, None))(methods, 2.0)
    assert out.tolist() == [0.0, 2.0, 4.0]


def test_inside_scan_and_cond():
    """JAX's control flow takes methods as functions."""

    class Step(vn.Module):
        rate: object

        def advance(self, carry, x):
            return carry + self.rate * x, carry

        def stay(self, carry, x):
            return carry, carry

    step = Step(jnp.array(2.0))
    total, _ = jax.lax.scan(step.advance, 0.0, jnp.arange(4.0))
    assert float(total) == 12.0
    out = jax.lax.cond(True, step.advance, step.stay, 1.0, 1.0)
    assert [float(x) for x in out] == [3.0, 1.0]


def test_methods_stored_in_another_module():
    """A method of another Module may be a field, and brings its leaves along."""
    holder = Scale(Affine(jnp.ones(2)).apply)
    assert len(jax.tree.leaves(holder)) == 1
    out = vn.tree_at(lambda m: m.factor.__self__.weight, holder, jnp.zeros(2))
    assert out.factor(1.0).tolist() == [0.0, 0.0]


def test_decorated_methods():
    """A method wrapped by `functools.wraps` is bound as usual, and keeps its name."""

    def loud(fn):
        @functools.wraps(fn)
        def wrapper(*args):
            return ("loud", fn(*args))

        return wrapper

    class M(vn.Module):
        w: object

        @loud
        def run(self, x):
            return self.w + x

    assert M(1).run(2) == ("loud", 3)
    assert M(1).run.__name__ == "run" and jax.tree.leaves(M(1).run) == [1]


def test_methods_jitted_by_jax():
    """`@jax.jit` in a class body takes self as a pytree."""
    traces = Counted(lambda: None)

    class M(vn.Module):
        w: object

        @jax.jit
        def run(self, x):
            traces()
            return self.w + x

    for w in (1.0, 2.0):
        assert float(M(jnp.array(w)).run(2.0)) == w + 2.0
    assert traces.calls == 1


def test_dunder_methods_are_pythons():
    """Special methods stay ordinary functions, as Python looks them up itself."""

    class M(vn.Module):
        w: object

        def __add__(self, other):
            return self.w + other

        def __len__(self):
            return 3

        def __getitem__(self, i):
            return (self.w, i)

    m = M(1)
    assert (m + 2, len(m), m[5]) == (3, 3, (1, 5))


def test_abstract_methods_stay_abstract():
    """The descriptor does not hide that a method is abstract."""

    class M(vn.Module):
        @abc.abstractmethod
        def run(self): ...

    assert M.__dict__["run"].__isabstractmethod__
    assert not Affine.__dict__["apply"].__isabstractmethod__


def test_a_method_of_the_class_is_the_function():
    """Accessed on the class, a method is the plain function, with its docstring."""
    assert inspect.isfunction(Affine.apply)
    assert Affine.apply.__doc__ == "Multiplies and adds."
    assert inspect.getsource(Affine.apply).lstrip().startswith("def apply")


def test_each_access_is_equal():
    """Two accesses give equal methods of the very same instance."""
    affine = Affine(jnp.ones(2))
    assert identical(affine.apply, affine.apply)
    assert affine.apply.__self__ is affine
