"""A place for tools that want to know of each ``set``; nothing, unless one is at work.

It is looked at while a function is traced, so that compiled functions pay nothing.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

Mark: TypeAlias = Callable[[str, Any], Any]

_marks: list[Mark] = []


@contextlib.contextmanager
def marking(mark: Mark) -> Iterator[None]:
    """Within the block, each value that is stored passes through ``mark(name, x)``."""
    _marks.append(mark)
    try:
        yield
    finally:
        _marks.remove(mark)


def marked(name: str, value: Any) -> Any:
    """The value as all marks at work give it back."""
    for mark in _marks:
        value = mark(name, value)
    return value
