"""Local functions are equal if they do the same, and only then."""

import copy
import inspect
import pickle
from typing import Any

import jax
import pytest

from vernal._module.by_value import by_value


def make(a: Any = None, b: Any = None, c: Any = None) -> Any:
    """A local function with a default, a keyword default, and an outer variable."""

    def fn(x: Any, first: Any = a, *, named: Any = b) -> Any:
        return x, first, named, c

    return by_value(fn)


VALUES: list[Any] = [
    None, 0, 0.0, -0.0, False, True, 1, 1.0, "1", b"1", 1j, float("nan"),
    (), (1,), (2,), (1.0,), ((1,), "x"), int, float, len, jax.tree.map,
]  # fmt: skip


@pytest.mark.parametrize("i", range(len(VALUES)), ids=lambda i: repr(VALUES[i])[:12])
@pytest.mark.parametrize("place", ["a", "b", "c"])
def test_equal_if_made_alike(i: int, place: str) -> None:
    """Made twice of one value they are equal; made of any other value they are not."""
    fn = make(**{place: VALUES[i]})
    again = make(**{place: copy.deepcopy(VALUES[i])})
    assert fn == again and hash(fn) == hash(again) and fn is not again
    others = [make(**{place: x}) for j, x in enumerate(VALUES) if j != i]
    assert all(fn != other for other in others)


def test_other_code() -> None:
    """Other code makes another function, and so does another place of a value."""
    pair = [by_value(lambda x: x[0]), by_value(lambda x: x[1])]
    assert pair[0] != pair[1]
    assert make(a=1) != make(b=1)


def test_other_globals() -> None:
    """The same code may do something else in another module."""
    source = "def make():\n    return lambda x: x + offset\n"
    made = []
    for offset in (1, 2):
        names: dict[str, Any] = {"offset": offset}
        exec(source, names)
        made.append(by_value(names["make"]()))
    assert [fn(0) for fn in made] == [1, 2]
    assert made[0] != made[1]


def test_it_works_as_the_function() -> None:
    """Calls, signature and printed name are those of the function."""
    fn = make(1, 2, 3)
    assert fn(0) == (0, 1, 2, 3)
    assert fn(0, 4, named=5) == (0, 4, 5, 3)
    assert list(inspect.signature(fn).parameters) == ["x", "first", "named"]
    assert repr(fn) == "<function make.<locals>.fn>"


class Callable:
    """A callable of its own kind."""

    def __call__(self, x: Any) -> Any:
        return x


@pytest.mark.parametrize("fn", [make, len, jax.nn.relu, Callable(), Callable, "".join])
def test_other_callables_stay_as_they_are(fn: Any) -> None:
    """What is no local function is returned as it is."""
    assert by_value(fn) is fn


def test_what_cannot_be_compared() -> None:
    """A function of arrays or lists, or of itself, is equal to itself only."""

    def around(value: Any) -> Any:
        return lambda x: (x, value)

    def recursive(x: Any) -> Any:
        return recursive(x[0]) if x else x

    def unset() -> Any:
        return later

    for fn in (around([1]), around(jax.numpy.ones(2)), around(around), unset):
        assert by_value(fn) is fn or by_value(fn) == by_value(fn)
    assert by_value(around([1])) != by_value(around([1]))
    assert by_value(recursive)([[[]]]) == []
    assert by_value(unset) is unset
    later = 1
    assert by_value(unset)() == later


def test_copies() -> None:
    """It can be deep-copied; pickle says that it cannot store a local function."""
    fn = make(1, 2)
    assert copy.deepcopy(fn) == fn
    with pytest.raises((pickle.PicklingError, AttributeError), match="local"):
        pickle.dumps(fn)
