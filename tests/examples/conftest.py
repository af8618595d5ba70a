"""How the small examples are run in tests."""

import contextlib
import importlib
import io
import signal
from typing import NamedTuple

import jax
import numpy as np
import pytest
from matplotlib.image import imread

from tests.policy.source import ROOT


class Outcome(NamedTuple):
    """What a run of an example printed, and the one picture that it drew."""

    text: str
    picture: np.ndarray

    def losses(self, part="training"):
        """The losses of a part of the training that were printed."""
        lines = [x for x in self.text.splitlines() if x.startswith(part)]
        return [float(line.split("loss")[1].split()[0]) for line in lines]


@pytest.fixture(autouse=True)
def interruptible():
    """Programs that a test starts hear Ctrl-C, also if the tests run in background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def run_example(tmp_path_factory):
    """Runs the example of a name with options; the result is its Outcome."""

    def run(name, *options):
        folder = tmp_path_factory.mktemp(name)
        output = io.StringIO()
        with contextlib.ExitStack() as stack:
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            patch.syspath_prepend(ROOT / "examples")
            # A fixture is not relaxed by the marker of the tests that use it.
            stack.enter_context(jax.numpy_dtype_promotion("standard"))
            stack.enter_context(jax.numpy_rank_promotion("allow"))
            stack.enter_context(contextlib.redirect_stdout(output))
            importlib.import_module(name).main([*options, f"--out={folder}"])
        (file,) = folder.iterdir()
        assert file.suffix == ".png"
        text = output.getvalue()
        assert f"See {file}." in text and all(x.isprintable() for x in text.split("\n"))
        return Outcome(text.replace(str(folder), ""), imread(file)[..., :3])

    return run
