"""How a Module class becomes a pytree class."""

import copy
import inspect
import math
import pickle
import sys
import traceback
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import pytest

import vernal as vn
from tests.strategies import Empty, Node, Opaque, Scale, identical, refuses
from vernal._module.register import CHILD, is_function
from vernal.errors import ModuleError


def test_leaves_are_in_the_order_of_the_fields():
    """Children come in the order of declaration, those of base classes first."""

    class Base(vn.Module):
        z: object
        s: object = vn.field(static=True)
        a: object

    class Derived(Base):
        b: object

    assert jax.tree.leaves(Derived([1, 2], "s", 3, {"k": 4})) == [1, 2, 3, 4]


def test_key_paths_are_attributes():
    """Each leaf's path names the attributes that lead to it."""
    node = Node([1], Scale(2), fn=Scale(3))
    paths = [jtu.keystr(path) for path, _ in jtu.tree_leaves_with_path(node)]
    assert paths == [".first[0]", ".second.factor", ".fn.factor"]


def test_none_and_objects_are_kept():
    """None is no leaf, anything else that JAX does not know is one."""
    opaque = Opaque()
    node = Node(None, opaque, fn=None)
    assert jax.tree.leaves(node) == [opaque]
    assert identical(jax.tree.map(lambda x: x, node), node)


def test_a_module_without_fields():
    """It has no leaves, and is rebuilt, compared, hashed and printed like others."""
    empty = Empty()
    assert jax.tree.leaves(empty) == []
    assert jax.tree.map(lambda x: x, empty) == empty == Empty()
    assert hash(empty) == hash(Empty()) and repr(empty) == "Empty()"
    assert jax.jit(lambda m, x: (m, x))(empty, 1.0)[0] == empty


def test_rebuilding_runs_no_code_of_the_class():
    """Unflattening calls neither constructor, converter nor check, and is no copy."""
    ran = []

    class M(vn.Module):
        x: object = vn.field(converter=lambda v: ran.append("converter") or v)

        def __new__(cls, *args):
            ran.append("new")
            return super().__new__(cls)

        def __init__(self, x):
            ran.append("init")
            self.x = x

        def __check_init__(self):
            ran.append("check")

    m = M(1)
    assert ran == ["new", "init", "converter", "check"]
    out = jax.tree.map(lambda x: x, m)
    assert len(ran) == 4 and type(out) is M and out is not m


def test_a_rebuilt_module_is_frozen():
    """Immutability does not depend on how the instance came about."""
    out = jax.tree.map(lambda x: x, Node(1))
    with pytest.raises(AttributeError):
        out.first = 2


def test_classes_do_not_mix():
    """Two classes with the same fields have different structures."""

    class Other(vn.Module):
        factor: object

    assert jax.tree.structure(Other(1)) != jax.tree.structure(Scale(1))
    with pytest.raises(ValueError, match=r"Mismatch|Custom node|structure"):
        jax.tree.map(lambda x, y: x, Other(1), Scale(1))


def test_a_field_without_a_value():
    """A Module used as a pytree too early says which field has no value."""

    class M(vn.Module):
        a: object
        b: object

        def __init__(self):
            self.a = 1
            jax.tree.leaves(self)
            self.b = 2

    with refuses(ModuleError, "M: a field has no value yet", "'b'", "assign all"):
        M()


@pytest.mark.parametrize("name", ["__flatten__", "__values__"])
def test_generated_code_can_be_read(name):
    """`inspect.getsource` shows the generated functions, with the fields' names."""
    source = inspect.getsource(getattr(Node, name))
    assert source.startswith(f"def {name.strip('_')}(")
    assert all(repr(field) in source for field in ("first", "second", "tag", "fn"))


def test_tracebacks_show_generated_code():
    """A traceback that passes through generated code shows its line and its class."""
    try:
        Node.__unflatten__((), ())
    except ValueError:
        frame = traceback.extract_tb(sys.exc_info()[2])[-1]
    assert frame.name == "values"
    assert "pytree functions of tests.strategies.Node" in frame.filename
    assert "= children" in frame.line or "= metadata" in frame.line


def test_generated_functions_agree_with_jax():
    """JAX gets the very children and metadata that the generated function gives."""
    node = Node(1, [2], "tag", Scale(3))
    children, metadata = Node.__flatten__(node)
    assert children[:2] == (1, [2]) and metadata[0] == "tag"
    assert identical(Node.__unflatten__(metadata, children), node)


FUNCTIONS = [len, jnp.sin, jax.nn.relu, lambda x: x, int, Scale, jax.jit(len), Opaque]
OTHERS = [None, 1, "a", jnp.ones(2), Scale(1), vn.Partial(len), Empty(), [len]]


@pytest.mark.parametrize("value", FUNCTIONS)
def test_functions(value):
    """A callable without leaves of its own, a class included, is a function."""
    assert is_function(value) is True
    assert is_function(value) is True  # now from memory


@pytest.mark.parametrize("value", OTHERS)
def test_not_functions(value):
    """A callable that holds arrays is none, and what cannot be called is none."""
    assert is_function(value) is False


