"""Seeing which layers a call comes to, and what each one returns.

The model is traced in a copy whose layers are of subclasses that note each call. The
note of where a layer stands is metadata of the pytree, so that it comes through
``scan``, ``vmap``, ``jit`` and ``remat``, which build layers anew from their arrays; a
hook that looked for layers by identity would lose them there. Nothing of the model or
of its classes is changed, so that nothing is left behind, whatever happens.

Each call is traced as a jitted function with a number for a name. So the numbers stand
in the jaxpr of the whole, where every transformation has left its mark on them: see
``costs.py``.
"""

import abc
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.tree_util as jtu

from .._module.callables import Partial
from .._module.module import BoundMethod, Module
from .._state.index import StateIndex
from .._state.state import State
from .._transform.wrapper import Wrapper
from .._tree.filters import combine, is_array, partition
from ..typing import PyTree

_PREFIX = "vernal.summary call "
_numbers = itertools.count()
_AROUND = (BoundMethod, Partial, Wrapper)  # they are not part of the model


class Call(NamedTuple):
    """One call of a layer: where it stands, and what it returned."""

    path: tuple[Any, ...]
    output: PyTree  # ``jax.ShapeDtypeStruct`` for arrays, and without the state


class Calls(dict[int, Call]):
    """All calls of one trace, by number."""


def number_of(name: Any) -> int | None:
    """The number of the call that a jitted function in a jaxpr stands for, if any."""
    is_call = isinstance(name, str) and name.startswith(_PREFIX)
    return int(name[len(_PREFIX) :]) if is_call else None


def is_layer(x: Any) -> bool:
    """Whether a node of a model has a row in its summary."""
    return isinstance(x, Module) and not isinstance(x, (*_AROUND, StateIndex))


def modules(node: PyTree, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, Module]]:
    """Yields (path, layer) for every layer in a tree, outer ones first."""
    if is_layer(node):
        yield path, node
    for inner, x in jtu.tree_leaves_with_path(node, is_leaf=_is_below(node)):
        if isinstance(x, Module) and x is not node:
            yield from modules(x, _joined(path, node, inner))


def _joined(path: tuple[Any, ...], node: Any, inner: tuple[Any, ...]) -> Any:
    """The path of what is inside of a node; what is around a model is left out."""
    is_around = isinstance(node, _AROUND) and inner[0].name != "args"
    return (*path, *inner[1:]) if is_around else (*path, *inner)


def watched(node: PyTree, calls: Calls, path: tuple[Any, ...] = ()) -> PyTree:
    """A copy of a tree whose layers note their calls in ``calls``."""

    def below(inner: Any, x: Any) -> Any:
        if not isinstance(x, Module) or x is node:
            return x
        return watched(x, calls, _joined(path, node, inner))

    copy = jtu.tree_map_with_path(below, node, is_leaf=_is_below(node))
    if not is_layer(copy) or not callable(copy):
        return copy
    cls: Any = type(copy)
    return _rebuilt(_watching(cls), copy.__dict__, _Tag(calls, path))


def _is_below(node: Any) -> Callable[[Any], bool]:
    return lambda x: isinstance(x, Module) and x is not node


class _Tag:
    """Rides along with a layer: where it stands, and where its calls are noted.

    Tags of one trace are equal, so that layers alike but for their places still have
    equal structures, and can be mapped together.
    """

    def __init__(self, calls: Calls, path: tuple[Any, ...]) -> None:
        self.calls = calls
        self.path = path

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Tag) and other.calls is self.calls

    def __hash__(self) -> int:
        return id(self.calls)


_TAG = "__watched__"


def _rebuilt(kind: Any, values: dict[str, Any], tag: _Tag | None) -> Any:
    new = object.__new__(kind)
    new.__dict__.update(values)
    if tag is not None:
        new.__dict__[_TAG] = tag
    return new


class _Quiet:
    """Keeps the base classes from hearing of the subclass that is made of them."""

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        pass


@functools.cache
def _watching(cls: Any) -> Any:
    """A subclass that notes its calls, and is a pytree with its tag as metadata."""
    call = cls.__call__

    @functools.wraps(call)
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        tag = self.__dict__.get(_TAG)
        if tag is None:  # it was constructed during the call
            return call(self, *args, **kwargs)
        return _noted(tag, functools.partial(call, self, *args, **kwargs))

    names = {"__module__", "__qualname__", "__doc__"} & set(vars(cls))
    namespace = {name: vars(cls)[name] for name in names}
    namespace |= {"__call__": __call__, "__qualname__": cls.__qualname__}
    # Not by the metaclass's own __new__: there is nothing to prepare anew.
    kind: Any = abc.ABCMeta.__new__(type(cls), cls.__name__, (_Quiet, cls), namespace)

    def flatten(self: Any) -> Any:
        children, metadata = cls.__flatten__(self)
        return children, (metadata, self.__dict__.get(_TAG))

    def with_keys(self: Any) -> Any:
        values = {k: v for k, v in self.__dict__.items() if k != _TAG}
        plain = _rebuilt(cls, values, None)
        children = jtu.tree_leaves_with_path(plain, is_leaf=lambda x: x is not plain)
        return [(path[0], child) for path, child in children], flatten(self)[1]

    def unflatten(metadata: Any, children: Any) -> Any:
        plain = cls.__unflatten__(metadata[0], children)
        return _rebuilt(kind, plain.__dict__, metadata[1])

    jtu.register_pytree_with_keys(kind, with_keys, unflatten, flatten)
    return kind


def _noted(tag: _Tag, call: functools.partial[Any]) -> Any:
    """Runs a call as a jitted function with a number, and notes what it returned."""
    number = next(_numbers)
    given = {id(x) for x in jax.tree.leaves((call.args, call.keywords))}
    rest: list[Any] = []

    def run() -> Any:
        # What is handed through, such as the state of other layers, is left out: it
        # stays the same object, which containers look at, and it costs nothing.
        made, others = partition(
            call(), lambda x: isinstance(x, jax.core.Tracer) and id(x) not in given
        )
        rest.append(others)
        return made

    run.__name__ = f"{_PREFIX}{number}"
    with jax.disable_jit(False):
        made = jax.jit(run)()
    out = combine(made, rest[-1])
    tag.calls[number] = Call(tag.path, _shapes(out))
    return out


def _shapes(out: Any) -> PyTree:
    """The output without the state, and with shapes and dtypes for arrays."""
    if isinstance(out, tuple) and any(isinstance(x, State) for x in out):
        rest = tuple([x for x in out if not isinstance(x, State)])
        out = rest[0] if len(rest) == 1 else rest
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype) if is_array(x) else x, out
    )
