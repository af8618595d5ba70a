"""``field``: what a Module attribute is to JAX."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vernal as vn
from tests.strategies import Counted, Scale, refuses
from vernal.errors import ModuleError


class Static(vn.Module):
    value: object = vn.field(static=True)
    x: object = 1


class Either(vn.Module):
    fn: object = vn.field(static="if_function")


def test_an_unmarked_field_is_a_child():
    """A field without `vn.field`, or with a bare one, is part of the pytree."""

    class M(vn.Module):
        a: object
        b: object = vn.field()
        c: object = vn.field(static=False, default=3)

    assert jax.tree.leaves(M([1], {"k": 2})) == [1, 2, 3]


def test_a_static_field_is_metadata():
    """A static value is in the treedef: equal values, equal treedefs."""
    assert jax.tree.leaves(Static("a")) == [1]
    structures = [jax.tree.structure(Static(v)) for v in ("a", "a", "b")]
    assert structures[0] == structures[1] != structures[2]
    assert hash(structures[0]) == hash(structures[1])


@pytest.mark.parametrize("fn", [jnp.sin, len, dict, lambda x: x, jax.jit(jnp.cos)])
def test_a_plain_function_is_metadata(fn):
    """With "if_function", whatever is callable and holds no arrays is static."""
    assert jax.tree.leaves(Either(fn)) == []
    assert jax.tree.structure(Either(fn)) == jax.tree.structure(Either(fn))
    out = jax.jit(lambda m: m)(Either(fn))
    assert out.fn is fn


@pytest.mark.parametrize(
    "fn", [Scale(2.0), vn.Partial(jnp.add, 2.0), jax.tree_util.Partial(jnp.add, 2.0)]
)
def test_a_function_with_arrays_is_a_child(fn):
    """With "if_function", a callable pytree keeps its leaves."""
    assert jax.tree.leaves(Either(fn)) == [2.0]
    out = jax.tree.map(lambda x: x + 1, Either(fn))
    assert jax.tree.leaves(out) == [3.0] and type(out.fn) is type(fn)


@pytest.mark.parametrize("value", [None, 3, [1, 2]])
def test_what_is_no_function_is_a_child(value):
    """With "if_function", other values are ordinary children."""
    either = Either(value)
    assert jax.tree.leaves(either) == jax.tree.leaves(value)
    assert jax.tree.map(lambda x: x, either).fn == value


def test_defaults():
    """`default` and `default_factory` fill what was not passed, anew each time."""

    class M(vn.Module):
        a: int
        b: int = 2
        c: int = vn.field(default=3, static=True)
        d: list = vn.field(default_factory=list)

    first, second = M(1), M(1)
    assert (first.a, first.b, first.c, first.d) == (1, 2, 3, [])
    assert first.d is not second.d
    assert M(1, 5, d=[6]).d == [6]


def test_defaults_with_an_own_init():
    """Where `__init__` does not assign a field, its default is used."""

    class M(vn.Module):
        a: int
        b: int = 2
        c: int = vn.field(default="3", converter=int)

        def __init__(self):
            self.a = 1

    assert (M().a, M().b, M().c) == (1, 2, 3)
    assert jax.tree.leaves(M()) == [1, 2, 3]


def test_default_factory_with_an_own_init():
    """A `default_factory` counts as a default there too."""

    class M(vn.Module):
        a: list = vn.field(default_factory=list)

        def __init__(self):
            pass

    assert M().a == []


def test_keyword_only_fields():
    """`kw_only` and `KW_ONLY` work as in dataclasses."""

    class M(vn.Module):
        a: int = vn.field(default=1, kw_only=True)
        b: int
        _: dataclasses.KW_ONLY
        c: int = 3

    assert jax.tree.leaves(M(2, c=4)) == [1, 2, 4]
    with pytest.raises(TypeError, match="positional"):
        M(2, 4)


def test_fields_out_of_init():
    """A field with `init=False` is no argument, and `__post_init__` may assign it."""

    class M(vn.Module):
        a: int
        b: int = vn.field(init=False)

        def __post_init__(self):
            self.b = self.a + 1

    assert M(1).b == 2
    with pytest.raises(TypeError, match="argument"):
        M(1, 2)


def test_fields_out_of_the_repr():
    """A field with `repr=False` is not printed."""

    class M(vn.Module):
        a: int
        b: int = vn.field(default=2, repr=False)

    assert repr(M(1)).endswith("M(a=1)")


def test_dataclasses_see_the_fields():
    """`dataclasses.fields` lists them, with their own metadata kept."""

    class M(vn.Module):
        a: int = vn.field(metadata={"unit": "m"}, static=True)

    (info,) = dataclasses.fields(M)
    assert (info.name, info.metadata["unit"]) == ("a", "m")
    assert dataclasses.is_dataclass(M)


def test_metadata_may_be_none():
    """As for `dataclasses.field`, no metadata may be given as None."""

    class M(vn.Module):
        a: int = vn.field(metadata=None)

    assert M(1).a == 1


def test_converters():
    """A converter sees each value that is assigned, defaults included."""
    convert = Counted(lambda x: jnp.asarray(x, jnp.float16))

    class M(vn.Module):
        a: jax.Array = vn.field(converter=convert)
        b: jax.Array = vn.field(converter=convert, default=2)

    m = M(1)
    assert (m.a.dtype, m.b.dtype) == (jnp.float16, jnp.float16)
    assert convert.calls == 2
    jax.tree.map(lambda x: x, m)
    vn.tree_at(lambda m: m.a, m, 3)
    assert convert.calls == 2


def test_converters_with_an_own_init():
    """A converter runs on assignment in `__init__`, at once, and in subclasses."""

    class M(vn.Module):
        a: tuple = vn.field(converter=tuple, static=True)

        def __init__(self, a):
            self.a = a
            assert type(self.a) is tuple

    class N(M):
        b: int

        def __init__(self):
            super().__init__([1, 2])
            self.b = 3

    assert M([1]).a == (1,)
    assert N().a == (1, 2)


def test_a_converter_that_fails():
    """The error of a converter comes through as it is."""

    class M(vn.Module):
        a: int = vn.field(converter=int)

    with pytest.raises(ValueError, match="invalid literal"):
        M("x")


@pytest.mark.parametrize("static", ["yes", None, 2, "if_Function"])
def test_an_unknown_kind(static):
    """`static` is one of three values; others are refused and shown."""
    with refuses(ModuleError, "field:", '"if_function"', repr(static)):
        vn.field(static=static)


@pytest.mark.parametrize("static", [1, np.True_])
def test_a_true_that_is_not_true(static):
    """What equals True is taken as True or refused, but never as False."""
    try:
        field = vn.field(static=static)
    except ModuleError:
        return

    class M(vn.Module):
        a: object = field

    assert jax.tree.leaves(M("x")) == []


@pytest.mark.parametrize("key", ["static", "converter"])
def test_taken_metadata(key):
    """Our own metadata keys cannot be passed as metadata."""
    with refuses(ModuleError, "metadata", key):
        vn.field(metadata={key: 1})


@pytest.mark.parametrize("array", [jnp.ones(2), np.ones(2)], ids=["jax", "numpy"])
def test_an_array_in_a_static_field_warns(array):
    """The warning names the field, says what to do, and points to the assignment."""

    class M(vn.Module):
        a: object = vn.field(static=True)

        def __init__(self, a):
            self.a = a

    with pytest.warns(UserWarning) as caught:
        M(array)
    (warning,) = caught
    text = str(warning.message)
    assert "M.a: an array was assigned to a static field" in text
    assert "drop `static=True`" in text and len(text.splitlines()) <= 6
    assert warning.filename == __file__
    assert warning.lineno == M.__init__.__code__.co_firstlineno + 1


def test_a_traced_array_in_a_static_field_warns():
    """A tracer would leak out of its trace, so it warns too."""
    with pytest.warns(UserWarning, match="static field"):
        jax.jit(lambda x: Static(x).x)(jnp.ones(2))


def test_other_static_values_do_not_warn():
    """Numbers, names, functions, tuples and Modules without arrays are fine."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for value in (1, "a", None, jnp.sin, (1, 2), vn.nn.Identity()):
            Static(value)
        Static(1, jnp.ones(2))
