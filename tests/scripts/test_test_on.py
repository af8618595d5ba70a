"""The script that runs the tests on another JAX."""

import subprocess

import pytest

from tests.policy.source import ROOT


def run(*arguments):
    command = ["bash", str(ROOT / "scripts" / "test_on.sh"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("arguments", "status"), [(["--help"], 0), (["x"], 2)])
def test_help(arguments, status):
    """It tells how to use it when asked, and when it is used otherwise."""
    done = run(*arguments)
    assert (done.returncode, done.stderr) == (status, "")
    assert "usage: scripts/test_on.sh FOLDER" in done.stdout
