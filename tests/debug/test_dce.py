"""Which arrays the compiler left out."""

import jax
import jax.numpy as jnp
import pytest

import vernal as vn
from tests.strategies import refuses
from vernal.debug import inspect_dce, store_dce
from vernal.errors import TransformError


def test_what_is_used_is_alive(capsys):
    """An array that the result needs has its shape shown; the other is eliminated."""

    @vn.filter_jit
    def f(x):
        used, _unused, _ = store_dce((x**2, {"b": x + 1}, "text"), "used")
        return used

    f(jnp.ones(3)).block_until_ready()
    inspect_dce("used")
    assert capsys.readouterr().out == (
        "Found 1 call to `store_dce`.\nEntry 0:\n(f32[3], {'b': <DCE'd>}, 'text')\n"
    )


def test_several_calls(capsys):
    """Calls of one name are listed together, and those of another name are not."""

    @jax.jit
    def f(x):
        store_dce(x, "other")
        return store_dce(store_dce(x, "several") + 1, "several")

    jax.block_until_ready(f(1.0))
    inspect_dce("several")
    out = capsys.readouterr().out
    assert "Found 2 calls" in out and out.count("f32[]") == 2


def test_under_vmap(capsys):
    """The shape is that of the whole batch."""
    f = jax.jit(jax.vmap(lambda x: store_dce(x, "vmap")))
    jax.block_until_ready(f(jnp.ones(4)))
    inspect_dce("vmap")
    assert "f32[4]" in capsys.readouterr().out


def test_places():
    """Storing belongs inside of jit, and inspecting outside."""
    with refuses(TransformError, "store_dce", "outside", "jax.jit"):
        store_dce(jnp.ones(3))
    with refuses(TransformError, "inspect_dce", "inside"):
        jax.jit(lambda x: inspect_dce())(1.0)


def test_no_calls(capsys):
    """A name that was not used has no calls."""
    inspect_dce(object())
    assert capsys.readouterr().out == "Found 0 calls to `store_dce`.\n"


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.bfloat16, bool])
def test_dtypes(dtype, capsys):
    """It is the identity for any dtype."""
    x = jnp.ones(2, dtype)
    assert jax.jit(lambda x: store_dce(x, dtype))(x).dtype == x.dtype
