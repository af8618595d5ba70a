"""``Module``: a dataclass that is a pytree, and frozen once ``__init__`` has run.

Its bound methods are Modules themselves.
"""

import abc
import dataclasses
import inspect
import sys
import types
import warnings
from collections.abc import Callable
from dataclasses import MISSING
from typing import TYPE_CHECKING, Any, dataclass_transform

import jax
import numpy as np

from .._tree.compare import tree_equal
from .._tree.filters import is_array
from .._tree.format import tree_pformat
from ..errors import FrozenModuleError, ModuleError, report
from .abstract import check_concrete, still_abstract, take_abstract
from .fields import field
from .instance import Instance, assemble, declare, fields_of
from .methods import Method
from .pickling import get_state, set_state
from .register import register


@dataclass_transform(field_specifiers=(dataclasses.field, field))
class _ModuleMeta(abc.ABCMeta):
    """Prepares each new Module class, and freezes each new instance."""

    def __new__(
        mcs,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        **kwargs: Any,
    ) -> "_ModuleMeta":
        kwargs.pop("strict", None)  # accepted and without effect, as in the peer
        cls = super().__new__(mcs, name, bases, namespace, **kwargs)
        _prepare(cls, has_own_init="__init__" in namespace)
        return cls

    if not TYPE_CHECKING:  # type checkers read the signature of __init__ instead

        @property
        def __signature__(cls):
            _, *rest = inspect.signature(cls.__init__).parameters.values()
            return inspect.Signature(rest)

        def __setattr__(cls, name, value):
            super().__setattr__(name, value)
            if name in cls.__dict__.get("__fields__", ()):
                declare(cls, name)

        def __call__(cls, *args, **kwargs):
            check_concrete(cls)
            plain = cls.__new__ is object.__new__
            self = cls.__new__(cls) if plain else cls.__new__(cls, *args, **kwargs)
            object.__setattr__(self, "__open__", True)
            references = sys.getrefcount(self)
            self.__init__(*args, **kwargs)
            # Only if something refers to self by now can self be inside of itself.
            has_escaped = sys.getrefcount(self) != references
            _finish(self, has_escaped)
            return self


def _prepare(cls: Any, has_own_init: bool) -> None:
    """Everything that can be done once per class: fields, methods, registration."""
    annotations = cls.__dict__.get("__annotations__", {})  # noqa: RUF063 (changed in place)
    own_abstract = take_abstract(annotations)
    cls.__abstract_fields__ = still_abstract(cls, own_abstract, annotations)
    cls.__custom_init__ = has_own_init or getattr(cls, "__custom_init__", False)
    dataclasses.dataclass(eq=False, repr=False, init=not cls.__custom_init__)(cls)
    for name, value in list(cls.__dict__.items()):
        plain = not (name.startswith("__") and name.endswith("__"))
        plain = plain and name not in cls.__dataclass_fields__
        if plain and isinstance(value, types.FunctionType):
            setattr(cls, name, Method(value))
    checks = [c.__dict__.get("__check_init__") for c in cls.__mro__]
    cls.__checks__ = tuple(check for check in checks if check is not None)
    register(cls)


def _finish(self: Any, has_escaped: bool) -> None:
    """Fills in defaults, looks for what is missing, freezes, runs the checks."""
    cls = type(self)
    values = self.__dict__
    for name, declared in cls.__fields__.items():
        if name not in values and hasattr(cls, name):
            setattr(self, name, getattr(cls, name))
        elif name not in values and declared.default_factory is not MISSING:
            setattr(self, name, declared.default_factory())
    missing = [name for name in cls.__fields__ if name not in values]
    if missing:
        raise ModuleError(
            report(
                f"{cls.__name__}: `__init__` left fields without a value.",
                expected="every declared field assigned",
                got=f"no value for {', '.join(missing)}",
                fix="assign them in `__init__`, or give them a default",
            )
        )
    if has_escaped:
        for name, value in values.items():
            _check_tree(self, name, value)
    object.__delattr__(self, "__open__")
    for check in cls.__checks__:
        check(self)


def _warn_static_array(cls: type, name: str) -> None:
    warnings.warn(
        report(
            f"{cls.__name__}.{name}: an array was assigned to a static field.",
            expected="metadata that can be hashed and compared, such as int or str",
            fix="drop `static=True`; to keep it untrained use `jax.lax.stop_gradient`",
        ),
        stacklevel=4,
    )


class _Name:
    """Gives instances a ``__name__``, so that JAX need not print a whole model."""

    def __get__(self, instance: Any, owner: type) -> str:
        return owner.__name__


class _Code:
    """Gives instances the ``__code__`` of ``__call__``, where JAX looks for a place."""

    def __get__(self, instance: Any, owner: Any) -> types.CodeType:
        code: types.CodeType = inspect.unwrap(owner.__call__).__code__
        return code


