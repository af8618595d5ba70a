"""Figures are what the runs have found; nothing is timed here."""

import importlib
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

_FOLDER = pathlib.Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def timing() -> Iterator[Any]:
    """The module of that name in benchmarks."""
    sys.path.insert(0, str(_FOLDER))
    yield importlib.import_module("timing")
    sys.path.remove(str(_FOLDER))


def counting(values: list[float]) -> Any:
    """Finds one number after the other."""
    left = iter(values)
    return lambda: next(left)


def test_ratios_are_of_the_same_round(timing: Any) -> None:
    """A machine that slows down changes no ratio; the first round does not count."""
    runs = {"raw": counting([9.0, 1.0, 2.0, 4.0]), "b": counting([9.0, 3.0, 6.0, 12.0])}
    found = timing.interleaved(runs, 0, "raw", least=4, warm=0, alone=60)
    assert found["b"].value == timing.Spread(6.0, 4.5, 9.0)
    assert found["b"].ratio == timing.Spread(3.0, 3.0, 3.0) and found["b"].runs == 3
    assert found["raw"].ratio.median == 1


def test_warm_runs_do_not_count(timing: Any) -> None:
    """Nor does a single run have to be thrown away."""
    runs = {"raw": counting([100.0, 2.0])}
    found = timing.interleaved(runs, 0, "raw", least=1, warm=1)
    assert found["raw"].value.median == 2 and found["raw"].runs == 1


def test_several_numbers(timing: Any) -> None:
    """A run may find more than one, and each has its ratio."""
    runs = {"raw": lambda: {"a": 1.0, "b": 2.0}, "c": lambda: {"a": 3.0, "b": 3.0}}
    found = timing.several(runs, 0, "raw", least=2, warm=0)
    ratios = {part: m.ratio.median for part, m in found["c"].items()}
    assert ratios == {"a": 3.0, "b": 1.5}


def test_nothing_has_no_ratio(timing: Any) -> None:
    """Where the reference finds 0, there is a number, and no ratio."""
    runs = {"raw": lambda: {"bytes": 0.0}, "c": lambda: {"bytes": 3.0}}
    found = timing.several(runs, 0, "raw", least=2, warm=0)["c"]["bytes"]
    assert found.value.median == 3 and found.ratio is None


def test_failures_are_told(timing: Any) -> None:
    """One library's failure, or patience, is not the others'."""

    def broken() -> None:
        raise ValueError("no such layer\nand much more")

    runs = {"raw": lambda: 1.0, "broken": broken, "slow": lambda: time.sleep(60)}
    found = timing.interleaved(runs, 0, "raw", least=1, limit=0.05)
    assert found["broken"].failed == "ValueError: no such layer"
    assert found["slow"].failed == "> 0 s" and found["slow"].value is None
    assert found["raw"].failed == "" and found["raw"].value.median == 1


def test_default_is_the_clock(timing: Any) -> None:
    """What finds no number is timed."""
    found = timing.interleaved({"raw": lambda: None}, 0, "raw", least=2)
    assert found["raw"].value.low > 0


def test_fresh(timing: Any) -> None:
    """Each number is that of a process of its own, which can fail."""
    commands = {"a": ["-c", "print('hello'); print(1.5)"], "b": ["-c", "1 / 0"]}
    found = timing.fresh(commands, 1, warm=0)
    assert found["a"].value.median == 1.5 and found["a"].ratio is None
    assert found["b"].failed == "RuntimeError: ZeroDivisionError: division by zero"
