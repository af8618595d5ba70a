"""The small computations are the same in the libraries that are here; nothing is timed.

They are relaxed: the libraries' own ways are compared, and strict promotion is not
theirs.
"""

import importlib
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

_FOLDER = pathlib.Path(__file__).parents[2] / "benchmarks"
pytestmark = pytest.mark.relaxed
OURS = ("raw", "vernal", "equinox")


@pytest.fixture(scope="module")
def small() -> Iterator[Any]:
    """The modules, by a function that imports them."""
    sys.path.insert(0, str(_FOLDER))
    yield lambda name: importlib.import_module(f"small.{name}")
    sys.path.remove(str(_FOLDER))


def gathered(small: Any, kind: str, *args: Any) -> dict[str, Any]:
    """What the libraries make of it, without a failure."""
    found, failed = small("gather").gather(kind, *args, only=OURS)
    assert failed == {} and {"raw", "vernal"} <= set(found)
    return found


def test_example(small: Any) -> None:
    """Three steps of training have equal losses, donating or not, and these change."""
    batch, losses = small("values").pairs(), {}
    for name, program in gathered(small, "example").items():
        for donate in (True, False) if name == "raw" else (True,):
            carry = jax.tree.map(
                lambda a: jnp.array(a) if _is_array(a) else a, program.carry
            )
            run, seen = program.jit(program.step, donate), []
            for _ in range(3):
                carry, loss = run(carry, batch)
                seen.append(float(loss))
            losses[name, donate] = seen
    expected = losses["raw", False]
    assert expected[0] > expected[1] > expected[2]
    for seen in losses.values():
        np.testing.assert_allclose(seen, expected, rtol=1e-5)


def _is_array(x: Any) -> bool:
    return isinstance(x, jax.Array)


@pytest.mark.parametrize(
    "kind, args", [("normed", (2,)), ("deep", (3, False)), ("deep", (3, True))]
)
def test_gradients(small: Any, kind: str, args: Any) -> None:
    """Losses and norms of gradients are equal, and a difference would be seen."""
    gather, batch = small("gather"), small("values").pairs(small("values").WIDTH)
    programs = gathered(small, kind, *args)
    seen = {
        k: gather.numbers(*p.jit(p.step)(p.carry, batch)) for k, p in programs.items()
    }
    assert gather.disagreeing(seen) == {}
    seen["vernal"][1] *= 1.001
    assert set(gather.disagreeing(seen)) == {"vernal"}


def test_unrolled_and_scanned_are_the_same(small: Any) -> None:
    """Which is why their first calls can be compared."""
    batch, seen = small("values").pairs(small("values").WIDTH), []
    for scanned in (False, True):
        program = gathered(small, "deep", 3, scanned)["vernal"]
        seen.append(small("gather").numbers(*program.step(program.carry, batch)))
    np.testing.assert_allclose(*seen, rtol=1e-5)


def test_blocks(small: Any) -> None:
    """The whole state is changed, which is as many arrays as plain JAX has."""
    counts = {}
    for name, program in gathered(small, "blocks", 2).items():
        old = jax.tree.leaves(program.carry[1])
        new, y = program.jit(program.step)(program.carry, jnp.ones(4))
        np.testing.assert_array_equal(y, 2 * np.ones(4))
        for a, b in zip(old, jax.tree.leaves(new), strict=True):
            np.testing.assert_array_equal(np.asarray(a) + 1, b)
        counts[name] = len(old)
    assert counts["vernal"] == counts["raw"] == 6


def test_eager(small: Any) -> None:
    """The same outputs."""
    found = gathered(small, "eager")
    expected, _ = found.pop("raw")()
    for run in found.values():
        np.testing.assert_allclose(run()[0], expected, rtol=1e-4, atol=1e-5)


def test_slots(small: Any) -> None:
    """Each slot is one addition, in all libraries."""
    for run in gathered(small, "slots", 3).values():
        names = [equation.primitive.name for equation in run().eqns]
        assert names == ["add"] * 3
