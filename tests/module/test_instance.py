"""When a Module that was rebuilt gets its fields, and what it is until then."""

import concurrent.futures
import copy
import dataclasses
import pickle
import sys
import threading
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import vernal as vn
from vernal._module.instance import Instance


class Plain(vn.Module):
    """A child and a static field."""

    items: Any
    tag: str = vn.field(static=True, default="")


def has_fields(module) -> bool:
    """Whether the instance has its fields already, without looking at them."""
    return bool(Instance.__dict__["__dict__"].__get__(module))


def test_a_rebuilt_module_gets_its_fields_when_one_is_read():
    """What only passes through JAX is never filled in; one read fills in all."""
    first = jax.tree.map(lambda x: x + 1, Plain(1, "t"))
    assert not has_fields(first)
    second = jax.jit(lambda m: m)(first)
    assert not has_fields(second)
    assert second.tag == "t" and has_fields(second)
    assert list(vars(second)) == list(vars(Plain(1, "t"))) and second.items == 2


@pytest.mark.parametrize(
    "look",
    [vars, repr, hash, dir, copy.copy, copy.deepcopy, pickle.dumps, dataclasses.asdict],
)
def test_every_way_to_look_fills_in(look):
    """Whatever asks for the fields of a rebuilt Module sees those of the original."""
    module, original = jax.tree.map(lambda x: x, Plain(1, "t")), Plain(1, "t")
    assert not has_fields(module)
    assert look(module) == look(original)


class Defaults(vn.Module):
    """Class attributes that have the names of fields, of many kinds."""

    number: int = vn.field(static=True, default=3)
    function: Any = vn.field(static=True, default=abs)
    method: Any = vn.field(static=True, default=lambda x: -x)
    child: Any = 4.0


class Mixin:
    """A base class that is no Module, and has an attribute of a field's name."""

    number = 7


class Mixed(Mixin, Defaults):
    pass


@pytest.mark.parametrize("cls", [Defaults, Mixed])
def test_class_attributes_do_not_hide_fields(cls):
    """A rebuilt Module has its own values, and not those of its class."""
    module = cls(1, jnp.sin, jnp.cos, 2.0)
    for name in ("number", "function", "method", "child"):
        rebuilt = jax.tree.map(lambda x: x, module)
        assert getattr(rebuilt, name) is getattr(module, name)


def test_classes_still_show_their_defaults():
    """On the class, a field with a default is the default; others are not there."""
    assert Defaults.number == 3 and Mixed.number == 7 and Defaults.child == 4.0
    assert Defaults.function is abs and Defaults.method(2) == -2
    assert not hasattr(Plain, "items")
    with pytest.raises(AttributeError, match=r"'Plain' has no attribute 'items'"):
        _ = Plain.items


def test_a_class_attribute_that_is_set_later(monkeypatch):
    """It is a new default, and changes no instance, rebuilt or not."""
    rebuilt = jax.tree.map(lambda x: x, Defaults(1))
    monkeypatch.setattr(Defaults, "number", 9)
    assert Defaults.number == 9
    assert rebuilt.number == 1 and Defaults(1).number == 1


def test_a_field_that_init_has_not_set_yet():
    """Reading it is an AttributeError that names class and field."""

    class M(vn.Module):
        a: Any

        def __init__(self):
            assert not hasattr(self, "a")
            with pytest.raises(AttributeError, match=r"'M' object has no .* 'a'"):
                _ = self.a
            self.a = 1

    assert M().a == 1


def test_classes_with_their_own_getattr():
    """A Module that passes unknown names on still finds its own fields."""

    class Proxy(vn.Module):
        inner: Any

        def __getattr__(self, name):
            return getattr(self.inner, name)

    proxy = jax.tree.map(lambda x: x, Proxy(Plain(1, "t")))
    assert proxy.tag == "t" and proxy.items == 1


def test_a_field_that_was_set_by_force():
    """It keeps its value, and the others are filled in all the same."""
    module = jax.tree.map(lambda x: x, Plain(1, "t"))
    object.__setattr__(module, "items", 5)
    assert (module.tag, module.items) == ("t", 5)


def test_threads_that_fill_in_the_same_module():
    """No thread sees a Module with some of its fields."""
    names = [f"x{i}" for i in range(200)]
    fields = {"__annotations__": dict.fromkeys(names)}
    cls = type(vn.Module)("Wide", (vn.Module,), fields)
    module, together = cls(*range(200)), threading.Barrier(4)

    def read(rebuilt):
        together.wait()
        return rebuilt.x0, rebuilt.x199

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for _ in range(200):
                rebuilt = jax.tree.map(lambda x: x, module)
                assert set(pool.map(read, [rebuilt] * 4)) == {(0, 199)}
    finally:
        sys.setswitchinterval(interval)
