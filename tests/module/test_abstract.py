"""Attributes that a class promises and its subclasses must provide."""

import abc

import pytest

import vernal as vn
from tests.strategies import refuses
from vernal.errors import ModuleError

FUTURE = """
from __future__ import annotations
import vernal
import vernal as vn
from vernal import AbstractVar, AbstractClassVar

class A(vn.Module):
    a: AbstractVar[int]
    b: vn.AbstractClassVar[int]
    c: vernal.AbstractVar
    d: int
"""


class AbstractNorm(vn.Module):
    eps: vn.AbstractVar[float]


def test_an_abstract_class_has_no_instances():
    """A class with abstract attributes names them when instantiated."""
    words = ("cannot instantiate AbstractNorm", "eps", "subclass")
    with refuses(ModuleError, *words):
        AbstractNorm()


def test_all_that_is_missing_is_named():
    """Every abstract attribute is listed, those of base classes too."""

    class AbstractMore(AbstractNorm):
        beta: vn.AbstractVar[float]
        dims: vn.AbstractClassVar[int]

    with refuses(ModuleError, "beta, dims, eps"):
        AbstractMore()


def test_an_abstract_attribute_is_no_field():
    """It is no argument of `__init__`, and takes no place before the real fields."""

    class Norm(AbstractNorm):
        size: int
        eps: float = 1e-5

    assert (Norm(3).size, Norm(3).eps) == (3, 1e-5)
    assert list(AbstractNorm.__fields__) == []


def test_provided_by_a_field():
    """A field of any kind provides an abstract attribute, whatever its default."""

    class A(AbstractNorm):
        eps: object = None

    class B(AbstractNorm):
        eps: object = vn.field(static=True)

    class C(AbstractNorm):
        eps: object

        def __init__(self):
            self.eps = 3

    assert (A().eps, B(2).eps, C().eps) == (None, 2, 3)


def test_provided_by_a_property():
    """A property provides an abstract attribute."""

    class A(AbstractNorm):
        @property
        def eps(self):
            return 5

    assert A().eps == 5


def test_provided_by_a_class_attribute():
    """A plain class attribute provides both kinds."""

    class Both(vn.Module):
        a: vn.AbstractVar[int]
        b: vn.AbstractClassVar[int]

    class Concrete(Both):
        a = 1
        b = 2

    assert (Concrete().a, Concrete().b, Concrete.b) == (1, 2, 2)


def test_provided_by_none():
    """None is a value like any other."""

    class Base(vn.Module):
        a: vn.AbstractClassVar[object]

    class Concrete(Base):
        a = None

    assert Concrete().a is None


def test_a_field_is_no_class_attribute():
    """An AbstractClassVar is not provided by a field without a default."""

    class Base(vn.Module):
        a: vn.AbstractClassVar[int]

    class Derived(Base):
        a: int

    with refuses(ModuleError, "abstract attributes", "a"):
        Derived(1)


def test_an_abstract_property_does_not_provide():
    """What is itself abstract provides nothing."""

    class A(AbstractNorm):
        @property
        @abc.abstractmethod
        def eps(self): ...

    with pytest.raises(TypeError, match="eps"):
        A()


def test_provided_further_down():
    """A subclass of a class that is still abstract may provide the rest."""

    class Two(vn.Module):
        a: vn.AbstractVar[int]
        b: vn.AbstractVar[int]

    class One(Two):
        a: int = 1

    class Zero(One):
        b: int = 2

    with refuses(ModuleError, "cannot instantiate One", "b"):
        One()
    assert (Zero().a, Zero().b) == (1, 2)


def test_provided_by_another_base():
    """With several bases, one may promise and another provide."""

    class Eps(vn.Module):
        eps: float = 2.0

    class First(AbstractNorm, Eps):
        pass

    class Second(Eps, AbstractNorm):
        pass

    assert First().eps == Second().eps == 2.0


def test_abstract_again():
    """A subclass may make an attribute abstract again."""

    class A(AbstractNorm):
        eps: float

    class B(A):
        eps: vn.AbstractVar[float]

    assert A(1.0).eps == 1.0
    with refuses(ModuleError, "cannot instantiate B"):
        B(1.0)


def test_string_annotations():
    """Annotations that are strings are understood, by any common spelling."""
    names = {"__name__": __name__}
    exec(FUTURE, names)
    with refuses(ModuleError, "provides: a, b, c"):
        names["A"](1)
    assert list(names["A"].__fields__) == ["d"]


def test_other_strings_are_fields():
    """A string annotation that only mentions the word is a field's."""

    class M(vn.Module):
        a: "list[AbstractVar]" = 1

    assert M(2).a == 2


def test_abstract_methods():
    """`abc.abstractmethod` works as in any abstract class."""

    class Abstract(vn.Module):
        @abc.abstractmethod
        def run(self, x): ...

        @abc.abstractmethod
        def __call__(self): ...

    class Half(Abstract):
        def run(self, x):
            return x + 1

    class Whole(Half):
        def __call__(self):
            return self.run(1)

    for cls in (Abstract, Half):
        with pytest.raises(TypeError, match="abstract"):
            cls()
    assert Whole()() == 2


def test_strict_is_accepted():
    """The peer's class keyword `strict` is taken and changes nothing."""

    class M(vn.Module, strict=True):
        a: int

    assert M(1).a == 1
