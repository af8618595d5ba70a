"""The catalogue is complete, and its rows are what they say."""

import pathlib
import re

import pytest

from tests.catalogue import MADE, ROWS, Row, public_layers

_TESTS = pathlib.Path(__file__).parents[1]


def test_every_layer_has_a_row() -> None:
    """No public layer escapes the laws."""
    covered = {type(row.split()[0]).__name__ for row in ROWS}
    assert covered - MADE == public_layers()


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_oracle_exists(row: Row) -> None:
    """Each row names a test file that compares it with another implementation."""
    text = (_TESTS / f"{row.oracle}.py").read_text()
    name = re.sub(r"\dd$", "", type(row.split()[0]).__name__)  # MaxPool3d: MaxPool
    assert name in text
