"""Pickling and deep copying of Modules that hold compiled functions.

``jax.nn.relu`` and its like are objects that pickle cannot store, though they can be
imported by name. They are stored as that name.
"""

import importlib
from typing import Any, NamedTuple

from .register import is_function


class _ByName(NamedTuple):
    """Stands for what ``from module import name`` gives."""

    module: str
    name: str

    def find(self) -> Any:
        found: Any = importlib.import_module(self.module)
        for part in self.name.split("."):
            found = getattr(found, part)
        return found


def get_state(module: Any) -> dict[str, Any]:
    """The fields of a Module, with functions as names where that is possible."""
    return {key: _to_name(value) for key, value in module.__dict__.items()}


def set_state(module: Any, state: dict[str, Any]) -> None:
    """Fills a Module with what :func:`get_state` returned."""
    for key, value in state.items():
        found = value.find() if isinstance(value, _ByName) else value
        module.__dict__[key] = found


def _to_name(value: Any) -> Any:
    if not is_function(value):
        return value
    simple = getattr(value, "__name__", "")
    path = getattr(value, "__qualname__", None) or simple
    name = _ByName(getattr(value, "__module__", None) or "", path)
    try:
        return name if name.find() is value else value
    except (ImportError, AttributeError, ValueError):
        return value  # a local function, say: pickle explains what it cannot do
