"""How many Python functions of vernal a jitted call runs, and how often it traces."""

import collections
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import vernal as vn
from tests.costs.by_hand import data, in_vernal, loss, training_step

PACKAGE = str(Path(vn.__file__).parent)


class Blocks(vn.Module):
    """Layers with state: for each, a Module of its own and two StateIndex."""

    blocks: list[Any]

    def __init__(self, depth: int) -> None:
        self.blocks = [vn.nn.BatchNorm(3, "batch") for _ in range(depth)]


def python_calls(call: Any) -> collections.Counter[str]:
    """The functions of vernal, generated ones too, that ``call`` runs."""
    names: collections.Counter[str] = collections.Counter()

    def note(frame: Any, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith((PACKAGE, "<pytree")):
            names[code.co_qualname] += 1

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return names


def add_one(model: Any, state: Any) -> Any:
    """Changes the whole state."""
    return jax.tree.map(lambda x: x + 1, state)


# Everything that a call does in Python besides flattening Modules and State.
PER_CALL = {
    "_JitWrapper.__call__": 1,
    "_lookup": 1,
    "is_function": 1,
    "split": 1,
    "_Compiled.run": 1,
    "_Compiled.arrange": 1,
    "State.tree_flatten": 1,
    "State._alive": 1,
    "State.tree_unflatten": 1,
    "make_state": 1,
}


@pytest.mark.parametrize("depth", [1, 7])
def test_a_jitted_call(depth: int) -> None:
    """One call for each Module, and ten besides: however many arrays there are."""
    model, state = vn.nn.make_with_state(Blocks)(depth)
    step = vn.filter_jit(add_one)
    state = step(model, state)
    calls = python_calls(lambda: step(model, state))
    assert calls == {"_remembered": 1 + 3 * depth, **PER_CALL}


def test_a_training_loop_builds_each_module_once() -> None:
    """Where models come back, each Module is built, and no field is filled in."""
    model, _ = vn.nn.make_with_state(Blocks)(2)
    step = vn.filter_jit(lambda model: jax.tree.map(lambda x: x + 1, model))
    model = step(step(model))
    calls = python_calls(lambda: step(model))
    assert calls["unflatten"] == calls["_remembered"] == 7
    assert calls["flatten"] == calls["values"] == 0


def test_a_training_loop_traces_once() -> None:
    """The first step, later steps, and those after other data, run one program."""
    traces = 0

    @vn.filter_jit
    def step(net: Any, state: Any, xs: Any, ys: Any) -> Any:
        nonlocal traces
        traces += 1
        return training_step(loss)(net, state, xs, ys)

    net, state = in_vernal()
    for seed in range(4):
        xs, ys = data()
        net, state = step(net, state, xs + seed, ys)
    assert traces == 1


def test_vmap_does_not_print_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX asks a function for its name and place; a Module gives those of its call."""
    printed = []  # JAX would go on after an error
    monkeypatch.setattr(vn.Module, "__repr__", lambda self: printed.append(self) or "")
    net, state = in_vernal()
    xs, _ = data()
    axes: Any = {"in_axes": (0, None), "out_axes": (0, None)}
    jax.vmap(net, axis_name="batch", **axes)(xs, state)
    jax.jit(jax.vmap(net.__call__, axis_name="batch", **axes))(xs, state)
    linear = vn.nn.Linear(3, 3, key=jax.random.key(0))
    jax.make_jaxpr(linear)(jnp.ones(3))
    jax.make_jaxpr(jax.vmap(vn.Partial(linear)))(jnp.ones((2, 3)))
    assert printed == []
