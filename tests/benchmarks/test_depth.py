"""The benchmark runs, and what it compares is equal; nothing here is timed."""

import importlib.util
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vernal as vn

_FILE = pathlib.Path(__file__).parents[2] / "benchmarks" / "depth.py"


@pytest.fixture(scope="module")
def depth() -> Any:
    """The benchmark script, as a module."""
    spec = importlib.util.spec_from_file_location("depth", _FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SMALL = ["--width", "4", "--batch", "5", "--repeats", "1"]


def test_runs(depth: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Stack and loop agree to rounding in output, gradients and state."""
    found = depth.main(["--depths", "2", "3", *SMALL])
    assert list(found) == [2, 3]
    for result in found.values():
        assert set(result["differences"]) == {"output", "gradient", "state"}
        assert max(result["differences"].values()) <= 1e-5
        assert all(min(times) > 0 for times in result["times"].values())
    assert "value_and_grad" in capsys.readouterr().out


def test_without_rich(
    depth: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table is plain text then."""
    monkeypatch.setitem(sys.modules, "rich.console", None)
    depth.show("Title", [["depth", "pass"], ["8", "forward"]])
    assert capsys.readouterr().out == "Title\ndepth     pass\n    8  forward\n"


def test_a_difference_is_seen(depth: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another order of the layers is no rounding, and fails."""
    monkeypatch.setattr(depth, "in_turn", reversed_order(depth.in_turn))
    with pytest.raises(SystemExit, match="more than rounding"):
        depth.main(["--depths", "2", *SMALL])


def reversed_order(in_turn: Any) -> Any:
    return lambda layers, x, state: in_turn(layers[::-1], x, state)


def test_same_layers(depth: Any) -> None:
    """The loop has the parameters and statistics of the stack, and there is work."""
    (_, stack, state), (call, layers, states) = depth.build(3, 4).values()
    for a, b in zip(jax.tree.leaves(stack), depth.rows(layers), strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(jax.tree.leaves(states)) == 3 * len(jax.tree.leaves(state))
    xs = jnp.arange(8.0).reshape(2, 4)
    _, new = depth.passes(call)["forward"](layers, states, xs)
    assert not any(vn.tree_equal(new.substate(x), states.substate(x)) for x in layers)


def test_differences(depth: Any) -> None:
    """They are relative to the largest entry; other shapes are no match at all."""
    ones, more = [np.ones(3), np.array(4.0)], [np.ones(3), np.array(5.0)]
    assert depth.difference(more, ones) == 0.25 and depth.difference(ones, ones) == 0
    assert depth.difference([np.ones((1, 3)), ones[1]], ones) == float("inf")
