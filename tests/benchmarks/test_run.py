"""The program runs what is asked for, and reports it; nothing is timed here."""

import importlib
import json
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import pytest

_FOLDER = pathlib.Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def load() -> Iterator[Any]:
    """Imports the modules of that folder."""
    sys.path.insert(0, str(_FOLDER))
    yield importlib.import_module
    sys.path.remove(str(_FOLDER))


@pytest.fixture
def run(load: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The program, with three rows that find the same at once."""
    timing, rows, run = load("timing"), load("rows"), load("run")

    def good(effort: Any) -> Any:
        candidates = {"raw": lambda: 2.0, "vernal": lambda: 2.1, "nnx": lambda: 8.0}
        found = timing.interleaved(candidates, 0, "raw", least=3, alone=60)
        return found | {"haiku": timing.Measured(failed="> 60 s")}

    def bad(effort: Any) -> Any:
        raise ValueError("no such layer")

    made = [
        rows.Row("good", "A good row", "It is.", good, 1.1),
        rows.Row("missed", "A bar too high", "It is.", good, 2.0, "s", absolute=True),
        rows.Row("broken", "A broken row", "It is.", bad, 1.1),
    ]
    monkeypatch.setattr(run, "rows", lambda quick: made)
    monkeypatch.setitem(load("reasons")._REASONS, "good", "It is so.")
    return run


def test_table(run: Any, capsys: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    """Rows that fail are told, and the others go on."""
    file = tmp_path / "results.json"
    run.main(["--json", str(file)])
    printed = " ".join(capsys.readouterr().out.split())
    assert "broken, raw: ValueError: no such layer" in printed
    assert "1 of 3 rows met." in printed and "> 60 s" in printed
    stored = json.loads(file.read_text())
    assert [row["name"] for row in stored["rows"]] == ["good", "missed", "broken"]


def test_page(run: Any, load: Any, tmp_path: Any) -> None:
    """The page has figures, verdicts, reasons, the machine; and there is a plot."""
    file = tmp_path / "results.json"
    run.main(["--quick", "--json", str(file)])
    load("report").main([str(file), "--folder", str(tmp_path)])
    page = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    for text in (
        "| good | 2,000 ms | 1.05 | ≤ 1.1 | yes | 4.00 | > 60 s |",
        "| missed | 2.00 s | 2.10 s | ≤ 2 s | no | 8.00 s | > 60 s |",
        "| nnx | 8,000 (8,000–8,000) | 4.00 (4.00–4.00) | 2 |",
        "It is so.",
        "run.py --quick --json",
        "cores",
        "jax ",
    ):
        assert text in page
    assert (tmp_path / "results.png").stat().st_size > 10_000


def test_chosen_rows(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows are chosen by patterns, and those that are not there are refused."""
    assert [r["name"] for r in run.main(["--rows", "go*", "x"])["rows"]] == ["good"]
    assert run.main(["--list"]) == {}
    assert "A broken row" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run.main(["--rows", "x"])
    assert "there are good, missed, broken" in capsys.readouterr().err


def test_help(run: Any, load: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Each program says what it does."""
    for name in ("run", "report", "cold"):
        with pytest.raises(SystemExit, match="0"):
            load(name).main(["--help"])
        assert "usage:" in capsys.readouterr().out


def test_rows(load: Any) -> None:
    """Names are unique, and each row has a title and something to measure."""
    for quick in (True, False):
        found = load("rows").rows(quick)
        assert len({row.name for row in found}) == len(found) >= 12
        assert all(row.title and callable(row.measure) for row in found)


def test_reasons(load: Any) -> None:
    """Each reason is one of a row, and each row that must reach something has one."""
    reasons, found = load("reasons"), load("rows").rows(False)
    names = {row.name for row in found} | {row.name.split("-")[0] for row in found}
    assert set(reasons._REASONS) <= names
    lacking = {row.name for row in found if row.bar and not reasons.reason(row.name)}
    assert lacking == set()


def test_verdicts(load: Any) -> None:
    """A row is met by the median, and nearly so by the better quartile."""
    verdict = load("report").verdict
    row: Any = {"bar": 1.0, "absolute": False, "unit": "ms"}
    for median, low, met in (
        (1.0, 0.9, "yes"),
        (1.1, 0.9, "nearly"),
        (1.1, 1.05, "no"),
    ):
        measured = {"ratio": [median, low, 2.0], "value": None, "failed": ""}
        assert verdict(row | {"results": {"vernal": measured}}) == met
    assert verdict(row | {"results": {}}) == "–"
    assert verdict(row | {"bar": None, "results": {}}) == ""


def test_cold(load: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Any function of a random key is run once, and one number printed."""
    seconds = load("cold").main(["jax.random:normal"])
    assert float(capsys.readouterr().out) == seconds > 0


@pytest.mark.relaxed  # the other libraries' ways are run, too
def test_overlap(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All libraries that are here take part, and find a number."""
    overlap, effort = load("overlap"), load("effort")
    monkeypatch.setattr(overlap, "HOST", 0.001)
    monkeypatch.setattr(overlap, "DEVICE", 0.002)
    for what in (overlap.returns, overlap.overlap):
        found = overlap.measure(effort.Effort(0, 1, 60, 1), what)
        assert {"raw", "vernal"} <= set(found)
        assert not any(measured.failed for measured in found.values())
