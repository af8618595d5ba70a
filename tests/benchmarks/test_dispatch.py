"""The benchmark runs, and compares like with like; nothing here is timed."""

import importlib.util
import pathlib
from typing import Any

import jax
import numpy as np
import pytest

import vernal as vn

_FILE = pathlib.Path(__file__).parents[2] / "benchmarks" / "dispatch.py"


@pytest.fixture(scope="module")
def dispatch() -> Any:
    """The benchmark script, as a module."""
    spec = importlib.util.spec_from_file_location("dispatch", _FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_runs(dispatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A small run measures each row for plain JAX and for vernal."""
    rows = dispatch.main(["--blocks", "2", "--slots", "3", "--seconds", "0"])
    assert set(rows) == {"call, 2 blocks", "trace 3 sets"}
    assert all({"jax", "vernal"} <= set(row) for row in rows.values())
    assert "call, 2 blocks" in capsys.readouterr().out


def test_same_arrays(dispatch: Any) -> None:
    """The dicts hold the very arrays of the model and state, no more and no fewer."""
    model, state = dispatch.build(vn, 3)
    params, stats = dispatch.as_dicts(model, state)
    for ours, plain in ((model, params), (state, stats)):
        ids = sorted(id(x) for x in jax.tree.leaves(ours))
        assert ids == sorted(id(x) for x in jax.tree.leaves(plain))


def test_work_is_done(dispatch: Any) -> None:
    """The timed function changes every array of the state."""
    model, state = dispatch.build(vn, 2)
    _, new = vn.filter_jit(dispatch.call)(model, state, np.ones(4, np.float32))
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(new), strict=True):
        np.testing.assert_array_equal(np.asarray(a) + 1, np.asarray(b))
