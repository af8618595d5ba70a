"""Every public name and public method has a docstring; every name has an example."""

import importlib
import inspect
import types

import pytest

PACKAGES = ["vernal", "vernal.nn", "vernal.checkpoint", "vernal.metrics"]

# Public names that have no `>>>` example yet. This list only ever shrinks: a name that
# has got its example must leave it.
NO_EXAMPLE_YET = frozenset[str]()


def public_objects(package):
    """Yields (dotted name, value) for the public functions and classes of a package."""
    module = importlib.import_module(package)
    for name in module.__all__:
        value = getattr(module, name)
        if callable(value) and not isinstance(value, types.GenericAlias):
            yield f"{package}.{name}", value


def is_method(name, value):
    """Whether a class attribute is one that a user calls or reads by its name."""
    is_code = inspect.isroutine(value) or isinstance(
        value, property | classmethod | staticmethod
    )
    return is_code and (name == "__call__" or not name.startswith("_"))


def undocumented(name, value):
    """The name, and those of its own public methods, that lack a docstring."""
    own = vars(value) if inspect.isclass(value) else {}
    doc = own.get("__doc__") if inspect.isclass(value) else value.__doc__
    # A dataclass without a docstring is given its signature as one.
    is_generated = bool(doc) and doc.startswith(f"{getattr(value, '__name__', '')}(")
    missing = [] if doc and not is_generated else [name]
    return missing + [
        f"{name}.{key}"
        for key, method in own.items()
        if is_method(key, method) and not method.__doc__
    ]


def has_example(value):
    return ">>>" in (value.__doc__ or "")


def stale(allowed, objects):
    """Entries of an allow-list that are satisfied or no longer exist."""
    return sorted(
        name for name in allowed if name not in objects or has_example(objects[name])
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_are_documented(package):
    """Each public function, class and method says what it does."""
    found = public_objects(package)
    assert [x for name, value in found for x in undocumented(name, value)] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_show_an_example(package):
    """Each public function and class has an example, unless it is listed above."""
    without = {
        name for name, value in public_objects(package) if not has_example(value)
    }
    assert sorted(without - NO_EXAMPLE_YET) == []


def test_the_allow_list_is_not_stale():
    """A name that has an example, or is gone, is no longer excused."""
    objects = {k: v for package in PACKAGES for k, v in public_objects(package)}
    assert stale(NO_EXAMPLE_YET, objects) == []


class Bare:
    def method(self): ...

    def __call__(self): ...

    def _hidden(self): ...


class Documented:
    """Says something.

    >>> Documented().method()
    """

    def method(self):
        """Says something too."""


class Inherits(Documented):
    pass


def test_missing_docstrings_are_seen():
    """A class, its methods and its __call__ count; an inherited docstring does not."""
    assert undocumented("B", Bare) == ["B", "B.method", "B.__call__"]
    assert undocumented("D", Documented) == []
    assert undocumented("I", Inherits) == ["I"]


def test_a_missing_example_is_seen():
    """Only a docstring with a prompt counts as an example."""
    assert has_example(Documented)
    assert not has_example(Documented.method)


def test_stale_excuses_are_seen():
    """An excuse for what is documented or gone is reported."""
    objects = {"a": Documented, "b": Bare}
    assert stale({"a", "b", "gone"}, objects) == ["a", "gone"]
