"""Where in the program something is."""

import jax
import jax.numpy as jnp
import pytest

import vernal as vn
from vernal._runtime.stack import user_stack


def caller():
    return user_stack()


def test_the_innermost_frames_come_first():
    """Each line has file, line number and function; three at most."""
    lines = caller()
    line = caller.__code__.co_firstlineno + 1
    assert lines[0].endswith(f"test_stack.py:{line} in caller")
    assert "in test_the_innermost_frames_come_first" in lines[1]
    assert len(lines) == 3


def test_frames_of_libraries_are_left_out():
    """Neither JAX nor vernal itself is shown, though they are in between."""
    found = []

    @vn.filter_jit
    def traced(x):
        found.extend(user_stack())
        return x

    jax.vmap(traced)(jnp.ones(2))
    assert "in traced" in found[0]
    assert "in test_frames_of_libraries_are_left_out" in found[1]


def test_the_shorter_form_of_the_path(monkeypatch, tmp_path):
    """The path is relative where that is shorter."""
    here = __file__.rsplit("/", 1)
    monkeypatch.chdir(here[0])
    assert caller()[0].startswith("test_stack.py:")
    monkeypatch.chdir(tmp_path)
    path = caller()[0].split(":")[0]
    assert path == __file__ or len(path) < len(__file__)


@pytest.mark.parametrize("depth", [1, 5])
def test_depth(depth):
    """Recursion does not make it long."""
    if depth:
        test_depth(depth - 1)
    assert len(user_stack()) <= 3
