"""``Enumeration``: a fixed set of named outcomes that functions can compute with."""

from collections.abc import Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import wadler_lindig as wl
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Int

from .._module.fields import field
from .._module.module import Module
from ..errors import EnumerationError, report, short
from .checks import branched_error_if

_T = TypeVar("_T")


class EnumerationItem(Module):
    """One entry of an :class:`Enumeration`, or an array of them, as under ``vmap``.

    Attributes:
        value: which entry it is, counted from 0.
        enumeration: the class that it belongs to.

    >>> import vernal as vn
    >>> class Result(vn.Enumeration):
    ...     success = "it worked"
    ...     failure = "it did not work"
    >>> Result.failure
    Result<it did not work>
    """

    value: Int[Array, "..."] | Int[np.ndarray[Any, Any], "..."]
    enumeration: Any = field(static=True)

    def __eq__(self, other: object) -> Bool[Array, "..."]:  # type: ignore[override]
        return jnp.equal(self.value, _same_kind(self, other).value)

    def __ne__(self, other: object) -> Bool[Array, "..."]:  # type: ignore[override]
        return jnp.not_equal(self.value, _same_kind(self, other).value)

    __hash__ = Module.__hash__

    def __repr__(self) -> str:
        return f"{self.enumeration.__qualname__}<{self.enumeration[self]}>"

    def __pdoc__(self, **options: Any) -> Any:
        """How the item looks inside of a printed tree."""
        return wl.TextDoc(repr(self))

    def is_traced(self) -> bool:
        """Whether it is only known at run time which entry this is."""
        return isinstance(self.value, jax.core.Tracer)

    def error_if(self, token: _T, pred: ArrayLike) -> _T:
        """Raises an error with this entry's text if a condition is true.

        Arguments:
            token: any pytree with an array, which is used afterwards.
            pred: the condition.

        Returns:
            ``token``, as :func:`vernal.error_if` does.
        """
        return branched_error_if(token, pred, self.value, self.enumeration.__texts__)


def _is_magic(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


class _EnumerationMeta(type):
    """Collects the entries of a class; its items are attributes of the class."""

    __items__: dict[str, EnumerationItem]
    __texts__: list[str]
    __places__: dict[type, np.ndarray[Any, Any]]

    def __new__(
        mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any]
    ) -> "_EnumerationMeta":
        is_root = not any(isinstance(base, _EnumerationMeta) for base in bases)
        own = {k: v for k, v in namespace.items() if not _is_magic(k) and not is_root}
        rest = {k: v for k, v in namespace.items() if k not in own}
        cls = super().__new__(mcs, name, bases, rest)
        cls.__items__, cls.__texts__, cls.__places__ = {}, [], {}
        for parent in cls.__mro__[1:]:
            if isinstance(parent, _EnumerationMeta):
                inherited = _entries(parent)
                new = [entry for entry in inherited if entry[0] not in cls.__items__]
                for entry in new:
                    _add(cls, *entry)
                places = [list(cls.__items__).index(name) for name, _ in inherited]
                cls.__places__[parent] = np.array(places, np.int32)
        for entry in own.items():
            _add(cls, *entry)
        return cls

    def __getattr__(cls, name: str) -> EnumerationItem:
        items = {} if _is_magic(name) else cls.__items__
        if name in items:
            return items[name]
        names = ", ".join(items) or "nothing"
        raise AttributeError(
            f"{cls.__qualname__} has no entry `{name}`; it has {names}"
        )

    def __getitem__(cls, item: EnumerationItem) -> str:
        value: Any = _member(cls, item, "the text was asked of").value
        if isinstance(value, jax.core.Tracer):
            return "traced"
        if not isinstance(value, jax.Array | np.ndarray):
            return "unknown"  # a leaf may be anything, such as a ShapeDtypeStruct
        texts = np.array(cls.__texts__, dtype=object)[np.asarray(value)]
        return texts if isinstance(texts, str) else str(texts)

    def __iter__(cls) -> Iterator[EnumerationItem]:
        return iter(cls.__items__.values())

    def __len__(cls) -> int:
        return len(cls.__items__)

    def __dir__(cls) -> list[str]:
        return [*super().__dir__(), *cls.__items__]

    def __instancecheck__(cls, x: Any) -> bool:
        is_item = type(x) is EnumerationItem
        return is_item and (cls is Enumeration or x.enumeration is cls)


