"""Callables that are pytrees: partial applications and wrappers."""

import copy
import functools
import pickle

import jax
import jax.numpy as jnp

import vernal as vn
from tests.strategies import Scale, identical, refuses
from vernal.errors import ModuleError


def collect(*args, **kwargs):
    """Collects its arguments."""
    return args, kwargs


def test_partial_is_functools_partial():
    """Stored and passed arguments are joined as `functools.partial` joins them."""
    ours = vn.Partial(collect, 1, 2, a=3, b=4)
    theirs = functools.partial(collect, 1, 2, a=3, b=4)
    assert ours() == theirs()
    assert (
        ours(5, b=6, c=7)
        == theirs(5, b=6, c=7)
        == ((1, 2, 5), {"a": 3, "b": 6, "c": 7})
    )


def test_the_parts_of_a_partial():
    """`func`, `args` and `keywords` are named as in functools."""
    partial = vn.Partial(collect, 1, k=2)
    assert (partial.func, partial.args, partial.keywords) == (collect, (1,), {"k": 2})


def test_a_partial_may_fill_in_anything_by_name():
    """Keywords called `func` or `self` reach the function."""
    assert vn.Partial(collect, self=1, func=2)() == ((), {"self": 1, "func": 2})
    assert vn.Partial(collect)(self=1) == ((), {"self": 1})


def test_the_leaves_of_a_partial():
    """Filled-in arguments are leaves; a plain function is static, a Module is not."""
    assert jax.tree.leaves(vn.Partial(collect, 1, [2], k={"x": 3})) == [1, 2, 3]
    assert jax.tree.leaves(vn.Partial(Scale(1), 2)) == [1, 2]
    out = jax.tree.map(lambda x: x + 1, vn.Partial(Scale(1), x=2))
    assert out.func.factor == 2 and out.keywords == {"x": 3}


def test_a_partial_under_jit():
    """A Partial is traced as an argument and can be the function itself."""
    partial = vn.Partial(jnp.multiply, jnp.arange(3.0))
    assert jax.jit(lambda p, x: p(x))(partial, 2.0).tolist() == [0.0, 2.0, 4.0]
    assert jax.jit(partial)(2.0).tolist() == [0.0, 2.0, 4.0]
    assert vn.filter_jit(partial)(2.0).tolist() == [0.0, 2.0, 4.0]


def test_a_partial_under_grad_and_vmap():
    """Gradients reach what is filled in; `vmap` maps what is passed."""
    partial = vn.Partial(jnp.multiply, jnp.array(3.0))
    grads = jax.grad(lambda p: p(2.0))(partial)
    assert float(grads.args[0]) == 2.0
    assert jax.vmap(partial)(jnp.arange(3.0)).tolist() == [0.0, 3.0, 6.0]


def test_a_partial_is_a_value():
    """Partials are equal by function and arguments, and pickle and copy as such."""
    one, two = (vn.Partial(collect, jnp.ones(2), k=k) for k in (1, 2))
    assert one == vn.Partial(collect, jnp.ones(2), k=1) != two
    assert pickle.loads(pickle.dumps(one)) == one == copy.deepcopy(one)
    assert repr(vn.Partial(collect, 1)).startswith("Partial(")


class Wrapper(vn.Module):
    """Says something of its own."""

    fn: object = vn.field(static="if_function")

    @property
    def __wrapped__(self):
        return self.fn

    def __call__(self, *args):
        return self.fn(*args)


def test_update_wrapper_takes_over_the_names():
    """Name, qualified name, docstring and module are those of the function."""
    wrapper = vn.module_update_wrapper(Wrapper(collect))
    names = ("__name__", "__qualname__", "__doc__", "__module__")
    for name in names:
        assert getattr(wrapper, name) == getattr(collect, name)
    assert wrapper(1) == ((1,), {})


def test_update_wrapper_returns_its_argument():
    """It changes and returns the very wrapper; other instances keep their names."""
    wrapper = Wrapper(collect)
    assert vn.module_update_wrapper(wrapper) is wrapper
    assert Wrapper(collect).__name__ == "Wrapper"
    assert Wrapper.__doc__ == "Says something of its own."


def test_the_names_stay_through_flattening():
    """Mapped over and passed through jit, the wrapper keeps the function's names."""
    wrapper = vn.module_update_wrapper(Wrapper(collect))
    for out in (jax.tree.map(lambda x: x, wrapper), jax.jit(lambda w: w)(wrapper)):
        assert out.__name__ == "collect" and out.__doc__ == "Collects its arguments."
    assert identical(jax.tree.map(lambda x: x, wrapper), wrapper)


def test_update_wrapper_with_another_function():
    """The second argument gives the names where the wrapped object is another."""
    wrapper = vn.module_update_wrapper(Wrapper(Scale(1.0)), collect)
    assert wrapper.__name__ == "collect" and wrapper(2.0) == 2.0


def test_update_wrapper_of_a_field():
    """`__wrapped__` may be a field."""

    class Field(vn.Module):
        __wrapped__: object = vn.field(static=True)

    assert vn.module_update_wrapper(Field(collect)).__name__ == "collect"


def test_update_wrapper_of_something_without_names():
    """A function that lacks a name or docstring leaves the wrapper's own."""
    wrapper = vn.module_update_wrapper(Wrapper(functools.partial(collect)))
    assert wrapper.__name__ == "Wrapper"


def test_update_wrapper_without_wrapped():
    """A class without `__wrapped__` is told to have one."""
    with refuses(ModuleError, "Scale has no `__wrapped__`", "property"):
        vn.module_update_wrapper(Scale(1), collect)


def test_update_wrapper_pickles():
    """The names survive pickling and copying."""
    wrapper = vn.module_update_wrapper(Wrapper(collect))
    for out in (pickle.loads(pickle.dumps(wrapper)), copy.deepcopy(wrapper)):
        assert out.__name__ == "collect" and out == wrapper
