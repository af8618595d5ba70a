"""``filter_jit(...).lower``: tracing, lowering and compiling ahead of the call."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vernal as vn
from tests.strategies import Counted, Counter, Scale, refuses
from vernal.errors import TransformError


def test_lower_does_not_run():
    """Lowering traces once, and computes nothing."""
    ran = []

    def f(x):
        jax.debug.callback(lambda: ran.append(1))
        return x + 1

    counted = Counted(f)
    lowered = vn.filter_jit(counted).lower(jnp.ones(3))
    lowered.compile()
    jax.effects_barrier()
    assert counted.calls == 1 and ran == []


def test_lowered_text():
    """The text shows the program, under the function's own name."""

    def my_function(x, n):
        return x * n

    lowered = vn.filter_jit(my_function).lower(jnp.ones(3), 2)
    assert "my_function" in lowered.as_text()
    assert "stablehlo.multiply" in lowered.as_text()
    assert "HloModule" in lowered.as_text(dialect="hlo")
    assert type(lowered.lowered).__name__ == "Lowered"


def test_calling_what_was_compiled():
    """The compiled function takes other arrays of the same kind, and any result."""
    f = Counted(lambda model, x, *, n: {"y": model(x) * n, "n": n, "s": "text"})
    compiled = vn.filter_jit(f).lower(Scale(jnp.ones(3)), jnp.ones(3), n=2).compile()
    for k in (1.0, 2.0):
        out = compiled(Scale(jnp.full(3, k)), np.ones(3, np.float32), n=2)
        assert out["y"].tolist() == [2 * k] * 3
        assert (out["n"], out["s"]) == (2, "text")
    assert f.calls == 1


def test_the_compiled_function_of_jax():
    """JAX's own object is inside, with its analyses."""
    compiled = vn.filter_jit(lambda x: x @ x).lower(jnp.ones((4, 4))).compile()
    assert compiled.compiled.memory_analysis() is not None
    assert "HloModule" in compiled.compiled.as_text()


@pytest.mark.parametrize("other", [3, 2.0, "2"])
def test_another_static_value(other):
    """The compiled function refuses what it was not compiled for."""
    compiled = vn.filter_jit(lambda x, n: x).lower(jnp.ones(3), 2).compile()
    words = ("called with other arguments", "another value that is no array", "again")
    with refuses(TransformError, *words):
        compiled(jnp.ones(3), other)


def test_another_structure():
    """Another structure, or a static field, is refused in the same words."""
    jitted = vn.filter_jit(lambda x: x)
    compiled = jitted.lower([jnp.ones(3)]).compile()
    with refuses(TransformError, "called with other arguments"):
        compiled((jnp.ones(3),))
    compiled = jitted.lower(vn.nn.Dropout(0.5)).compile()
    with refuses(TransformError, "called with other arguments"):
        compiled(vn.nn.Dropout(0.4))


def test_another_shape():
    """Another shape or dtype is JAX's own error."""
    compiled = vn.filter_jit(lambda x: x).lower(jnp.ones(3)).compile()
    with pytest.raises(TypeError, match="float32"):
        compiled(jnp.ones(4))
    with pytest.raises(TypeError, match="int32"):
        compiled(jnp.arange(3))


def test_lowering_a_model_and_a_method():
    """A Module or a method as the function is lowered with its arrays as inputs."""
    scale = Scale(jnp.ones(3))
    compiled = vn.filter_jit(scale).lower(2.0).compile()
    assert compiled(2.0).tolist() == [2.0] * 3

    class M(vn.Module):
        w: object

        def run(self, x):
            return self.w * x

    compiled = vn.filter_jit(M(jnp.ones(3)).run).lower(2.0).compile()
    assert compiled(2.0).tolist() == [2.0] * 3


def test_lowering_with_state():
    """Model and state go through a compiled step, call after call."""
    model, state = vn.nn.make_with_state(Counter)(0)
    step = vn.filter_jit(lambda m, s: m(jnp.array(1), s))
    compiled = step.lower(model, state).compile()
    for _ in range(3):
        _, state = compiled(model, state)
    assert int(state.get(model.index)) == 3


@pytest.mark.parametrize("mode", ["all", "all-except-first", "none"])
def test_donation_by_what_was_compiled(mode):
    """The compiled function gives away the buffers that a call would."""
    jitted = vn.filter_jit(lambda x, y: (x + 1, y + 1), donate=mode)
    compiled = jitted.lower(jnp.ones(3), jnp.ones(3)).compile()
    x, y = jnp.ones(3), jnp.ones(3)
    compiled(x, y)
    assert x.is_deleted() == (mode == "all")
    assert y.is_deleted() == (mode != "none")


def test_lowering_from_shapes():
    """`.lower` takes structs in the place of arrays, as that of `jax.jit` does."""
    struct = jax.ShapeDtypeStruct((3,), jnp.float32)
    compiled = vn.filter_jit(lambda x: x * 2).lower(struct).compile()
    assert compiled(jnp.ones(3)).tolist() == [2.0] * 3
