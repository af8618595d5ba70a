"""Walking through jaxprs."""

from collections.abc import Callable, Iterator
from typing import Any


def equations(jaxpr: Any) -> Iterator[Any]:
    """All equations of a jaxpr, and of those inside of them."""
    for equation in _opened(jaxpr).eqns:
        yield equation
        for inner in _inside(tuple(equation.params.values())):
            yield from equations(inner)


def has_equation(jaxpr: Any, is_wanted: Callable[[Any], bool]) -> bool:
    """Whether one of all these equations is wanted.

    A jaxpr that stands at many places, as that of a repeated layer, is looked at once.
    """
    seen: set[int] = set()

    def look(jaxpr: Any) -> bool:
        if id(jaxpr) in seen:
            return False
        seen.add(id(jaxpr))
        for equation in _opened(jaxpr).eqns:
            if is_wanted(equation):
                return True
            if any(map(look, _inside(tuple(equation.params.values())))):
                return True
        return False

    return look(jaxpr)


def _opened(jaxpr: Any) -> Any:
    return getattr(jaxpr, "jaxpr", jaxpr)  # a closed one has it inside


def _inside(parameter: Any) -> Iterator[Any]:
    if isinstance(parameter, tuple | list):
        for part in parameter:
            yield from _inside(part)
    elif hasattr(parameter, "eqns") or hasattr(parameter, "jaxpr"):
        yield parameter
