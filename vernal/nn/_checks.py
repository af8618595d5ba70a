"""What layers check at their boundary, and the one voice in which they complain."""

import inspect
import math
import numbers
from collections.abc import Iterable
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from .._module.callables import Partial
from .._module.module import BoundMethod, Module
from .._state.state import State
from .._transform.wrapper import Wrapper
from .._tree.filters import is_array
from .._tree.paths import path_text
from ..errors import (
    HyperparameterError,
    InputError,
    VernalError,
    report,
    short,
)


def require(ok: bool, layer: str, name: str, expected: str, got: Any) -> None:
    """Refuses a bad constructor argument.

    Raises:
        HyperparameterError: if not ``ok``.
    """
    if not ok:
        raise HyperparameterError(
            report(
                f"{layer}: bad argument `{name}`.",
                expected=expected,
                got=f"{short(repr(got))} ({type(got).__name__})",
            )
        )


def is_size(x: Any, minimum: int = 1) -> bool:
    """Whether ``x`` is an integer (and no bool) of at least ``minimum``.

    NumPy's integers count too: ``np.prod(shape)`` is one.
    """
    is_int = isinstance(x, int | np.integer) and not isinstance(x, bool)
    return is_int and bool(x >= minimum)


def is_number(x: Any, minimum: float = 0.0, maximum: float = math.inf) -> bool:
    """Whether ``x`` is a finite real number (and no bool or array) in that range."""
    is_real = isinstance(x, numbers.Real) and not isinstance(x, bool)
    return is_real and math.isfinite(x) and bool(minimum <= x <= maximum)


def is_key(x: Any) -> bool:
    """Whether ``x`` is a single PRNG key, of the new or the old kind."""
    if not is_array(x):
        return False
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return x.shape == ()
    return x.dtype == jnp.uint32 and x.ndim == 1


def require_key(layer: str, key: Any) -> None:
    """Refuses a bad ``key`` of a constructor.

    Raises:
        HyperparameterError: if it is not a single PRNG key.
    """
    expected = "a single PRNG key, such as jax.random.key(0)"
    require(is_key(key), layer, "key", expected, key)


def read_shape(layer: str, shape: int | Iterable[int]) -> tuple[int, ...]:
    """A constructor's ``shape``: one size, each at least 1, or several.

    Raises:
        HyperparameterError: if it is not.
    """
    several = isinstance(shape, Iterable) and not isinstance(shape, str)
    sizes: tuple[Any, ...] = tuple(shape) if several else (shape,)  # type: ignore[arg-type]
    ok = all(map(is_size, sizes))
    require(ok, layer, "shape", "an int ≥ 1, or several", shape)
    return tuple(map(int, sizes))


def check_array(layer: Module, x: Any, what: str = "input") -> None:
    """Refuses what is not an array of real floating or other numbers."""
    if not hasattr(x, "shape") or not hasattr(x, "dtype"):
        fail(
            layer,
            f"the {what} is not an array",
            expected="a JAX or NumPy array",
            got=f"{type(x).__name__}",
            fix="convert it with jnp.asarray",
        )


def check_floating(layer: Module, x: Any, what: str = "input") -> None:
    """Refuses inputs whose moments are not real numbers."""
    check_array(layer, x, what)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        fail(
            layer,
            f"the {what} is not real floating-point",
            expected="float16, bfloat16, float32 or float64",
            got=f"{x.dtype}",
            fix="x.astype(jnp.float32)",
        )


def check_shape(
    layer: Module,
    x: Any,
    dims: str,
    *,
    what: str = "input",
    batch_fix: str = "layers take one example; for a batch use jax.vmap(layer)",
    **sizes: int,
) -> None:
    """Refuses an input whose shape does not match a pattern of named axes.

    Arguments:
        layer: the layer, for the message.
        x: the input.
        dims: names of the axes, as ``"channels height width"``; a closing ``...``
            stands for any number of further axes.
        what: which argument it is, where there are several.
        batch_fix: the way out for an input that only has an axis more in front.
        **sizes: the sizes that named axes must have.

    Raises:
        InputError: with layer, path, expected and given shape, and the likely fix.
    """
    check_array(layer, x, what)
    names = dims.split()
    is_open = names[-1:] == ["..."]
    fixed = names[:-1] if is_open else names
    wrong_rank = x.ndim < len(fixed) or (x.ndim > len(fixed) and not is_open)
    wanted = [sizes.get(name) for name in fixed]
    pairs = zip(wanted, x.shape, strict=False)
    if not wrong_rank and all(n is None or n == m for n, m in pairs):
        return
    given = ", ".join(f"{name} = {size}" for name, size in sizes.items())
    shape = f"({', '.join(names)}{',' if len(names) == 1 else ''})"
    batch_first = x.ndim > len(fixed) and all(
        n is None or n == m for n, m in zip(wanted, x.shape[1:], strict=False)
    )
    fail(
        layer,
        f"the {what} has the wrong shape",
        expected=f"{shape}{' with ' + given if given else ''}",
        got=f"{tuple(x.shape)}, {x.dtype}",
        fix=batch_fix if batch_first else "",
    )


def check_whole_shape(layer: Module, x: Any, shape: tuple[int, ...]) -> None:
    """Refuses an input that is not real floating-point of exactly this shape.

    Raises:
        InputError: with layer, path, expected and given shape.
    """
    check_floating(layer, x)
    if x.shape == shape:
        return
    outer = x.ndim - len(shape)
    is_batch = outer > 0 and x.shape[outer:] == shape
    fail(
        layer,
        "the input has the wrong shape",
        expected=f"{shape}",
        got=f"{tuple(x.shape)}, {x.dtype}",
        fix="for further axes in front, " + "jax.vmap(" * outer + "layer" + ")" * outer
        if is_batch
        else "",
    )


def check_state(layer: Module, state: Any) -> None:
    """Refuses what is not a State."""
    if not isinstance(state, State):
        fail(
            layer,
            "the second argument is not a State",
            expected="the State from `make_with_state`, or from the previous call",
            got=f"{type(state).__name__}",
            fix="y, state = layer(x, state)",
        )


def fail(
    layer: Module,
    title: str,
    *,
    error: type[VernalError] = InputError,
    expected: str = "",
    got: str = "",
    fix: str = "",
) -> NoReturn:
    """Raises ``error`` with the layer's class and its path in the model."""
    where = f"{type(layer).__name__}{locate(layer)}"
    raise error(report(f"{where}: {title}.", expected=expected, got=got, fix=fix))


def locate(layer: Module) -> str:
    """Where a layer stands in the model that is being called: `` at `x` of Model``.

    Layers do not know their place. The Modules whose methods are running do, so the
    call stack is read; this happens only when there is an error to report.
    """
    path, target = "", layer
    for outer in _running_modules():
        if outer is target:
            continue
        inner = _path_to(target, outer)
        if inner is not None:
            path = f"{inner}.{path}" if path and path[0] != "[" else inner + path
            target = outer
    return f" at `{path}` of {type(target).__name__}" if path else ""


def _running_modules() -> list[Module]:
    """The Modules whose methods are on the call stack, innermost first."""
    found: list[Module] = []
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, Module):
            found.append(owner)
        frame = frame.f_back
    around = (BoundMethod, Partial, Wrapper)
    return [module for module in found if not isinstance(module, around)]


def _path_to(target: Module, root: Module) -> str | None:
    try:
        leaves = jax.tree_util.tree_leaves_with_path(
            root, is_leaf=lambda x: x is target
        )
    except Exception:  # its __init__ is still running
        return None
    return next((path_text(path) for path, leaf in leaves if leaf is target), None)
