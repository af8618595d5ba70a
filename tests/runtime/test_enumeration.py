"""Enumerations: values of outcomes, beside Python's own enum and Equinox's."""

import copy
import pickle
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vernal as vn
from tests.strategies import refuses
from vernal._runtime.enumeration import EnumerationItem
from vernal.errors import CheckError, EnumerationError


class Result(vn.Enumeration):
    success = "it worked"
    slow = "it took too many steps"


class Extra(vn.Enumeration):
    hot = "it got too hot"
    slow = "it was slow"


class Both(Extra, Result):
    cold = "it froze"


class Theirs(eqx.Enumeration):
    success = "it worked"
    slow = "it took too many steps"


def number(item: Any) -> int:
    return int(item.value)


def test_entries() -> None:
    """Items are attributes, numbered in order; a class has a length and iterates."""
    assert [number(x) for x in (Result.success, Result.slow)] == [0, 1]
    assert len(Result) == 2 and [number(x) for x in Result] == [0, 1]
    assert Result[Result.slow] == "it took too many steps"
    assert {"success", "slow"} <= set(dir(Result))
    assert repr(Result.slow) == "Result<it took too many steps>"
    assert "Result<it worked>" in vn.tree_pformat([Result.success])


def test_an_unknown_entry() -> None:
    """The error names those that there are."""
    with pytest.raises(AttributeError, match="no entry `fast`; it has success, slow"):
        _ = Result.fast
    assert not hasattr(Result, "__wrapped__")


def test_equality() -> None:
    """Items of one enumeration compare to boolean arrays, also traced."""
    assert (Result.success == Result.success).dtype == bool
    for a in Result:
        for b in Result:
            assert bool(a == b) == (number(a) == number(b)) != bool(a != b)
    equal = jax.jit(lambda a, b: (a == b, a != b))
    assert equal(Result.slow, Result.slow) == (True, False)
    assert equal(Result.slow, Result.success) == (False, True)


@pytest.mark.parametrize("other", [0, "slow", None, Extra.slow, Both.slow, Theirs.slow])
def test_other_things_are_not_compared(other: Any) -> None:
    """A comparison with anything else is a mistake, and refused as such."""
    for compare in (lambda: Result.slow == other, lambda: Result.slow != other):
        with refuses(EnumerationError, "Result", "expected", "promote"):
            compare()


def test_isinstance() -> None:
    """An item is an instance of its own class and of the base class."""
    assert isinstance(Result.slow, Result) and isinstance(Result.slow, vn.Enumeration)
    assert not isinstance(Result.slow, Extra) and not isinstance(1, vn.Enumeration)


def test_where() -> None:
    """As jnp.where, known and traced, with arrays of conditions too."""
    assert Result.where(True, Result.slow, Result.success) is not None
    run = jax.jit(lambda p: Result.where(p, Result.slow, Result.success))
    for pred in (True, False):
        theirs = Theirs.where(pred, Theirs.slow, Theirs.success)
        assert number(run(jnp.array(pred))) == int(theirs._value)
    items = run(jnp.array([True, False]))
    assert Result[items] == "['it took too many steps' 'it worked']"
    with refuses(EnumerationError, "Result: where"):
        Result.where(True, Extra.slow, Result.slow)
    with refuses(EnumerationError, "not boolean"):
        Result.where(1, Result.slow, Result.slow)


def test_inheritance() -> None:
    """The entries of the parents come first, each name once, with the nearest text."""
    names = {name: number(getattr(Both, name)) for name in ("hot", "slow", "cold")}
    assert names == {"hot": 0, "slow": 1, "cold": 3} and number(Both.success) == 2
    assert [Both[x] for x in Both] == [
        "it got too hot",
        "it was slow",
        "it worked",
        "it froze",
    ]


def test_promotion() -> None:
    """An item of a parent becomes the child's item of that name; known and traced."""
    for parent in (Extra, Result):
        for name in ("hot", "slow", "success"):
            if not hasattr(parent, name):
                continue
            item = getattr(parent, name)
            for promote in (Both.promote, jax.jit(Both.promote)):
                promoted = promote(item)
                assert isinstance(promoted, Both)
                assert bool(promoted == getattr(Both, name))
    for wrong in (Both.slow, 1):
        with refuses(EnumerationError, "Both.promote", "Extra, Result"):
            Both.promote(wrong)
    with refuses(EnumerationError, "there is none"):
        Result.promote(Extra.slow)


def test_transformations() -> None:
    """Items are pytrees of one integer array that any transformation takes."""
    assert [x.shape for x in jax.tree.leaves(Result.slow)] == [()]
    items = jax.vmap(lambda p: Result.where(p, Result.slow, Result.success))(
        jnp.array([True, False, True])
    )
    np.testing.assert_array_equal(items.value, [1, 0, 1])
    np.testing.assert_array_equal(items == Result.slow, [True, False, True])
    last, _ = jax.lax.scan(
        lambda item, p: (Result.where(p, Result.slow, item), None),
        Result.where(jnp.array(True), Result.success, Result.success),
        jnp.array([False, True, False]),
    )
    assert bool(last == Result.slow)
    shapes = vn.filter_eval_shape(lambda: last)
    assert repr(shapes) == "Result<unknown>"
    texts: list[str] = []

    @jax.jit
    def traced(item: Any) -> Any:
        texts.append(repr(item))
        assert item.is_traced()
        return item

    traced(Result.slow)
    assert texts == ["Result<traced>"] and not Result.slow.is_traced()


def test_copies() -> None:
    """Pickling and copying give an item of the same class."""
    for copied in (pickle.loads(pickle.dumps(Result.slow)), copy.deepcopy(Result.slow)):
        assert isinstance(copied, Result) and bool(copied == Result.slow)
    assert hash(Result.slow) == hash(Result.success)  # shapes only, as for any Module


@pytest.mark.parametrize("jit", [lambda f: f, vn.filter_jit])
def test_error_if(jit: Any) -> None:
    """An item raises its own text, and does nothing if the condition is false."""
    run = jit(lambda item, x, p: item.error_if(x, p))
    x = jnp.ones(2)
    for item in Result:
        assert vn.tree_equal(run(item, x, jnp.array(False)), x)
        with refuses(CheckError, Result[item]):
            run(item, x, jnp.array(True))


@pytest.mark.parametrize(
    "entries", [{"a": 1}, {"promote": "text"}, {"where": "text"}, {"f": lambda self: 1}]
)
def test_bad_entries(entries: Any) -> None:
    """An entry is a name with a text, and its name is free."""
    with refuses(EnumerationError, "Bad", next(iter(entries)), 'name = "text"'):
        type(vn.Enumeration)("Bad", (vn.Enumeration,), entries)


def test_items_are_modules() -> None:
    """They can be built by the class of items, as arrays of them are."""
    item = EnumerationItem(jnp.array([1, 0]), Result)
    assert Result[item] == "['it took too many steps' 'it worked']"
    with refuses(EnumerationError, "Extra", "the text was asked of"):
        Extra[item]
