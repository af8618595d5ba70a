"""``Module``: how instances are built, checked and frozen."""

import dataclasses
import inspect
import subprocess
import sys
import weakref

import jax
import jax.numpy as jnp
import pytest

import vernal as vn
from tests.strategies import Node, Scale, refuses
from vernal.errors import FrozenModuleError, ModuleError


class Point(vn.Module):
    x: object
    y: object = 2


class Own(vn.Module):
    """Has its own ``__init__``, which takes something else than its fields."""

    area: object

    def __init__(self, side):
        self.area = side**2


def test_a_generated_init():
    """Without an own `__init__` it takes the fields, as a dataclass does."""
    assert (Point(1).x, Point(1).y) == (1, 2)
    assert Point(y=3, x=1).y == 3
    with pytest.raises(TypeError, match="x"):
        Point()
    with pytest.raises(TypeError, match="z"):
        Point(1, z=1)


def test_an_own_init():
    """An own `__init__` assigns the fields; it may read and reassign them."""

    class M(vn.Module):
        a: int
        b: int

        def __init__(self, a):
            self.a = a
            self.b = self.double()
            self.a = 0

        def double(self):
            return 2 * self.a

    assert (M(3).a, M(3).b) == (0, 6)


def test_the_signature_of_a_class():
    """`inspect.signature` shows the arguments of `__init__`, for help and editors."""
    assert list(inspect.signature(Point).parameters) == ["x", "y"]
    assert list(inspect.signature(Own).parameters) == ["side"]


def test_frozen_after_init():
    """Assigning and deleting are refused with the way to a changed copy."""
    point = Point(1)
    fix = "vernal.tree_at(lambda m: m.x, model, new_value)"
    with refuses(FrozenModuleError, "Point.x cannot be changed", fix):
        point.x = 2
    with refuses(FrozenModuleError, "Point.x", "immutable after `__init__`"):
        del point.x
    with refuses(FrozenModuleError, "Point.other"):
        point.other = 1
    assert (point.x, point.y) == (1, 2)


def test_frozen_is_an_attribute_error():
    """Whoever catches dataclasses' or Python's own error catches ours."""
    for error in (dataclasses.FrozenInstanceError, AttributeError):
        with pytest.raises(error):
            Point(1).x = 2


def test_frozen_in_methods_and_checks():
    """Not even the class's own methods and `__check_init__` can assign."""

    class M(Point):
        def change(self):
            self.x = 5

    class Checked(M):
        def __check_init__(self):
            self.change()

    with refuses(FrozenModuleError):
        M(1).change()
    with refuses(FrozenModuleError):
        Checked(1)


def test_each_instance_freezes_by_itself():
    """Building a Module inside another's `__init__` freezes only the inner one."""

    class Outer(vn.Module):
        a: object
        b: object

        def __init__(self):
            self.a = Own(2)
            with pytest.raises(FrozenModuleError):
                self.a.area = 0
            self.b = 1

    assert (Outer().a.area, Outer().b) == (4, 1)


def test_undeclared_attributes():
    """Only declared fields can be assigned; the message lists them."""

    class M(vn.Module):
        weight: object
        bias: object

        def __init__(self):
            self.wieght = 1

    words = ("M.wieght is not a declared field", "one of: weight, bias", "wieght: ")
    with refuses(ModuleError, *words):
        M()


def test_undeclared_without_any_fields():
    """The message for a class without fields says so."""

    class M(vn.Module):
        def __init__(self):
            self.a = 1

    with refuses(ModuleError, "M.a", "no fields declared"):
        M()


def test_missing_fields():
    """All fields that `__init__` left without a value are named."""

    class M(vn.Module):
        a: object
        b: object
        c: object

        def __init__(self):
            self.b = 1

    with refuses(ModuleError, "M: `__init__` left fields", "no value for a, c"):
        M()


def test_an_exception_in_init():
    """It comes through as it is, and later instances are built as usual."""

    class M(vn.Module):
        a: object

        def __init__(self, fail):
            self.a = 1
            if fail:
                raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        M(True)
    with refuses(FrozenModuleError):
        M(False).a = 2


def test_post_init():
    """`__post_init__` runs after a generated `__init__`, may assign, gets InitVars."""

    class M(vn.Module):
        a: int
        k: dataclasses.InitVar[int] = 3

        def __post_init__(self, k):
            self.a = self.a + k

    assert (M(1).a, M(1, k=5).a) == (4, 6)
    assert jax.tree.leaves(M(1)) == [4]


