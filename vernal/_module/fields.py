"""``field``: what a Module attribute is to JAX."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

from ..errors import ModuleError, report, short

Kind = Literal[True, False, "if_function"]


def field(
    *,
    converter: Callable[[Any], Any] | None = None,
    static: Kind = False,
    stored: bool = False,
    **kwargs: Any,
) -> Any:
    """Declares an attribute of a :class:`Module`; as ``dataclasses.field``, and more.

    Arguments:
        converter: called on every value that ``__init__`` assigns; its result is
            stored. For example ``converter=jnp.asarray``.
        static: ``False`` (default): the value is part of the pytree, with all its
            leaves. ``True``: it is metadata; JAX compiles anew when it changes, so it
            must be hashable and comparable, and no array. ``"if_function"``: metadata
            if the value is a plain function, part of the pytree if it is something
            that may hold arrays, such as another Module.
        stored: of a static field: whether :func:`save` and
            :func:`tree_serialise_leaves` write its value, a number or a flag, into
            files as they do leaves.
        **kwargs: as for ``dataclasses.field``: ``default``, ``default_factory``,
            ``init``, ``repr``, ``metadata``, ``kw_only`` …

    Raises:
        ModuleError: ``static`` is something else, ``stored`` is set without it, or
            ``metadata`` uses our keys.

    >>> import vernal as vn, jax
    >>> class Scale(vn.Module):
    ...     rate: float
    ...     name: str = vn.field(static=True, default="scale")
    >>> jax.tree.leaves(Scale(2.0))
    [2.0]
    """
    if static is not True and static is not False and static != "if_function":
        raise ModuleError(
            report(
                "field: unknown value of `static`.",
                expected='True, False or "if_function"',
                got=short(repr(static)),
            )
        )
    if stored and static is not True:
        raise ModuleError("field: only with `static=True` can `stored` be set.")
    metadata: Mapping[str, Any] = kwargs.pop("metadata", None) or {}
    if taken := {"static", "stored", "converter"} & set(metadata):
        raise ModuleError(f"field: `metadata` must not have the keys {sorted(taken)}.")
    metadata = {**metadata, "static": static, "stored": stored}
    if converter is not None:
        metadata = {**metadata, "converter": converter}
    return dataclasses.field(metadata=metadata, **kwargs)