class Module(Instance, metaclass=_ModuleMeta):
    """The base class of models and layers: an immutable dataclass that is a pytree.

    Declare the attributes as annotations of the class; write an ``__init__`` that
    assigns them, or let it be made as for a dataclass. After it has run, the instance
    is frozen: make changed copies with :func:`vernal.tree_at`. Attributes are children
    of the pytree unless they are declared with ``vernal.field(static=True)``.

    Methods work as usual, and a bound method is itself a pytree that holds its
    instance, so it can be passed to and returned from transformed functions. A method
    ``__check_init__(self)``, if there is one, runs after ``__init__`` for each class
    of the inheritance chain.

    Two Modules are equal if type, structure and all values are; ``hash`` looks at
    structure, shapes and dtypes, so ``jax.jit(model)`` works.

    Raises:
        ModuleError: at construction, if a field is left without a value, or if the
            class has abstract attributes.
        FrozenModuleError: an attribute is assigned or deleted after ``__init__``.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> class Affine(vn.Module):
    ...     weight: jax.Array
    ...     bias: jax.Array
    ...
    ...     def __init__(self, size):
    ...         self.weight = jnp.ones(size)
    ...         self.bias = jnp.zeros(size)
    ...
    ...     def __call__(self, x):
    ...         return self.weight * x + self.bias
    >>> model = Affine(3)
    >>> model
    Affine(weight=f32[3], bias=f32[3])
    >>> grads = jax.grad(lambda m: m(jnp.arange(3.0)).sum())(model)
    >>> grads.weight
    Array([0., 1., 2.], dtype=float32)
    """

    if not TYPE_CHECKING:
        __slots__ = ()
        __dict__ = property(fields_of)
        __name__ = _Name()
        __code__ = _Code()

        def __setattr__(self, name, value):
            if not hasattr(self, "__open__"):
                raise _frozen(self, name)
            declared = type(self).__fields__.get(name)
            if declared is None:
                raise _undeclared(self, name)
            converter = declared.metadata.get("converter")
            if converter is not None:
                value = converter(value)
            _check_value(self, name, value)
            object.__setattr__(self, name, value)

        def __delattr__(self, name):
            raise _frozen(self, name)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if type(self) is not type(other):
            return NotImplemented
        pair = (jax.tree.leaves(self), jax.tree.leaves(other))
        if any(map(_is_unknown, pair[0] + pair[1])):
            return False
        kinds = [[type(x) for x in xs if not is_array(x)] for xs in pair]
        return kinds[0] == kinds[1] and bool(tree_equal(self, other))

    def __hash__(self) -> int:
        leaves, treedef = jax.tree.flatten(self)
        parts = [(x.shape, x.dtype) if is_array(x) else x for x in leaves]
        return hash((treedef, *parts))

    def __repr__(self) -> str:
        return tree_pformat(self)

    def __getstate__(self) -> dict[str, Any]:
        return get_state(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        set_state(self, state)


def _is_unknown(x: Any) -> bool:
    """Whether a leaf has no value to compare: it is traced, or was donated."""
    traced = isinstance(x, jax.core.Tracer)
    return traced or (isinstance(x, jax.Array) and x.is_deleted())


def _check_value(self: Any, name: str, value: Any) -> None:
    kind = type(self).__fields__[name].metadata.get("static", False)
    if kind is True and isinstance(value, jax.Array | np.ndarray):
        _warn_static_array(type(self), name)


def _check_tree(self: Any, name: str, value: Any) -> None:
    """Refuses a value that contains self, such as a method: it would be no tree.

    JAX does not recover from flattening such a thing, so it must not come to that.
    """
    if isinstance(value, jax.Array | str | int | float | None):
        return
    try:
        inner = jax.tree.leaves(value, is_leaf=lambda x: x is self)
    except Exception:  # JAX says what is wrong with it where it is used
        return
    if any(x is self for x in inner):
        raise ModuleError(
            report(
                f"{type(self).__name__}.{name}: the value contains this very Module.",
                expected="a tree, in which nothing is inside of itself",
                got=f"{type(value).__name__} that holds self, or a method of self",
                fix="define a method that does it, or store the function itself",
            )
        )


def _frozen(self: Any, name: str) -> FrozenModuleError:
    cls = type(self).__name__
    return FrozenModuleError(
        report(
            f"{cls}.{name} cannot be changed: Modules are immutable after `__init__`.",
            fix=f"model = vernal.tree_at(lambda m: m.{name}, model, new_value)",
        )
    )


def _undeclared(self: Any, name: str) -> ModuleError:
    cls = type(self)
    return ModuleError(
        report(
            f"{cls.__name__}.{name} is not a declared field.",
            expected=f"one of: {', '.join(cls.__fields__) or '(no fields declared)'}",
            got=f"an assignment to `self.{name}`",
            fix=f"declare it in the class body, such as `{name}: jax.Array`",
        )
    )


class BoundMethod(Module):
    # A method together with its instance, which is the pytree child.

    __func__: Callable[..., Any] = field(static=True)
    __self__: Any

    @property
    def __name__(self) -> str:
        return self.__func__.__name__

    @property
    def __code__(self) -> types.CodeType:
        return self.__func__.__code__

    # help() on a method shows the docstring of that method.
    __doc__ = property(lambda self: self.__func__.__doc__)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(types.MethodType(self.__func__, self.__self__))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__func__(self.__self__, *args, **kwargs)


def _bind(function: Any, instance: Any) -> BoundMethod:
    # Without __init__: methods are accessed often.
    return assemble(BoundMethod, {"__func__": function, "__self__": instance})


Method.bind = staticmethod(_bind)
