"""How a Module class becomes a pytree class: all the work is done once per class.

Flatten and unflatten run at every node of every tree that meets JAX, so they are
generated as straight-line code for the fields of one class. The code can be read:
``inspect.getsource(Linear.__flatten__)``.

A Module is frozen, so each instance remembers what flattening gave, and one that was
rebuilt from its children knows it already: that halves the time to flatten it. Only the
node itself is remembered, not what is in its children, so a list among them may change.

It gets its fields when the first of them is read (see instance.py).
"""

import dataclasses
import linecache
from collections.abc import Callable
from typing import Any

import jax.tree_util as jtu

from ..errors import ModuleError, report
from .instance import declare, dict_of, fields_of, remember

# A Module that wraps a function can take over its name and docstring, per instance.
WRAPPER_NAMES = ("__name__", "__qualname__", "__doc__", "__module__")


class _Child:
    """Says in the metadata that an ``if_function`` field is among the children."""

    def __repr__(self) -> str:
        return "<child>"

    def __reduce__(self) -> str:
        return "CHILD"


CHILD = _Child()


def register(cls: type) -> None:
    """Reads the fields of a dataclass, and registers it as a pytree with key paths."""
    fields = {f.name: f for f in dataclasses.fields(cls)}
    kinds = {name: f.metadata.get("static", False) for name, f in fields.items()}
    children = [name for name, kind in kinds.items() if kind is not True]
    static = [name for name, kind in kinds.items() if kind is True]
    stored = [name for name, f in fields.items() if f.metadata.get("stored")]
    either = [name for name, kind in kinds.items() if kind == "if_function"]
    is_wrapper = "__wrapped__" in fields or hasattr(cls, "__wrapped__")
    optional = WRAPPER_NAMES if is_wrapper else ()

    source = _flatten_source("flatten", children, static, either, optional)
    source += _flatten_source("with_keys", children, static, either, optional)
    source += _values_source(list(fields), children, static, either, optional)
    source += _UNFLATTEN_AT_ONCE if either or optional else _UNFLATTEN
    code = _compile(source, cls, {name: jtu.GetAttrKey(name) for name in children})
    flatten, unflatten = code["flatten"], code["unflatten"]
    jtu.register_pytree_with_keys(cls, code["with_keys"], unflatten, _remembered)
    for name in fields:
        declare(cls, name)
    cls.__fields__ = fields  # type: ignore[attr-defined]
    cls.__static_fields__ = frozenset(static)  # type: ignore[attr-defined]
    cls.__stored_fields__ = frozenset(stored)  # type: ignore[attr-defined]
    cls.__function_fields__ = frozenset(either)  # type: ignore[attr-defined]
    cls.__flatten__ = flatten  # type: ignore[attr-defined]
    cls.__unflatten__ = staticmethod(unflatten)  # type: ignore[attr-defined]
    cls.__values__ = staticmethod(code["values"])  # type: ignore[attr-defined]


def _remembered(self: Any) -> Any:
    """Flattens a Module; the second time, it only looks up what came out."""
    try:
        return self.__flat__
    except AttributeError:
        flat = self.__flatten__()
    if not hasattr(self, "__open__"):
        remember(self, flat)
    return flat


def _flatten_source(
    function: str,
    children: list[str],
    static: list[str],
    either: list[str],
    optional: tuple[str, ...],
) -> str:
    def child(name: str) -> str:
        place = f"fields[{name!r}]"
        item = f"(keys[{name!r}], {place})" if function == "with_keys" else place
        # A function leaves no trace among the children: None or () would be mapped by
        # whoever takes those for leaves.
        return (
            f"*(() if is_function({place}) else ({item},))" if name in either else item
        )

    kept = [f"fields[{name!r}]" for name in static]
    kept += [f"x if is_function(x := fields[{n!r}]) else CHILD" for n in either]
    kept += [f"fields.get({name!r}, CHILD)" for name in optional]
    return (
        f"def {function}(self):\n"
        "    fields = fields_of(self)\n"
        "    try:\n"
        f"        return {_tuple(map(child, children))}, {_tuple(kept)}\n"
        "    except KeyError as error:\n"
        "        raise unset_field(self, error) from None\n\n"
    )


def _values_source(
    fields: list[str],
    children: list[str],
    static: list[str],
    either: list[str],
    optional: tuple[str, ...],
) -> str:
    known = {name: f"static{i}" for i, name in enumerate([*static, *either, *optional])}
    given = {name: f"child{i}" for i, name in enumerate(children)}
    lines = [f"{_tuple(known.values())} = metadata"]
    if either:
        lines += ["children = iter(children)"]
        for name, child in given.items():
            kept, value = known.get(name), "next(children)"
            lines += [
                f"{child} = {kept} if {kept} is not CHILD else {value}"
                if kept
                else f"{child} = {value}"
            ]
    else:
        lines += [f"{_tuple(given.values())} = children"]
    items = [f"{name!r}: {(known | given)[name]}" for name in fields]
    lines += [f"values = {{{', '.join(items)}}}"]
    for name in optional:
        lines += [f"if {known[name]} is not CHILD: values[{name!r}] = {known[name]}"]
    lines += ["return values"]
    return "def values(metadata, children):\n    " + "\n    ".join(lines) + "\n\n"


_UNFLATTEN = """\
def unflatten(metadata, children):
    self = new(cls)
    remember(self, (tuple(children), metadata))
    return self
"""

# A function may have come in the place of a child: then the flat form is another one.
# And the names of a wrapper must hide those of its class.
_UNFLATTEN_AT_ONCE = """\
def unflatten(metadata, children):
    self = new(cls)
    dict_of(self).update(values(metadata, children))
    return self
"""


def _tuple(items: Any) -> str:
    return "(" + "".join(f"{item}, " for item in items) + ")"


def _compile(
    source: str, cls: type, keys: dict[str, jtu.GetAttrKey]
) -> dict[str, Callable[..., Any]]:
    """Compiles generated code so that tracebacks and inspect can show its lines."""
    file = f"<pytree functions of {cls.__module__}.{cls.__qualname__}>"
    names: dict[str, Any] = {
        "CHILD": CHILD,
        "cls": cls,
        "dict_of": dict_of,
        "fields_of": fields_of,
        "is_function": is_function,
        "keys": keys,
        "new": object.__new__,
        "remember": remember,
        "unset_field": _unset_field,
    }
    exec(compile(source, file, "exec"), names)
    linecache.cache[file] = (len(source), None, source.splitlines(True), file)
    return names


_function_types: dict[type, bool] = {}


def is_function(value: Any) -> bool:
    """Whether a value is a callable that JAX sees as a leaf: it cannot hold arrays."""
    kind = type(value)
    known = _function_types.get(kind)
    if known is None:
        known = callable(value) and jtu.all_leaves([value])
        _function_types[kind] = known
    return known


def _unset_field(module: Any, error: KeyError) -> ModuleError:
    return ModuleError(
        report(
            f"{type(module).__name__}: a field has no value yet.",
            expected="every field assigned before the Module is used as a pytree",
            got=f"no value for {error.args[0]!r}",
            fix="assign all fields first in `__init__`, then call methods of self",
        )
    )
