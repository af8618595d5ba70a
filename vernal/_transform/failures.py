"""How a failed runtime check gets from the device to whoever called the function.

A check that fails raises in a callback. What JAX makes of it is an error of its own,
with pages of text in which the number of our failure stands; by that number the error
that the user is to see is found here.
"""

import inspect
import itertools
import re
from typing import Any

import jax.tree_util as jtu

from .._tree.paths import path_text
from ..errors import CheckError
from .jaxprs import has_equation

# Every check is inside of a jitted function of this name: so it is found in a trace.
CHECK = "check_at_runtime"

_MARK = re.compile(r"\[failed check (\d+)\]")
_KEPT = 64  # failures that nobody asks for, as under a plain jax.jit, are forgotten

_numbers = itertools.count()
_failures: dict[int, CheckError] = {}


class Failure(Exception):
    """What a failing check raises inside of its callback."""

    def __init__(self, error: CheckError) -> None:
        number = next(_numbers)
        _failures[number] = error
        _failures.pop(number - _KEPT, None)
        super().__init__(f"{error}\n[failed check {number}]")


def reveal_failure(error: Exception, function: str) -> None:
    """Raises the check's own error if ``error`` tells of one; else does nothing."""
    found = _MARK.search(str(error))
    check = _failures.pop(int(found[1]), None) if found else None
    if check is not None:
        raise CheckError(f"{check}\n  compiled in: {function}") from None


def has_checks(jaxpr: Any) -> bool:
    """Whether a check is somewhere in a jaxpr, or in one inside of it."""
    return has_equation(jaxpr, lambda equation: equation.params.get("name") == CHECK)


def first_deleted(error: Exception, arrays: list[Any]) -> int | None:
    """The place of an array without a buffer, if that is what ``error`` is about."""
    if "deleted" not in str(error):
        return None
    gone = [getattr(x, "is_deleted", bool)() for x in arrays]
    return gone.index(True) if True in gone else None


def argument_name(fun: Any, args: Any, kwargs: Any, leaf: Any) -> str:
    """How the user would write a leaf of the arguments: ``model.linear.weight``."""
    try:
        arguments = dict(inspect.signature(fun).bind(*args, **kwargs).arguments)
    except (TypeError, ValueError):  # it has no signature, or another one
        arguments = {"args": args, "kwargs": kwargs}
    arguments[getattr(fun, "__name__", "function")] = fun
    for path, x in jtu.tree_leaves_with_path(arguments):
        if x is leaf:
            return str(path[0].key) + _dotted(path_text(path[1:]))
    return "an argument"


def _dotted(place: str) -> str:
    return place if not place or place[0] == "[" else f".{place}"
