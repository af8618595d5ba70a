"""What a compiled function depends on, by path, and how two calls of it differ."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.tree_util as jtu

from .._module.module import Module
from .._module.register import is_function
from .._state.state import State
from .._tree.filters import is_array
from .._tree.format import tree_pformat
from .._tree.paths import path_text
from ..errors import short


class Entry(NamedTuple):
    """One thing that a compiled function depends on."""

    kind: str  # "array", "number", "static", "structure" or "placement"
    text: str
    value: Any  # what is compared


class Change(NamedTuple):
    """An entry that is not what it was; None where there is, or was, none."""

    path: str
    before: Entry | None
    now: Entry | None

    def __str__(self) -> str:
        before, now = (x.text if x else "absent" for x in (self.before, self.now))
        return f"{self.path}: {now}, before {before}"


Signature = dict[str, Entry]


def describe(fun: Any, args: Any, kwargs: Any) -> Signature:
    """All that a compilation of ``fun`` for these arguments depends on, by path.

    Of arrays it is shape, dtype, weak type and where they were put; of everything else
    the value; and the structure. It holds no arrays.
    """
    try:
        arguments: dict[str, Any] = (
            inspect.signature(fun).bind(*args, **kwargs).arguments
        )
    except (TypeError, ValueError):  # it has no signature, or another one
        arguments = {"args": args, "kwargs": kwargs}
    found: Signature = {}
    for name, value in arguments.items():
        found.update(entries(name, value))
    return found


def entries(path: str, x: Any) -> Iterator[tuple[str, Entry]]:
    """The entries of a tree below ``path``, each node before what is in it."""
    if jtu.all_leaves([x]):
        yield from _leaf(path, x)
        return
    children = jtu.tree_leaves_with_path(x, is_leaf=lambda y: y is not x)
    treedef: Any = jax.tree.structure(x, is_leaf=lambda y: y is not x)
    metadata = None if isinstance(x, Module) else treedef.node_data()
    kind = (type(x), [key for key, _ in children], metadata)
    yield path, Entry("structure", _node_text(x, len(children)), kind)
    for name, value in _static_fields(x):
        yield f"{path}.{name}", _static(value)
    for key, child in children:
        place = path_text(key)
        yield from entries(f"{path}{'' if place[0] == '[' else '.'}{place}", child)


def _node_text(x: Any, size: int) -> str:
    if isinstance(x, State):
        return short(f"State with {', '.join(x.tree_flatten()[1].names)}")
    if isinstance(x, dict):
        return short(f"dict of {', '.join(map(repr, x))}") if x else "empty dict"
    return (
        f"{type(x).__name__} of {size}"
        if type(x) in (tuple, list)
        else type(x).__name__
    )


def _static_fields(x: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(x, Module):
        cls: Any = type(x)
        for name, value in x.__dict__.items():
            is_field = name in cls.__function_fields__ and is_function(value)
            if name in cls.__static_fields__ or is_field:
                yield name, value


def _leaf(path: str, x: Any) -> Iterator[tuple[str, Entry]]:
    if not is_array(x):
        yield path, _static(x)
        return
    kind = jax.typeof(x)
    weak = getattr(kind, "weak_type", False)
    text = f"{kind.dtype.name}{kind.shape}{' weakly typed' if weak else ''}"
    yield path, Entry("array", text, (kind.shape, kind.dtype, weak))
    is_concrete = isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer)
    if is_concrete and x.committed:
        yield (
            f"placement of {path}",
            Entry("placement", short(str(x.sharding)), x.sharding),
        )


def _static(x: Any) -> Entry:
    if isinstance(x, bool | int | float | complex):
        return Entry("number", repr(x), (type(x), x))
    return Entry("static", short(tree_pformat(x, width=10_000)), x)


def changes(
    before: Signature,
    now: Signature,
    same: Callable[[Entry, Entry], bool] | None = None,
) -> list[Change]:
    """What differs, outermost first: nothing is said of the inside of what does."""
    found: list[Change] = []
    cut: tuple[str, ...] = ()
    for path in {**before, **now}:
        a, b = before.get(path), now.get(path)
        is_same = a is not None and b is not None and (same or same_value)(a, b)
        if is_same or path.startswith(cut):
            continue
        found.append(Change(path, a, b))
        if "structure" in {x.kind for x in (a, b) if x}:
            cut = (*cut, f"{path}.", f"{path}[")
    return found


def same_value(a: Entry, b: Entry) -> bool:
    """Whether two entries are equal."""
    try:
        return a.kind == b.kind and bool(a.value == b.value)
    except Exception:  # what cannot be compared is one thing or another
        return a.value is b.value


def same_type(a: Entry, b: Entry) -> bool:
    """Likewise, where numbers are traced: what matters is their type alone."""
    if a.kind == b.kind == "number":
        return a.value[0] is b.value[0]
    return same_value(a, b)
