"""How a failed runtime check gets from the device to whoever called the function.

A check that fails raises in a callback. What JAX makes of it is an error of its own,
with pages of text in which the number of our failure stands; by that number the error
that the user is to see is found here.
"""

import itertools
import re
from typing import Any

from ..errors import CheckError
from .jaxprs import equations

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
    return any(equation.params.get("name") == CHECK for equation in equations(jaxpr))
