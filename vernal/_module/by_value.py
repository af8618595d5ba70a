"""Local functions as static metadata: equal if the same code made them of equal values.

A ``lambda`` in a constructor is a new object each time, equal to no other. As metadata
it would make two Modules of equal configuration differ: they could not be combined leaf
by leaf, and everything would be compiled for each of them.
"""

import types
from collections.abc import Callable
from typing import Any, TypeVar

_Fn = TypeVar("_Fn", bound=Callable[..., Any])

# Types whose values are known by their text. (As numbers, 0.0 and -0.0 are equal.)
_BY_TEXT = {bool, int, float, complex, str, bytes, type(None), type(...)}
_BY_IDENTITY = (type, types.FunctionType, types.BuiltinFunctionType)


class _Local:
    """A local function, compared by its code and by the values that it refers to."""

    __slots__ = ("__wrapped__", "_key")

    def __init__(self, fn: types.FunctionType, key: tuple[Any, ...]) -> None:
        self.__wrapped__ = fn
        self._key = key

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(*args, **kwargs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Local) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"<function {self.__wrapped__.__qualname__}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return by_value, (self.__wrapped__,)


def by_value(fn: _Fn) -> _Fn:
    """Wraps a local function so that it is equal to others that do the same.

    Those are made by the same piece of code, with equal defaults and equal values of
    the outer variables that it uses. Where these are other things than numbers, texts,
    functions and classes, or tuples of them, and for any other callable, the result is
    ``fn`` itself.

    >>> def make(name):
    ...     return by_value(lambda x: getattr(x, name))
    >>> make("real") == make("real"), make("real") == make("imag")
    (True, False)
    """
    if not isinstance(fn, types.FunctionType) or "<locals>" not in fn.__qualname__:
        return fn
    named = fn.__kwdefaults__ or {}
    try:
        around = [cell.cell_contents for cell in fn.__closure__ or ()]
        values = [*(fn.__defaults__ or ()), *named.values(), *around]
        tokens = tuple(map(_token, values))
    except (TypeError, ValueError):  # ValueError: a variable that has no value yet
        return fn
    key = (fn.__code__, id(fn.__globals__), tuple(named), tokens)
    return _Local(fn, key)  # type: ignore[return-value]


def _token(value: Any) -> tuple[Any, ...]:
    """Something hashable that is equal for equal values only."""
    kind = type(value)
    if kind is tuple:
        return kind, *map(_token, value)
    if kind in _BY_TEXT:
        return kind, repr(value)
    if isinstance(value, _BY_IDENTITY):
        return kind, value
    raise TypeError
