"""Walking through jaxprs."""

from collections.abc import Iterator
from typing import Any


def equations(jaxpr: Any) -> Iterator[Any]:
    """All equations of a jaxpr, and of those inside of them."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)  # a closed one has it inside
    for equation in jaxpr.eqns:
        yield equation
        for parameter in equation.params.values():
            yield from _inside(parameter)


def _inside(parameter: Any) -> Iterator[Any]:
    if isinstance(parameter, tuple | list):
        for part in parameter:
            yield from _inside(part)
    elif hasattr(parameter, "eqns") or hasattr(parameter, "jaxpr"):
        yield from equations(parameter)
