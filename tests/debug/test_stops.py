"""Stopping at a condition, and at a NaN in the backward pass."""

import io
import sys

import jax
import jax.numpy as jnp
import pytest

import vernal as vn
from tests.strategies import refuses
from vernal.debug import backward_nan, breakpoint_if
from vernal.errors import CheckError, TransformError


@pytest.mark.parametrize("wrap", [lambda f: f, vn.filter_jit, jax.vmap])
def test_breakpoint(wrap, monkeypatch, capfd):
    """The debugger opens if, and only if, the condition is true somewhere."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("c\nc\nc\n"))

    def f(x):
        breakpoint_if(x > 2)
        return x + 1

    for x, opens in ((jnp.ones(3), False), (jnp.array([1.0, 3.0, 1.0]), True)):
        assert jnp.allclose(wrap(f)(x), x + 1)
        jax.effects_barrier()
        assert ("(jdb)" in capfd.readouterr().out) == opens


def test_a_condition_is_boolean():
    """Numbers are refused."""
    with refuses(TransformError, "not boolean"):
        breakpoint_if(1)


def bad_sqrt(x):
    """The gradient at 0 is 0 * inf."""
    return jnp.where(x > 0, jnp.sqrt(x), 0.0)


def test_backward_nan(capsys):
    """Values and cotangents are printed, and a NaN ends it where it appears."""
    grad = jax.grad(lambda x: bad_sqrt(backward_nan(x, "x") * 1.0))
    assert float(grad(4.0)) == 0.25
    jax.effects_barrier()
    assert capsys.readouterr().out == "x:\n   primals=4.\ncotangents=0.25\n"
    with refuses(CheckError, "a cotangent is NaN at `x`"):
        grad(0.0)
    with refuses(CheckError, "a cotangent is NaN", "compiled in: step"):

        @vn.filter_jit
        def step(x):
            return grad(x)

        step(0.0 * jnp.ones(()))


def test_going_on(capsys):
    """Without termination it only prints."""
    g = jax.grad(lambda x: bad_sqrt(backward_nan(x, terminate=False)))(0.0)
    jax.effects_barrier()
    assert jnp.isnan(g) and "cotangents=nan" in capsys.readouterr().out


def test_any_tree(capsys):
    """Other leaves pass, and the gradient is that of the identity."""

    def f(tree):
        tree = backward_nan(tree)
        return tree["a"] ** 2 * tree["n"]

    g = vn.filter_grad(f)({"a": jnp.array(3.0), "n": 2, "s": "text"})
    assert float(g["a"]) == 12
    jax.effects_barrier()
    assert "{'a': 3.}" in capsys.readouterr().out.replace(", 'n': None, 's': None", "")
