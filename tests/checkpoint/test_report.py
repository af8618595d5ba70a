"""The report of what did not fit."""

import pathlib

import pytest

from vernal.checkpoint import LoadReport
from vernal.errors import ModelFileError


def make(count: int) -> LoadReport:
    some = tuple([f"name{i}" for i in range(count)])
    text = "is float32[2] and should be float32[3]"
    return LoadReport(
        pathlib.Path("f"), ("x",), some, some[:1], dict.fromkeys(some, text)
    )


def test_all_is_told_in_few_lines() -> None:
    """The counts, and the first names of each kind, in six lines with the way out."""
    text = str(make(9).error())
    assert isinstance(make(9).error(), ModelFileError)
    assert len(text.splitlines()) <= 6
    lines = text.splitlines()
    assert lines[0] == "f: 19 names do not fit the tree, and 1 do."
    assert lines[1] == "  missing:     9: `name0`, `name1`, `name2`, …"
    assert lines[2] == "  unexpected:  1: `name0`"
    assert lines[3].startswith("  mismatching: 9: `name0` is float32[2] and should be")
    assert "`strict=False`" in lines[4]
    assert max(map(len, lines)) < 500


def test_empty_kinds_are_left_out() -> None:
    """Only what there is has a line."""
    report = LoadReport(pathlib.Path("f"), (), ("a",), (), {})
    assert str(report).splitlines() == [
        "f: 1 name does not fit the tree, and 0 do.",
        "  missing:     1: `a`",
    ]


@pytest.mark.parametrize("field", ["missing", "unexpected", "mismatching"])
def test_complete_means_that_nothing_is_left(field: str) -> None:
    """One name of any kind is enough for no."""
    complete = LoadReport(pathlib.Path("f"), ("a",), (), (), {})
    assert complete.is_complete
    value = {"b": "is"} if field == "mismatching" else ("b",)
    assert not complete._replace(**{field: value}).is_complete
