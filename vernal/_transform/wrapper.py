"""What all transformed functions have in common."""

from collections.abc import Callable
from typing import Any

from .._module.callables import Partial
from .._module.fields import field
from .._module.module import Module


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
