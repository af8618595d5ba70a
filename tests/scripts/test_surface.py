"""The public surface is the one that is promised; and the script sees what is not."""

import importlib.util
import subprocess
import sys

import pytest

from tests.policy.source import ROOT

SCRIPT = ROOT / "scripts" / "surface.py"


@pytest.fixture(scope="module")
def surface():
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location("surface", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_nothing_is_missing(surface):
    """Every name of the list is there, with its parameters and attributes."""
    assert surface.differences(surface.FILE.read_text()) == []


def test_the_list_is_whole(surface):
    """It has the hundred names, and their methods."""
    found = list(surface.entries(surface.FILE.read_text()))
    assert len({path for _, path, _ in found if "." not in path}) >= 100
    assert ("vernal.nn", "State.get", "(self, item)") in found


def test_the_script(tmp_path):
    """It prints a line for each difference, and its exit status tells."""

    def run(*arguments):
        command = [sys.executable, str(SCRIPT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = run()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    file = tmp_path / "list.txt"
    file.write_text("vernal\n  is_array(x)\n")
    done = run("--file", str(file))
    assert done.returncode == 1
    assert done.stdout == "vernal.is_array: has no parameter `x`\n"
    assert "usage" in run("--help").stdout


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("  nothing()", "missing"),
        ("  if_array(axis)\n    attributes axis, not", "if_array.not: missing"),
        ("  nn.Linear(a)", "has no parameter `a`"),
        ("  is_array(*, element)", "`element` is positional or keyword"),
        ("  is_array(element=1)", "has the default"),
        ("  combine(*, is_leaf=1)", "has the default None, not 1"),
        ("  is_array(*element)", "does not take *element"),
        ("  filter(filter_spec, pytree)", "in the order pytree, filter_spec"),
        ("  partition(pytree)", "needs filter_spec"),
        ("  nn.Dropout(p=1)", "has the default 0.5, not 1"),
        ("  nn.Dropout(inference=0)", "has the default False, not 0"),
        ("  nn.MLP(final_activation=never)", "final_activation"),
    ],
)
def test_differences_are_seen(surface, line, words):
    """Missing names, parameters, kinds, defaults and order are each found."""
    (found,) = surface.differences(f"vernal\n{line}\n")
    assert words in found


@pytest.mark.parametrize(
    "line",
    [
        "  is_array(element)",
        "  nn.Linear(in_features, out_features, use_bias=True, dtype=None, *, key)",
        "  field(**kwargs)",
        "  tree_at(where, pytree, replace=UNSET)",
        "  nn.MLP(in_size, out_size, width_size, depth, activation=jax.nn.relu, "
        "final_activation=identity, *, key)",
        "# a comment\n",
    ],
)
def test_more_is_no_difference(surface, line):
    """Parameters that need not be passed may be there in addition."""
    assert surface.differences(f"vernal\n{line}\n") == []
