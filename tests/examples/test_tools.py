"""What the small examples share: options that are checked, progress, a polite end."""

import importlib
import io
import re
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from rich.console import Console

from tests.policy.source import ROOT

EXAMPLES = ROOT / "examples"
DOC = "Does things.\n\nIn detail."


@pytest.fixture(scope="module")
def tools():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield importlib.import_module("tools")


def parse(tools, *arguments):
    return tools.parse(arguments, DOC, "things", batch_size=(64, "images in a step"))


def test_options_are_read(tools, tmp_path):
    """Numbers have the names and defaults that were given; the folder is made."""
    options = parse(tools, f"--out={tmp_path / 'new'}", "--seed=3")
    assert (options.batch_size, options.seed) == (64, 3)
    assert options.out == tmp_path / "new" and options.out.is_dir()
    assert parse(tools, f"--out={tmp_path}", "--batch-size=5").batch_size == 5


def test_help_lists_the_options(tools, capsys):
    """--help names every option with its default, below the summary."""
    with pytest.raises(SystemExit) as ended:
        parse(tools, "--help")
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert ended.value.code == 0
    assert "Does things." in text and "In detail" not in text
    assert "--batch-size N images in a step (default: 64)" in text
    assert "--seed N" in text and "--out FOLDER" in text


@pytest.mark.parametrize("value", ["0", "-1", "x", "2.5", "4294967296", ""])
def test_bad_values_are_refused(tools, tmp_path, capsys, value):
    """A value outside its range is refused in words, before anything is written."""
    with pytest.raises(SystemExit) as refused:
        parse(tools, f"--batch-size={value}", f"--out={tmp_path / 'new'}")
    assert refused.value.code == 2
    said = capsys.readouterr().err
    expected = "a whole number from 1 to 4294967295"
    assert f"--batch-size: expected {expected}, got {value!r}" in said
    assert not (tmp_path / "new").exists()


def test_a_bad_folder_is_refused(tools, tmp_path, capsys):
    """A folder that is a file is refused with its name."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as refused:
        parse(tools, f"--out={tmp_path / 'file'}")
    assert refused.value.code == 2
    assert f"--out: {tmp_path / 'file'}: File exists" in capsys.readouterr().err


def test_progress_is_plain_text(tools, capsys):
    """Where there is no terminal, there is a line for each tenth, with the loss."""
    with tools.Progress(40, items=8, unit="images", name="part") as progress:
        for i in range(40):
            progress.step(np.float32(1 / (i + 1)), "all well" if i == 20 else None)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 11 and all(line.isprintable() for line in lines)
    assert lines[0] == "part  1/40  loss 1.000"
    assert re.fullmatch(
        r"part 40/40  loss 0\.025 +[\d,]+ images/s  all well", lines[-1]
    )
    np.testing.assert_allclose(progress.losses(), 1 / np.arange(1, 41), rtol=1e-6)


class Number:
    """A loss that notes when it is waited for."""

    def __init__(self, step, seen):
        self.step, self.seen = step, seen

    def __float__(self):
        self.seen.append(self.step)
        return 0.5


def test_the_bar_is_live_and_waits_for_nothing(tools, monkeypatch):
    """On a terminal there is a bar, which shows only losses that should be there."""
    output, seen = io.StringIO(), []
    console = Console(file=output, force_terminal=True, width=100)
    monkeypatch.setattr(tools, "console", console)
    with tools.Progress(10, items=8, unit="images") as progress:
        for step in range(10):
            progress.step(Number(step, seen))
            assert seen == list(range(step + 1 - tools.LAG))
    text = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", output.getvalue())
    last = text.splitlines()[-1].split("\r")[-1]
    assert re.match(r"training 10/10  loss 0.500 +[\d,]+ images/s", last)


def test_a_figure_is_saved(tools, tmp_path, capsys):
    """The file is a picture, and its name is printed."""
    figure = Figure(figsize=(3, 2))
    tools.style(figure.subplots(), "title", "x", "y")
    tools.save(figure, tmp_path / "[a].png")
    assert imread(tmp_path / "[a].png").shape[:2] == (200, 300)
    assert capsys.readouterr().out == f"See {tmp_path / '[a].png'}.\n"


ENDINGS = {
    "os.kill(os.getpid(), signal.SIGINT)": (130, "Stopped.\n", ""),
    "open('nowhere/file')": (1, "", "nowhere/file: No such file or directory\n"),
    "print('well')": (0, "well\n", ""),
}


@pytest.mark.parametrize("statement", ENDINGS)
def test_it_ends_in_words(statement):
    """A Ctrl-C and a file that cannot be opened end the program without a traceback."""
    program = f"import os, signal, tools\ntools.start(lambda: {statement})"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=EXAMPLES, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == ENDINGS[statement]
