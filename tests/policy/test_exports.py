"""What is public is explicit: `X as X`, a sorted __all__, a __module__ in vernal."""

import ast
import importlib
import inspect
import types

import pytest

from tests.policy.source import is_package, package_sources, plain


def public_packages():
    """The packages whose path has no private part."""
    names = (plain(module) for module in package_sources() if is_package(module))
    return [name for name in names if "._" not in name]


TOOLS = {"TYPE_CHECKING", "lazy_names"}  # that each public package begins with


def implicit_reexports(text):
    """Names that an __init__ file imports without saying `X as X`."""
    return [
        alias.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        if alias.asname != alias.name and alias.name not in TOOLS
    ]


def namespace_faults(module):
    """Where __all__ is unsorted, repeats itself, or differs from the namespace.

    Python binds each imported submodule in its package, so those may be unlisted.
    """
    listed = list(module.__all__)
    public = {name for name in dir(module) if not name.startswith("_")}
    submodules = {
        name
        for name in public
        if isinstance(value := getattr(module, name), types.ModuleType)
        and value.__name__ == f"{module.__name__}.{name}"
    }
    faults = [] if listed == sorted(set(listed)) else ["__all__ is not sorted"]
    faults += [f"{name}: listed, missing" for name in sorted(set(listed) - public)]
    unlisted = public - submodules - set(listed)
    return faults + [f"{name}: present, not listed" for name in sorted(unlisted)]


def private_homes(module, prefix="vernal"):
    """Public functions and classes that claim to come from outside the package."""
    return [
        f"{name}: {value.__module__}"
        for name in module.__all__
        if inspect.isroutine(value := getattr(module, name)) or inspect.isclass(value)
        if value.__module__.split(".")[0] != prefix
    ]


@pytest.mark.parametrize("name", public_packages())
def test_reexports_are_explicit(name):
    """Each name that a public package imports is written `X as X`."""
    assert implicit_reexports(package_sources()[f"{name}.__init__"]) == []


@pytest.mark.parametrize("name", public_packages())
def test_namespace_is_all(name):
    """A public package has a sorted __all__, and nothing public besides."""
    assert namespace_faults(importlib.import_module(name)) == []


@pytest.mark.parametrize("name", public_packages())
def test_public_names_live_in_vernal(name):
    """Each public function and class reports a __module__ inside vernal."""
    assert private_homes(importlib.import_module(name)) == []


def sample():
    module = types.ModuleType("vernal.sample")
    module.__all__ = ["b", "a", "OrderedDict"]
    module.b, module.stray, module.os = 1, 2, importlib
    module.OrderedDict = importlib.import_module("collections").OrderedDict
    return module


def test_an_implicit_reexport_is_seen():
    """A plain import and a renaming one are both refused."""
    text = "from .a import x as x, y\nfrom .b import z as w\n"
    assert implicit_reexports(text) == ["y", "z"]


def test_a_namespace_that_differs_is_seen():
    """Wrong order, a missing name, a stray name and a leaked module are reported."""
    assert namespace_faults(sample()) == [
        "__all__ is not sorted",
        "a: listed, missing",
        "os: present, not listed",
        "stray: present, not listed",
    ]


def test_a_foreign_home_is_seen():
    """A class from elsewhere is no public name of vernal."""
    module = sample()
    module.__all__ = ["OrderedDict"]
    assert private_homes(module) == ["OrderedDict: collections"]
