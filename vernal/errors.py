"""Every error that vernal raises, and the one form that their texts take.

VernalError
├── ModuleError(TypeError)              a Module class or instance is ill-formed
├── FrozenModuleError(AttributeError)   a Module was changed after ``__init__``
├── TreeError(ValueError)               a pytree is not what a tree function needs
├── TransformError(ValueError)          a transformation got what it cannot take
│   └── TraceCountError(RuntimeError)   a function was traced more often than allowed
├── StateError(ValueError)              something is wrong with a State
│   ├── ConsumedStateError              it was replaced by a newer State
│   ├── ForeignStateError               it belongs to another model
│   ├── LostUpdateError                 what was stored in it was dropped
│   └── StateValueError                 a value has another structure or shape
├── LayerError(ValueError)              something is wrong at a layer
│   ├── HyperparameterError             a layer was built with a bad argument
│   ├── InputError                      a layer was called with a bad argument
│   └── AxisNameError(NameError)        a layer needs an axis that is not in scope
├── CheckError(RuntimeError)            ``error_if`` found its condition true
├── EnumerationError(ValueError)        items of different enumerations are mixed
└── ModelFileError(ValueError)          a model file is damaged or does not fit
"""

import dataclasses


def report(title: str, *, expected: str = "", got: str = "", fix: str = "") -> str:
    """Lays out an error text: what is wrong, expected, got, and the way out."""
    rows = {"expected": expected, "got": got, "fix": fix}
    lines = [f"  {name + ':':<9} {text}" for name, text in rows.items() if text]
    return "\n".join([title, *lines])


def short(x: object, limit: int = 60) -> str:
    """A value, or a text, as one line of at most ``limit`` characters."""
    text = " ".join((x if isinstance(x, str) else repr(x)).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


class VernalError(Exception):
    """The root of all errors of this package: catch it to catch them all."""


class ModuleError(VernalError, TypeError):
    """A Module class is ill-formed, or an instance left ``__init__`` incomplete.

    Cure: declare every attribute as a field, and assign each one in ``__init__``.
    """


class FrozenModuleError(VernalError, dataclasses.FrozenInstanceError):
    """An attribute of a Module was assigned or deleted after ``__init__``.

    Cure: build a changed copy with ``vernal.tree_at``.
    """


class TreeError(VernalError, ValueError):
    """A pytree does not have the structure that a function of trees needs.

    Cure: the message names the path at which the structures part.
    """


class TransformError(VernalError, ValueError):
    """A transformation got an argument or option that it cannot take.

    Cure: the message names the option, and what to use in its place.
    """


class TraceCountError(TransformError, RuntimeError):
    """A function below ``debug.assert_max_traces`` was traced once too often.

    Cure: the message names the argument that is not what it was before.
    """


class StateError(VernalError, ValueError):
    """The root of the errors about :class:`vernal.nn.State`."""


class ConsumedStateError(StateError):
    """A State was used after ``set`` or ``update`` had replaced it.

    Cure: go on with the returned State; keep an old one with ``copy.copy(state)``.
    """


class ForeignStateError(StateError):
    """A State does not have the slot that a layer asks for.

    Cure: use the State that ``make_with_state`` returned together with the model.
    """


class LostUpdateError(StateError):
    """A function drops a State in which a layer has stored something.

    Cure: ``y, state = layer(x, state)`` at each layer, and return the last state.
    """


class StateValueError(StateError):
    """The value of a slot has another structure, shape or dtype than it must have.

    Cure: keep shapes and dtypes when setting; under ``vmap`` return an unbatched
    State with ``out_axes=None``.
    """


class LayerError(VernalError, ValueError):
    """The root of the errors that layers raise."""


class HyperparameterError(LayerError):
    """A layer was constructed with an argument outside its range.

    Cure: the message names the argument and its range.
    """


class InputError(LayerError):
    """A layer was called with an input of the wrong shape or type.

    Cure: the message says what the layer takes. Layers take one example; use
    ``jax.vmap`` for a batch.
    """


class AxisNameError(LayerError, NameError):
    """A layer reduces over a named axis that is not in scope where it is called.

    Cure: call it under ``jax.vmap(..., axis_name=...)`` with that very name.
    """


class CheckError(VernalError, RuntimeError):
    """A runtime check, such as :func:`vernal.error_if`, found its condition true.

    Cure: the message is the check's own. ``VERNAL_ON_ERROR=breakpoint`` stops there.

    >>> import vernal as vn, jax.numpy as jnp
    >>> try:
    ...     vn.error_if(jnp.ones(2), True, "this always fails")
    ... except vn.errors.CheckError as error:
    ...     print(str(error).splitlines()[0])
    this always fails
    """


# What the peer calls them, which tells known from traced conditions.
EquinoxRuntimeError = EquinoxTracetimeError = CheckError


class EnumerationError(VernalError, ValueError):
    """An :class:`vernal.Enumeration` is ill-formed, or got an item of another one.

    Cure: ``Child.promote(item)`` makes items of a parent items of a child.
    """


class ModelFileError(VernalError, ValueError):
    """A model file is damaged, cut short, or does not fit the tree to be filled.

    Cure: build ``like`` with the hyperparameters that the file was written with.
    """
