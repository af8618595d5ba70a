"""The comparison of libraries measures what it says, and judges it without favor."""

import ast
import contextlib
import importlib
import importlib.util
import io
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

_FOLDER = pathlib.Path(__file__).parents[2] / "benchmarks"

# Where vernal is silently wrong by now: what a compiled function does with a State is
# not seen from outside of it.
_OPEN = {"stale", "lost"}


@pytest.fixture(scope="module")
def script() -> Iterator[Any]:
    """The script, as a module; those that it imports are found beside it."""
    sys.path.insert(0, str(_FOLDER))
    yield importlib.import_module("state_faults")
    sys.path.remove(str(_FOLDER))


@pytest.fixture(scope="module")
def tasks(script: Any) -> Any:
    """The tasks and their judges."""
    return importlib.import_module("faults.tasks")


@pytest.fixture(scope="module")
def measured(script: Any) -> tuple[dict[str, Any], str]:
    """The results of vernal, and what was printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        results = script.main(["--only", "vernal"])
    return results, printed.getvalue()


def test_vernal_gets_it_right(measured: Any, tasks: Any) -> None:
    """Vernal is right or says what is wrong, but for the open questions."""
    ways = measured[0]["vernal"]["tasks"]
    assert list(ways) == list(tasks.TASKS)
    good = {tasks.RIGHT, tasks.REFUSED}
    bad = {
        name: own for name, own in ways.items() if {v for v, _ in own.values()} - good
    }
    assert set(bad) == _OPEN, bad


def test_nothing_is_skipped_in_print(measured: Any, tasks: Any) -> None:
    """The tables name each task, the verdicts and the version."""
    results, printed = measured
    text = " ".join(printed.split())
    for part in ("Early", "Who gets it right", "silently", "1.00 1.00 1.00"):
        assert part in text
    assert f"vernal {results['vernal']['versions']['vernal']}" in text


def test_equinox_adapter_works() -> None:
    """What it reports of Equinox is no slip of ours: the right ways are right."""
    pytest.importorskip("equinox")
    script = importlib.import_module("state_faults")
    with contextlib.redirect_stdout(io.StringIO()):
        results = script.main(["--only", "equinox", "--task", "shared", "transfer"])
    found = results["equinox"]["tasks"]
    assert found["shared"]["nn.Shared"] == ["right", "stored counts: 2"]
    assert found["transfer"]["slots copied by hand"][0] == "right"


X = np.random.default_rng(0).normal(size=(6, 3))
X /= X.std(0)
TRAINED = {"x": X, "variance": X.var(0), "y": X / X.std(0), "dtype": "float16"}
GOOD = {
    "shared": [2],
    "transfer": {"untrained": 2 * X, "before": X, "after": X, "statements": 1},
    "scan": {"outputs": (X, X), "statistics": (X, X), "scans": 1},
    "half": {"float16": TRAINED},
    "forgotten": {"shapes": [(3,), (3,)], "inference": "output 6×3"},
    "reordered": {"saved": {"first": np.ones(3), "second": np.full(3, 5.0)}},
    "stale": 2,
    "lost": 2,
    "zero": np.zeros(3),
    "overwritten": {"before": X, "after": X},
}
GOOD["reordered"]["loaded"] = GOOD["reordered"]["saved"]
BAD: dict[str, list[Any]] = {
    "shared": [[1, 1], [1], [2, 2]],
    "transfer": [
        GOOD["transfer"] | {name: X + 1e-3} for name in ("after", "untrained")
    ],
    "scan": [
        GOOD["scan"] | {"outputs": (X, X + 1e-3)},
        GOOD["scan"] | {"statistics": (X, X + 1e-3)},
        GOOD["scan"] | {"scans": 8},
        GOOD["scan"] | {"outputs": (2 * X, 2 * X)},
    ],
    "half": [
        {"float16": TRAINED | {"variance": np.array([1.1, 1, 1]) * X.var(0)}},
        {"float16": TRAINED | {"variance": np.full(3, np.inf)}},
        {"float16": TRAINED | {"variance": np.array([np.nan, 1, 1]) * X.var(0)}},
        {"float16": TRAINED | {"y": np.zeros_like(X)}},
        {"float16": TRAINED | {"y": np.full_like(X, np.nan)}},
    ],
    "forgotten": [{"shapes": [(3,), (6, 3)], "inference": "output 6×3"}],
    "reordered": [
        GOOD["reordered"]
        | {"loaded": {"first": np.full(3, 5.0), "second": np.ones(3)}},
        {"saved": {"first": X, "second": X}, "loaded": {"first": X, "second": X}},
    ],
    "stale": [1, 0],
    "lost": [1, 0],
    "zero": [np.array([0, np.nan, 0]), np.ones(3)],
    "overwritten": [{"before": X, "after": 0.9 * X}],
}


@pytest.mark.parametrize("name", GOOD)
def test_judges(tasks: Any, name: str) -> None:
    """Each judge takes the truth, and nothing that the task is about."""
    judge = tasks.TASKS[name].judge
    assert judge(GOOD[name])[0] is True
    assert not any(judge(bad)[0] for bad in BAD[name])


def test_judge_of_early_inference(tasks: Any) -> None:
    """The output must be normalized after each number of steps, in mean and scale."""
    judge, truth = tasks.TASKS["early"].judge, tasks.batch(0, 1)
    assert judge(dict.fromkeys(tasks.STEPS, truth)) == (True, "1.00 1.00 1.00")
    for n in tasks.STEPS:
        for bad in (truth + 0.1, truth * 0.9, truth * np.nan):
            assert not judge(dict.fromkeys(tasks.STEPS, truth) | {n: bad})[0]


def test_data(tasks: Any) -> None:
    """Mean and standard deviation are what the tasks take for the truth."""
    x = np.asarray(tasks.batch(1000, 20), float)
    np.testing.assert_allclose(x.mean(0), 1000, rtol=1e-6)
    np.testing.assert_allclose(x.std(0), 20, rtol=1e-5)


def test_statements_are_counted(tasks: Any) -> None:
    """Docstring and ``return`` do not count; what a loop repeats counts once."""

    def sample() -> int:
        """Doc."""
        x = 0
        for i in range(3):
            x += i
        return x

    assert tasks.statements(sample) == 3


def test_errors_are_judged(script: Any, tasks: Any) -> None:
    """An error is helpful if it names what is at fault, and says when it came."""
    worker = importlib.import_module("faults.worker")
    task = tasks.Task("", "", tasks.count, ("axes",))

    def run(text: str) -> Any:
        with tasks.during("in training step 2"):
            raise ValueError(text)

    verdict, text = worker.attempt(task, lambda: run("use\n  out_axes"))
    assert verdict == tasks.REFUSED
    assert text == "ValueError in training step 2: use out_axes"
    assert worker.attempt(task, lambda: run("bad shape"))[0] == tasks.UNHELPFUL
    assert worker.attempt(task, lambda: 2)[0] == tasks.RIGHT
    assert worker.attempt(task, lambda: 1)[0] == tasks.WRONG
    without = tasks.Without(tasks.NOT_APPLICABLE, "why")
    assert worker.attempt(task, without) == (tasks.NOT_APPLICABLE, "why")


def test_absent_library_is_skipped(
    script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A library that is not there, or whose Python is not, is told and left out."""
    worker = importlib.import_module("faults.worker")
    monkeypatch.setitem(worker.LIBRARIES, "torch", "no_such_module")
    absent = worker.main("torch", ["shared"])
    assert absent == {"missing": "no_such_module"}
    results = script.main(
        ["--only", "haiku", "--task", "zero", "--python", "haiku=no_such_python"]
    )
    show = importlib.import_module("faults.show")
    show.show({"torch": absent} | results, ["zero"])
    text = " ".join(capsys.readouterr().out.split())
    assert "PyTorch was skipped: its Python has no `no_such_module`" in text
    assert "Haiku did not run" in text