class Enumeration(metaclass=_EnumerationMeta):
    """A fixed set of named outcomes, each with a text, as values that JAX can handle.

    Write the entries as attributes of a subclass. An item is a pytree of one integer,
    so it can be computed, returned and stored like any array; ``==`` and ``!=`` between
    items of one enumeration give boolean arrays. ``Class[item]`` is its text, and
    ``item.error_if(x, pred)`` raises it (see :func:`error_if`). A subclass has the
    entries of its parents first; :meth:`promote` makes its items of theirs.

    Raises:
        EnumerationError: items of different enumerations are compared or mixed, or an
            entry has no text.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> class Result(vn.Enumeration):
    ...     success = "it worked"
    ...     too_slow = "it took too many steps"
    >>> @jax.jit
    ... def run(steps):
    ...     return Result.where(steps < 10, Result.success, Result.too_slow)
    >>> result = run(12)
    >>> print(Result[result])
    it took too many steps
    >>> bool(result == Result.success)
    False
    """

    @classmethod
    def promote(cls, item: EnumerationItem) -> EnumerationItem:
        """Makes an item of this enumeration of an item of one of its parents.

        >>> import vernal as vn
        >>> class Base(vn.Enumeration):
        ...     success = "it worked"
        >>> class More(Base):
        ...     failure = "it did not work"
        >>> More.promote(Base.success)
        More<it worked>
        """
        parent = item.enumeration if type(item) is EnumerationItem else None
        if parent not in cls.__places__:
            raise EnumerationError(
                report(
                    f"{cls.__qualname__}.promote: this is no item of a parent.",
                    expected=f"an item of one of {_names(cls.__places__)}",
                    got=short(repr(item)),
                )
            )
        places = cls.__places__[parent]
        is_known = isinstance(item.value, np.ndarray)
        value = places[item.value] if is_known else jnp.asarray(places)[item.value]
        return EnumerationItem(np.asarray(value) if is_known else value, cls)

    @classmethod
    def where(
        cls, pred: ArrayLike, a: EnumerationItem, b: EnumerationItem
    ) -> EnumerationItem:
        """``a`` where the boolean ``pred`` is true, else ``b``; as ``jnp.where``.

        >>> import vernal as vn
        >>> class Result(vn.Enumeration):
        ...     success = "it worked"
        ...     failure = "it did not work"
        >>> Result.where(1 > 2, Result.success, Result.failure)
        Result<it did not work>
        """
        first, second = _member(cls, a, "where"), _member(cls, b, "where")
        if not jnp.issubdtype(jnp.result_type(pred), jnp.bool_):
            raise EnumerationError(
                report(
                    f"{cls.__qualname__}.where: the condition is not boolean.",
                    expected="bool or an array of dtype bool",
                    got=short(repr(pred)),
                )
            )
        return EnumerationItem(jnp.where(pred, first.value, second.value), cls)


def _names(classes: Any) -> str:
    found = (c.__qualname__ for c in classes if c is not Enumeration)
    return ", ".join(found) or "its parents, of which there is none"


def _entries(cls: _EnumerationMeta) -> list[tuple[str, str]]:
    return list(zip(cls.__items__, cls.__texts__, strict=True))


def _add(cls: _EnumerationMeta, name: str, text: Any) -> None:
    """Adds an entry, or gives the one of this name another text."""
    if not isinstance(text, str) or name in ("promote", "where"):
        raise EnumerationError(
            report(
                f"{cls.__qualname__}: `{name}` cannot be an entry.",
                expected='name = "text", with a name other than `promote` and `where`',
                got=f"{name} = {short(repr(text))}",
            )
        )
    if name in cls.__items__:
        cls.__texts__[list(cls.__items__).index(name)] = text
        return
    number = np.array(len(cls.__items__), np.int32)
    cls.__items__[name] = EnumerationItem(number, cls)
    cls.__texts__.append(text)


def _member(cls: _EnumerationMeta, item: Any, what: str) -> EnumerationItem:
    if type(item) is EnumerationItem and item.enumeration is cls:
        return item
    raise EnumerationError(
        report(
            f"{cls.__qualname__}: {what} something that is not one of its items.",
            expected=f"an item of {cls.__qualname__}",
            got=short(repr(item)),
            fix="items of a parent are made items of a child by `Child.promote(item)`",
        )
    )


def _same_kind(item: EnumerationItem, other: object) -> EnumerationItem:
    cls = item.enumeration
    return _member(cls, other, "an item was compared with")
