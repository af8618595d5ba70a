"""What all transformed functions have in common."""

from collections.abc import Callable
from typing import Any

from .._module.callables import Partial
from .._module.fields import field
from .._module.module import Module
from ..errors import TransformError, report, short


def check_callable(name: str, fun: Any) -> None:
    """Refuses to transform what is no function."""
    if not callable(fun):
        raise TransformError(
            report(
                f"{name}: the argument is not callable.",
                expected="a function, a Module with `__call__`, or a method",
                got=f"{short(repr(fun))} of type {type(fun).__name__}",
            )
        )


class Wrapper(Module):
    """A function around a function: callable, a pytree, and usable as a method."""

    fun: Callable[..., Any] = field(static="if_function")

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        return self.fun

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else Partial(self, instance)