def test_a_function_leaves_nothing_behind():
    """Where a function is metadata no child is left that some would take for a leaf."""
    node = Node(1, None, fn=jnp.sin)
    for is_leaf in (lambda x: x is None, lambda x: x == ()):
        doubled = jax.tree.map(lambda x: x and 2 * x, node, is_leaf=is_leaf)
        assert jtu.tree_structure(doubled) == jtu.tree_structure(node)
        leaves = jax.tree.leaves(node, is_leaf=is_leaf)
        assert jax.tree.map(lambda x: Opaque(), node, is_leaf=is_leaf).fn is jnp.sin
        assert leaves == ([1, None] if is_leaf(None) else [1])


def test_a_function_and_a_child_are_different_structures():
    """A function in an `if_function` field is told from a child by the treedef."""
    structures = {
        jax.tree.structure(Node(1, fn=fn)) for fn in (jnp.sin, jnp.cos, Scale(1), None)
    }
    assert len(structures) == 4


def test_the_marker_of_children_stays_one_object():
    """Copies and pickles of the marker are the marker itself."""
    assert pickle.loads(pickle.dumps(CHILD)) is CHILD
    assert copy.deepcopy(CHILD) is CHILD and repr(CHILD) == "<child>"


def test_a_static_module_is_metadata():
    """A Module in a static field is compared by value and has no leaves."""
    a, b, c = (Node(1, tag=Scale(k)) for k in (2.0, 2.0, 3.0))
    assert jax.tree.leaves(a) == [1]
    assert jax.tree.structure(a) == jax.tree.structure(b) != jax.tree.structure(c)


def test_field_names_cannot_break_the_generated_code():
    """Names that the generated code uses itself are names like others."""

    class M(vn.Module):
        self: object
        fields: object
        children: object
        metadata: object = vn.field(static=True)
        cls: object = vn.field(static="if_function")
        new: object = 6

        def __init__(this):
            for i, name in enumerate(type(this).__fields__):
                setattr(this, name, i)

    m = M()
    assert jax.tree.leaves(m) == [0, 1, 2, 4, 5]
    assert identical(jax.tree.map(lambda x: x, m), m)


class Plain(vn.Module):
    """No field may hold a function, so a rebuilt instance knows its flat form."""

    items: Any
    tag: str = vn.field(static=True, default="")


@pytest.mark.parametrize("rebuilt", [False, True])
def test_a_remembered_form_sees_lists_change(rebuilt):
    """What is in a list among the children is looked up each time."""
    module = Plain([1])
    module = jax.tree.map(lambda x: x, module) if rebuilt else module
    assert jax.tree.leaves(module) == [1]
    module.items.append(2)
    assert jax.tree.leaves(module) == [1, 2]


def test_flattening_is_done_once(monkeypatch):
    """The generated function runs once for a new instance, never for a rebuilt one."""
    count = 0
    original = Plain.__flatten__

    def counting(self):
        nonlocal count
        count += 1
        return original(self)

    monkeypatch.setattr(Plain, "__flatten__", counting)
    module = Plain(1)
    for _ in range(3):
        jax.tree.leaves(module)
    assert count == 1
    for _ in range(3):
        module = jax.tree.map(lambda x: x + 1, module)
    assert count == 1 and module.items == 4


def test_nothing_is_remembered_during_init():
    """A Module that is flattened before it is complete is flattened anew later."""

    class M(vn.Module):
        a: Any
        b: Any

        def __init__(self):
            self.a, self.b = 1, 2
            assert jax.tree.leaves(self) == [1, 2]
            self.b = 3

    assert jax.tree.leaves(M()) == [1, 3]


def test_copies_do_not_take_the_remembered_form():
    """A deep copy is flattened from its own fields."""
    module = jax.tree.map(lambda x: x, Plain([1]))
    twin = copy.deepcopy(module)
    module.items.append(2)
    assert jax.tree.leaves(twin) == [1]


def test_changing_a_copy_in_place_forgets():
    """Functions that switch a flag on a copy of their own leave nothing stale."""
    dropout = jax.tree.map(lambda x: x, vn.nn.Dropout(0.5))
    jax.tree.leaves(dropout)
    switched = vn.nn.inference_mode(dropout)
    assert jax.tree.map(lambda x: x, switched).inference is True
    assert jax.tree.map(lambda x: x, dropout).inference is False
    renamed = vn.tree_at(lambda m: m.tag, jax.tree.map(lambda x: x, Plain(1)), "new")
    assert jax.tree.map(lambda x: x, renamed).tag == "new"


def test_rebuilding_from_any_iterable():
    """Whoever calls the generated function may give an iterator."""
    module = Plain.__unflatten__(("t",), iter([[5]]))
    assert jax.tree.leaves(module) == [5] and jax.tree.leaves(module) == [5]


def test_a_function_that_takes_the_place_of_a_child_is_metadata():
    """A field for functions or arrays is looked at again after each change."""
    swapped = jax.tree.map(lambda _: jnp.sin, Node(None, fn=1))
    assert jax.tree.leaves(swapped) == []


def test_a_rebuilt_wrapper_has_its_own_name_at_once():
    """The name of what it wraps hides that of its class."""

    class Named(vn.Module):
        __wrapped__: Any = vn.field(static=True)

        def __call__(self):
            return 1

    named = vn.module_update_wrapper(Named(math.sin))
    assert jax.tree.map(lambda x: x, named).__name__ == "sin"
