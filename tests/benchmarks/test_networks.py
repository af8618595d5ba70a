"""The whole networks do the same in all libraries; nothing here is timed."""

import importlib
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest

_FOLDER = pathlib.Path(__file__).parents[2] / "benchmarks"

# The benchmark is written as its users write: plain JAX broadcasts as NumPy does.
pytestmark = pytest.mark.relaxed


@pytest.fixture(scope="module")
def networks() -> Iterator[Any]:
    """The package, which is found beside the benchmark scripts."""
    sys.path.insert(0, str(_FOLDER))
    yield importlib.import_module("networks")
    sys.path.remove(str(_FOLDER))


@pytest.fixture(scope="module")
def check(networks: Any) -> Any:
    """The program that compares losses."""
    return importlib.import_module("networks.check")


@pytest.fixture(scope="module")
def tasks(networks: Any) -> Any:
    """What the networks have in common."""
    return importlib.import_module("networks.tasks")


def tiny(tasks: Any) -> Any:
    """The sizes of a transformer."""
    return tasks.Sizes(depth=1, width=8, heads=2, length=5, vocabulary=7)


def test_transformers_agree(check: Any, tasks: Any) -> None:
    """All libraries that are here have the losses of plain JAX, over three steps."""
    found = check.all_losses("TRANSFORMERS", tiny(tasks), 2)
    assert {"raw", "vernal", "vernal in jax.jit", "equinox"} <= set(found)
    assert check.differing(check.apart(found)) == []
    assert len(set(found["raw"])) == check.STEPS  # it learns


def test_resnets_agree(networks: Any, tasks: Any) -> None:
    """The first loss of a ResNet in vernal is that of plain JAX."""
    batch, losses = tasks.images(2), []
    for name in ("raw", "vernal"):
        case = networks.cases("RESNETS", [name])[name]
        program = case.make(1)
        loss = jax.jit(lambda *args, step=program.step: step(*args)[1])
        losses.append(float(loss(program.carry, case.place(batch))))
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def test_same_weights(networks: Any, tasks: Any) -> None:
    """Every library has the same numbers in its carry, whatever their layout."""

    def summary(program: Any) -> list[float]:
        leaves = [np.asarray(a) for a in jax.tree.leaves(program.carry[0])]
        leaves = [a for a in leaves if a.ndim]
        return sorted(float(np.sum(np.abs(a))) for a in leaves)

    found = {
        library: summary(networks.cases("TRANSFORMERS", [library])[library].make(sizes))
        for sizes in [tiny(tasks)]
        for library in ("raw", "vernal", "equinox")
    }
    for numbers in found.values():
        np.testing.assert_allclose(numbers, found["raw"], rtol=1e-5)


def test_abstract_construction(networks: Any) -> None:
    """It has the shapes of the real one: as many parameters in every library."""
    sizes = {
        name: sum(
            a.size
            for a in jax.tree.leaves(adapter.abstract_resnet(jax.random.key(0), 2))
            if hasattr(a, "size") and len(a.shape) > 1
        )
        for name, adapter in networks.libraries().items()
        if name in ("raw", "vernal", "equinox")
    }
    assert len(set(sizes.values())) == 1 and sizes["raw"] > 0


def test_a_difference_is_seen(check: Any) -> None:
    """NaN and another loss are no match."""
    found = {"raw": [1.0, 2.0], "a": [1.0, 2.00001], "b": [1.0, 2.1]}
    found["c"] = [1.0, float("nan")]
    assert check.differing(check.apart(found)) == ["b", "c"]


def test_layouts(tasks: Any) -> None:
    """A kernel has the same entries in both layouts, and in Flax's heads."""
    first, last = tasks.fill((4, 3, 2, 2)), tasks.fill_last((2, 2, 3, 4))
    np.testing.assert_array_equal(first.transpose(2, 3, 1, 0), last)
    heads = tasks.fill_flax("query.kernel", (6, 2, 4))
    np.testing.assert_array_equal(heads.reshape(6, 8), tasks.fill((8, 6)).T)
    out = tasks.fill_flax("attention.out.kernel", (2, 4, 6))
    np.testing.assert_array_equal(out.reshape(8, 6), tasks.fill((6, 8)).T)
