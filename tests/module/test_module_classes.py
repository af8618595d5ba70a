"""``Module`` as a base class: inheritance, generics, properties and class hooks."""

import typing

import jax

import vernal as vn

T = typing.TypeVar("T")


class Point(vn.Module):
    x: object
    y: object = 2


class Own(vn.Module):
    """Has its own ``__init__``, which takes something else than its fields."""

    area: object

    def __init__(self, side):
        self.area = side**2


def test_inheritance_of_fields():
    """Fields of base classes come first, and may be declared again."""

    class Derived(Point):
        z: object = 3
        x: object = 0

    derived = Derived()
    assert (derived.x, derived.y, derived.z) == (0, 2, 3)
    assert jax.tree.leaves(derived) == [0, 2, 3]


def test_a_subclass_inherits_an_own_init():
    """A subclass of a class with its own `__init__` is built by that one."""

    class Square(Own):
        color: str = vn.field(static=True, default="red")

        def describe(self):
            return f"{self.color} {self.area}"

    assert Square(3).describe() == "red 9"


def test_super_init():
    """An own `__init__` may call a base's, generated or own."""

    class A(Point):
        z: object

        def __init__(self):
            super().__init__(1, y=5)
            self.z = self.x + self.y

    class B(Own):
        b: object

        def __init__(self):
            super().__init__(4)
            self.b = self.area

    assert (A().z, B().b) == (6, 16)


def test_multiple_inheritance():
    """Fields of several bases are joined, and `super()` walks the MRO."""

    class A(vn.Module):
        a: object = 1

        def who(self):
            return ["A"]

    class B(vn.Module):
        b: object = 2

        def who(self):
            return ["B", *super().who()] if hasattr(super(), "who") else ["B"]

    class C(B, A):
        c: object = 3

        def who(self):
            return ["C", *super().who()]

    assert C().who() == ["C", "B", "A"]
    assert sorted(jax.tree.leaves(C())) == [1, 2, 3]
    assert C(c=0).c == 0


def test_a_plain_mixin():
    """A base that is no Module may bring methods and properties."""

    class Mixin:
        def double(self):
            return 2 * self.x

        @property
        def half(self):
            return self.x / 2

    class M(Mixin, Point):
        pass

    assert (M(4).double(), M(4).half) == (8, 2)


def test_generic_modules():
    """A generic Module can be subscripted, in annotations and when called."""

    class Box(vn.Module, typing.Generic[T]):
        content: T

    class IntBox(Box[int]):
        more: int = 1

    assert Box[int](3).content == 3 and type(Box[int](3)) is Box
    assert jax.tree.leaves(IntBox(2)) == [2, 1]


def test_class_variables_are_no_fields():
    """A ClassVar, and an attribute without annotation, belong to the class."""

    class M(vn.Module):
        kind: typing.ClassVar[str] = "m"
        other = "o"
        x: object = 0

    assert jax.tree.leaves(M()) == [0]
    assert (M.kind, M().other) == ("m", "o")


def test_properties_and_other_methods():
    """Properties, class methods and static methods are ordinary."""

    class M(Point):
        @property
        def total(self):
            return self.x + self.y

        @classmethod
        def make(cls):
            return cls(5)

        @staticmethod
        def add(a, b):
            return a + b

    assert (M(1).total, M.make().x, M(1).add(1, 2), M.add(3, 4)) == (3, 5, 3, 7)


def test_init_subclass_and_doc():
    """Class hooks, keywords and docstrings work as in any class."""
    seen = []

    class Base(vn.Module):
        """Says something."""

        def __init_subclass__(cls, tag=None, **kwargs):
            super().__init_subclass__(**kwargs)
            seen.append(tag)

    class Derived(Base, tag="t"):
        pass

    assert seen == ["t"] and Base.__doc__ == "Says something."
    assert Derived.__doc__ is None or "Says" not in Derived.__doc__
