"""Callables that are pytrees: partial applications and wrappers."""

from collections.abc import Callable
from typing import Any, TypeVar

from .._tree._handles import rewrite
from ..errors import ModuleError, report
from .fields import field
from .module import Module
from .register import WRAPPER_NAMES

_ModuleT = TypeVar("_ModuleT", bound=Module)


class Partial(Module):
    """A function with some arguments filled in: ``functools.partial`` as a pytree.

    ``Partial(func, *args, **kwargs)(*more, **others)`` is
    ``func(*args, *more, **kwargs, **others)``. What is filled in can be arrays, models
    or State: all their leaves are leaves of the Partial.

    Attributes:
        func: the function or Module. A plain function is static metadata.
        args: the positional arguments, a tuple.
        keywords: the keyword arguments, a dict.

    >>> import vernal as vn, jax.numpy as jnp
    >>> add_three = vn.Partial(jnp.add, 3.0)
    >>> add_three(4.0)
    Array(7., dtype=float32, weak_type=True)
    """

    func: Callable[..., Any] = field(static="if_function")
    args: tuple[Any, ...]
    keywords: dict[str, Any]

    def __init__(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None:
        self.func = func
        self.args = args
        self.keywords = kwargs

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Calls ``func`` with the stored arguments first, then these."""
        return self.func(*self.args, *args, **{**self.keywords, **kwargs})


def module_update_wrapper(
    wrapper: _ModuleT, wrapped: Callable[..., Any] | None = None
) -> _ModuleT:
    """Gives a Module that wraps a function that function's name and docstring.

    As ``functools.update_wrapper``. The names stay with the instance through
    flattening. The class of ``wrapper`` must have an attribute ``__wrapped__``: a
    field or property that is the wrapped function.

    Arguments:
        wrapper: the Module, usually just constructed; it is changed and returned.
        wrapped: the function; by default ``wrapper.__wrapped__``.

    Raises:
        ModuleError: the class of ``wrapper`` has no ``__wrapped__``.

    >>> import vernal as vn
    >>> class Twice(vn.Module):
    ...     fn: object = vn.field(static="if_function")
    ...
    ...     @property
    ...     def __wrapped__(self):
    ...         return self.fn
    ...
    ...     def __call__(self, x):
    ...         return self.fn(self.fn(x))
    >>> def increment(x):
    ...     "Adds one."
    ...     return x + 1
    >>> twice = vn.module_update_wrapper(Twice(increment))
    >>> twice.__name__, twice.__doc__, twice(1)
    ('increment', 'Adds one.', 3)
    """
    cls = type(wrapper)
    is_field = "__wrapped__" in getattr(cls, "__fields__", {})
    if not is_field and not hasattr(cls, "__wrapped__"):
        raise ModuleError(
            report(
                f"module_update_wrapper: {cls.__name__} has no `__wrapped__`.",
                expected="a Module with a field or property of that name",
                fix="add `__wrapped__ = property(lambda self: self.fn)` to the class",
            )
        )
    source: Any = wrapper.__wrapped__ if wrapped is None else wrapped  # type: ignore[attr-defined]
    names = {name: getattr(source, name, None) for name in WRAPPER_NAMES}
    rewrite(wrapper, {k: v for k, v in names.items() if isinstance(v, str)})
    return wrapper