SOME = {
    "vernal": {
        "versions": {"vernal": "1", "jax": "2"},
        "tasks": {"lost": {"": ("silently wrong", "a|b"), "so": ("right", "c")}},
    },
    "torch": {"versions": {"torch": "3"}, "tasks": {"lost": {"": ("right", "d")}}},
}


def test_without_rich(
    script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where rich is missing the tables are printed as Markdown."""
    show = importlib.import_module("faults.show")
    monkeypatch.setitem(sys.modules, "rich.console", None)
    show.show(SOME, ["lost"])
    lines = capsys.readouterr().out.splitlines()
    assert "| who gets it right | vernal | PyTorch |" in lines
    assert "| A new state thrown away | silently wrong; right: so | right |" in lines
    assert "| vernal |  | **silently wrong** | a\\|b |" in lines
    assert "vernal 1 on jax 2, torch 3" in lines


def test_page(script: Any, tmp_path: pathlib.Path, monkeypatch: Any) -> None:
    """The page has the command without the paths in it, and the same tables."""
    monkeypatch.setattr(script, "ask", lambda library, *_: SOME[library])
    argv = ["--only", "vernal", "--task", "lost", "--python", "torch=/somewhere"]
    with contextlib.redirect_stdout(io.StringIO()):
        script.main([*argv, "--markdown", str(tmp_path / "page.md")])
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "--python torch=PATH" in page
    assert "/somewhere" not in page
    assert "| A new state thrown away | silently wrong; right: so |" in page


def test_pythons_are_checked(script: Any) -> None:
    """A library that does not exist, or no path, ends the program."""
    assert script.interpreters(["torch=a=b"])["torch"] == "a=b"
    for bad in ("tensorflow=a", "torch", "torch="):
        with pytest.raises(SystemExit):
            script.interpreters([bad])


def test_every_adapter_answers(script: Any, tasks: Any) -> None:
    """Each library has an adapter with all tasks, in their order."""
    for library in script.LIBRARIES:
        source = (_FOLDER / "faults" / f"in_{library}.py").read_text(encoding="utf-8")
        last = ast.parse(source).body[-1]
        assert isinstance(last, ast.Assign) and isinstance(last.value, ast.Dict)
        assert [ast.literal_eval(key) for key in last.value.keys] == list(tasks.TASKS)
