"""Public names that are imported when they are first used (PEP 562).

``import vernal`` would otherwise load some 140 modules, most of which a program never
needs. A package writes its imports as always, below ``if TYPE_CHECKING:``, where type
checkers and editors find them; here they are read from there. Once Python has lazy
imports of its own (PEP 810), they will need neither the condition nor this module.
"""

import ast
import importlib
import sys
from collections.abc import Callable
from typing import Any


def lazy_names(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package, from the imports in its source."""
    module = sys.modules[package]
    homes = {
        alias.name: "." * node.level + (node.module or alias.name)
        for block in ast.parse(_source(package)).body
        if isinstance(block, ast.If)  # TYPE_CHECKING
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    def load(name: str) -> Any:
        if name not in homes:
            message = f"module {package!r} has no attribute {name!r}"
            raise AttributeError(message, name=name, obj=module)
        home = importlib.import_module(homes[name], package)
        is_module = homes[name] == f".{name}"
        value = home if is_module else getattr(home, name)
        setattr(module, name, value)  # the next access does not come here
        return value

    return load, lambda: sorted([*homes, *filter(_is_special, vars(module))])


def _is_special(name: str) -> bool:
    return name.startswith("__")


def _source(package: str) -> str:
    loader: Any = sys.modules[package].__spec__.loader  # type: ignore[union-attr]
    source: str | None = loader.get_source(package)
    if source is None:
        raise ImportError(f"{package}: the source is missing; ship the .py files of it")
    return source
