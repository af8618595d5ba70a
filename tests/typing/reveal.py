"""What mypy must infer for the public API. It also runs, as it stands."""

import pathlib
import tempfile
from typing import assert_type

import jax
import jax.numpy as jnp

import vernal as vn


class Counter(vn.Module):
    """A stateful layer as a user writes it."""

    index: vn.nn.StateIndex[jax.Array]

    def __init__(self) -> None:
        self.index = vn.nn.StateIndex(jnp.array(0))


class Affine(vn.Module):
    """A Module with a generated ``__init__``."""

    weight: jax.Array
    name: str = vn.field(static=True, default="affine")


counter, state = vn.nn.make_with_state(Counter)()
file = pathlib.Path(tempfile.mkdtemp()) / "state"
vn.save(file, state)
assert_type(counter, Counter)
assert_type(state, vn.nn.State)
assert_type(state.get(counter.index), jax.Array)
assert_type(Affine(jnp.ones(2)), Affine)
assert_type(Affine(jnp.ones(2), name="x").name, str)
assert_type(vn.nn.inference_mode(counter), Counter)
assert_type(vn.tree_at(lambda m: m.index, counter, None), Counter)
assert_type(vn.nn.split_state(Counter()), tuple[Counter, vn.nn.State])
assert_type(vn.nn.join_state(counter, state), Counter)
assert_type(vn.load(file, state), vn.nn.State)
assert_type(
    vn.load(file, state, strict=False),
    tuple[vn.nn.State, vn.checkpoint.LoadReport],
)


@vn.filter_jit(donate="all-except-first")
@vn.debug.assert_max_traces(max_traces=None)
@vn.filter_checkpoint
def scaled(x: jax.Array, name: str, *, rate: float = 1.0) -> tuple[jax.Array, str]:
    """A function whose signature stays known through the decorators."""
    return rate * x, name


assert_type(scaled(jnp.ones(2), "x", rate=2.0), tuple[jax.Array, str])
assert_type(vn.filter_jit(scaled)(jnp.ones(2), "x"), tuple[jax.Array, str])
scaled(jnp.ones(2), 3)  # type: ignore[arg-type]  # a name is a text
assert_type(
    state.set(counter.index, jnp.array(1)), vn.nn.State
)  # and last: it is used up