def test_check_init_once_per_class():
    """Each `__check_init__` of the MRO runs once, after all fields are there."""
    ran = []

    class A(vn.Module):
        a: int = 1

        def __check_init__(self):
            ran.append(("A", self.a, self.b))

    class B(A):
        b: int = 2

    class Mixin:
        def __check_init__(self):
            ran.append("Mixin")

    class C(B, Mixin):
        def __init__(self):
            super().__init__(b=5)

        def __check_init__(self):
            ran.append("C")

    C()
    assert ran == ["C", ("A", 1, 5), "Mixin"]


def test_check_init_may_refuse():
    """What a check raises comes out of the constructor."""

    class M(Point):
        def __check_init__(self):
            if self.x < 0:
                raise ValueError("negative")

    assert M(1).x == 1
    with pytest.raises(ValueError, match="negative"):
        M(-1)


def test_a_method_of_self_is_refused():
    """A bound method of self in a field would make the tree infinite."""

    class M(vn.Module):
        f: object

        def __init__(self):
            self.f = self.run

        def run(self): ...

    with refuses(
        ModuleError, "M.f: the value contains this very Module", "BoundMethod"
    ):
        M()


CYCLES = """
import vernal as vn
from vernal.errors import ModuleError

class M(vn.Module):
    f: object

    def __init__(self, wrap):
        self.f = wrap(self)

    def run(self, x): return x

wraps = {
    "self": lambda m: m,
    "list": lambda m: [m],
    "filter_jit": lambda m: vn.filter_jit(m.run),
    "filter_vmap": lambda m: vn.filter_vmap(m.run),
    "Partial": lambda m: vn.Partial(m.run, 1),
}
for name, wrap in wraps.items():
    try:
        M(wrap)
    except ModuleError as error:
        assert "M.f" in str(error)
        print(name)
"""


def test_self_inside_itself_is_refused():
    """Self cannot be stored in itself by a detour: JAX never recovers from that."""
    # Hence a subprocess: after one RecursionError, every flatten in it is one.
    command = [sys.executable, "-c", CYCLES]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    refused = ["self", "list", "filter_jit", "filter_vmap", "Partial"]
    assert done.stdout.split() == refused


def test_dataclass_functions():
    """`replace`, `fields` and `asdict` of dataclasses take Modules."""
    point = dataclasses.replace(Point(1), y=5)
    assert (point.x, point.y) == (1, 5)
    assert [f.name for f in dataclasses.fields(point)] == ["x", "y"]
    assert dataclasses.asdict(point) == {"x": 1, "y": 5}


def test_replace_runs_checks():
    """`dataclasses.replace` constructs anew, so that checks and converters run."""

    class M(vn.Module):
        x: int = vn.field(converter=int)

        def __check_init__(self):
            assert self.x > 0

    assert dataclasses.replace(M(1), x="2").x == 2
    with pytest.raises(AssertionError):
        dataclasses.replace(M(1), x=-1)


def test_attribute_access_is_plain():
    """No Module intercepts reading: an attribute costs what it costs in Python."""
    assert vn.Module.__getattribute__ is object.__getattribute__
    assert not hasattr(vn.Module, "__getattr__")
    assert vars(Point(1)) == {"x": 1, "y": 2}


class Big:
    """A node that counts how often it is flattened."""

    flattened = 0


def flatten_big(big):
    Big.flattened += 1
    return (), None


jax.tree_util.register_pytree_node(Big, flatten_big, lambda *_: Big())


class Methods(vn.Module):
    x: object

    def plain(self): ...

    @vn.filter_jit
    def jitted(self): ...


def test_building_does_not_walk_through_the_fields():
    """A constructor costs the same whatever its fields hold; so does a method."""
    before = Big.flattened
    model = Methods([Big()])
    assert model.plain.__self__ is model and model.jitted.args[0] is model
    assert Big.flattened == before


def test_weak_references():
    """Modules can be referenced weakly, as JAX's caches do."""
    scale = Scale(jnp.ones(2))
    assert weakref.ref(scale)() is scale


def test_names_of_instances():
    """An instance is named after its class, for JAX to show."""
    assert Node(1).__name__ == "Node" and Node.__name__ == "Node"
    assert jax.jit(Scale(2.0)).__name__ == "Scale"
