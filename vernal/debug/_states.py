"""Finding states that are lost, or used twice."""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax

from .._compat import dead_code_eliminated, identity_primitive, is_symbolic_zero
from .._module.callables import module_update_wrapper
from .._runtime.stack import user_stack
from .._state.marks import marking
from .._state.state import State
from .._transform.jaxprs import equations
from .._transform.trace import filter_make_jaxpr
from .._transform.wrapper import Wrapper, check_callable
from ..errors import LostUpdateError, report

_P = ParamSpec("_P")
_T = TypeVar("_T")


class _Note:
    """One call of ``set``; compared by identity."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.stack = user_stack()


class _KeepsUpdates(Wrapper):
    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        with marking(_mark):
            jaxpr, *_ = filter_make_jaxpr(self.fun)(*args, **kwargs)
        needed = {id(note) for note in _notes(dead_code_eliminated(jaxpr.jaxpr))}
        lost = {id(n): n for n in _notes(jaxpr) if id(n) not in needed}
        if lost:
            raise _is_lost(self.fun, list(lost.values()))
        return self.fun(*args, **kwargs)


def assert_updates_kept(fn: Callable[_P, _T]) -> Callable[_P, _T]:
    """Refuses a function that loses an update of the state.

    Whoever forgets to pass a new state on loses what a layer has stored in it, and
    nothing fails: statistics stand still. Here each ``set`` is followed through the
    function, through all transformations, to its results. If none of them depends on
    what was stored, the error names the slot, and the line that stored it.

    The function is traced once more for it, at each call: put it below ``jax.jit`` or
    :func:`filter_jit`, so that this happens only when it is compiled. Without this
    decorator nothing is followed, and nothing costs anything.

    Arguments:
        fn: the function that is compiled, usually a training step. (Functions inside of
            it that are compiled themselves must not have been called before.)

    Returns:
        The function, which raises ``LostUpdateError`` if it loses an update.

    >>> import vernal as vn, jax.numpy as jnp
    >>> norm, state = vn.nn.make_with_state(vn.nn.BatchNorm)(2, "batch")
    >>> @vn.filter_jit
    ... @vn.debug.assert_updates_kept
    ... def step(norm, state, xs):
    ...     ys, new = vn.nn.batched(norm)(xs, state)
    ...     return ys, state
    >>> try:
    ...     step(norm, state, jnp.ones((3, 2)))
    ... except vn.errors.LostUpdateError as error:
    ...     print(str(error).splitlines()[0])
    step loses what was stored in `batch_counter`, `batch_state_index`.
    """
    check_callable("assert_updates_kept", fn)
    return module_update_wrapper(_KeepsUpdates(fn))


class _UsesOnce(Wrapper):
    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        out = self.fun(*args, **kwargs)
        new = {id(state) for state in _states(out)}
        layouts = {state._layout for state in _states(out)}
        name = getattr(self.fun, "__name__", "a function")
        for state in _states((args, kwargs)):
            if state._layout in layouts and id(state) not in new:
                state._values, state._consumed_by = None, f"`{name}`"
        return out


def assert_states_used_once(fn: Callable[_P, _T]) -> Callable[_P, _T]:
    """Makes a State that a compiled function has replaced unusable.

    Within a function vernal refuses to use a State again that was replaced by a newer
    one; to a compiled function JAX passes a copy, and the old one stays usable. With
    this, a State among the arguments is replaced if the function returns one of the
    same slots: using the old one again raises ``ConsumedStateError``. Keep one on
    purpose by ``copy.copy(state)``.

    Arguments:
        fn: a compiled function, usually a training step: put this above ``jax.jit`` or
            :func:`filter_jit`. Functions without it pay nothing.

    Returns:
        The function; it gives the same results.

    >>> import vernal as vn, jax.numpy as jnp
    >>> norm, state = vn.nn.make_with_state(vn.nn.BatchNorm)(2, "batch")
    >>> step = vn.debug.assert_states_used_once(vn.filter_jit(vn.nn.batched(norm)))
    >>> ys, new = step(jnp.ones((3, 2)), state)
    >>> try:
    ...     step(jnp.ones((3, 2)), state)
    ... except vn.errors.ConsumedStateError as error:
    ...     print(str(error).splitlines()[0])
    State.flatten: this State was replaced by `Batched`.
    """
    check_callable("assert_states_used_once", fn)
    return module_update_wrapper(_UsesOnce(fn))


def _states(tree: Any) -> list[State]:
    leaves = jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, State))
    return [x for x in leaves if isinstance(x, State)]


def _mark(name: str, value: Any) -> Any:
    leaves, treedef = jax.tree.flatten(value)
    return jax.tree.unflatten(treedef, _marked.bind(*leaves, note=_Note(name)))


def _notes(jaxpr: Any) -> list[_Note]:
    return [e.params["note"] for e in equations(jaxpr) if e.primitive is _marked]


def _is_lost(fun: Any, lost: list[_Note]) -> LostUpdateError:
    name = getattr(fun, "__name__", "the function")
    slots = list(dict.fromkeys(note.name for note in lost))
    more = f" and {len(slots) - 3} more" if len(slots) > 3 else ""
    names = ", ".join(f"`{slot}`" for slot in slots[:3]) + more
    return LostUpdateError(
        report(
            f"{name} loses what was stored in {names}.",
            expected="results that depend on every update of the state",
            got=f"a State that was dropped, set at {' < '.join(lost[0].stack)}",
            fix="y, state = layer(x, state), and return the state at the end",
        )
    )


def _again(*leaves: Any, note: _Note) -> list[Any]:
    known = [x for x in leaves if not is_symbolic_zero(x)]
    new = iter(_marked.bind(*known, note=note) if known else [])
    return [x if is_symbolic_zero(x) else next(new) for x in leaves]


def _nothing(*leaves: Any, note: _Note) -> list[Any]:
    return list(leaves)


def _jvp(primals: Any, tangents: Any, *, note: _Note) -> tuple[list[Any], list[Any]]:
    return _marked.bind(*primals, note=note), list(tangents)


_marked = identity_primitive(
    "state_set",
    {
        "impl": _nothing,
        "abstract": _nothing,
        "lower": _nothing,
        "vmap": _again,
        "transpose": _nothing,
        "jvp": _jvp,
    },
)
