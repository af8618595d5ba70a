"""The digits example: it trains, can be stopped at any moment, and says what is wrong.

All runs share one recipe, so that what one of them compiled serves the others.
"""

import contextlib
import functools
import importlib
import io
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console

import vernal as vn
from tests.policy.source import ROOT

# optax mixes dtypes, as any user's program may.
pytestmark = pytest.mark.relaxed

EXAMPLES = ROOT / "examples"
FILES = ["checkpoint.eqx", "digits.png", "model.eqx"]
EPOCHS, STEPS = 20, 3
RECIPE = [f"--epochs={EPOCHS}", "--batch-size=449", "--width=8", "--seed=3"]


@pytest.fixture(scope="module")
def digits():
    """The example's main module; its folder is where Python looks for its others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        module = importlib.import_module("digits")
        # A new optimizer is a new static argument, and would compile the step anew.
        patch.setattr(module, "make_optimizer", functools.cache(module.make_optimizer))
        yield module


@pytest.fixture(scope="module")
def finished(digits, tmp_path_factory):
    """The folder and the output of a run that nobody interrupted."""
    folder = tmp_path_factory.mktemp("finished")
    output = io.StringIO()
    # A fixture of a module is not relaxed by the marker of its tests.
    relaxed = jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow")
    with relaxed[0], relaxed[1], contextlib.redirect_stdout(output):
        assert digits.main([*RECIPE, "--out", str(folder)]) == 0
    return folder, output.getvalue()


def contents(folder):
    """The bytes of all files in a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def plain(digits, monkeypatch):
    """Leaves the figure out, which takes longer than all the rest."""
    monkeypatch.setattr(digits.digits_figure, "draw", lambda *_: None)


def same_results(folder, other):
    """Whether two folders have the same files, but for the figure."""
    first, second = contents(folder), contents(other)
    figures = first.pop("digits.png", None), second.pop("digits.png", None)
    return first == second and (None in figures or figures[0] == figures[1])


def refusal(digits, folder, *options):
    """What the program says when it refuses to run; it must not change any file."""
    before = contents(folder)
    with pytest.raises(SystemExit) as refused:
        digits.main([*RECIPE, "--out", str(folder), *options])
    assert contents(folder) == before
    return str(refused.value)


def read_checkpoint(digits, folder):
    recipe, *_ = digits.parse(RECIPE)
    return digits.load(folder / "checkpoint.eqx", recipe)


def interrupt_at(call, function):
    """The function, but a Ctrl-C comes just before it is called for the n-th time."""
    calls = 0

    def interrupted(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    return interrupted


def test_all_files_are_written(finished):
    """A run leaves a checkpoint, a model and a figure, and nothing else."""
    assert sorted(contents(finished[0])) == FILES


def test_it_learns(digits, finished):
    """Sixty steps are enough to read four of five held-out digits."""
    history = read_checkpoint(digits, finished[0]).history
    assert history.test_accuracy[-1] > 0.8 > history.test_accuracy[0]
    assert history.loss[-1].mean() < history.loss[0].mean()


def test_what_it_prints_is_plain_text(finished):
    """Where there is no terminal, there are a few lines without control characters."""
    lines = finished[1].splitlines()
    progress = [line for line in lines if line.startswith("epoch ")]
    assert 5 <= len(progress) <= 12
    assert re.fullmatch(
        r"epoch 20/20  loss \d\.\d{3}  train  ?\d\d\.\d%  test  ?\d\d\.\d%"
        r" +[\d,]+ images/s",
        progress[-1],
    )
    assert all(line.isprintable() for line in lines)


def test_every_slot_is_in_the_table(digits, finished):
    """The table has a row for each array of the state: its name, shape and dtype."""
    rows = [re.split(r" *│ *", x)[1:-1] for x in finished[1].splitlines() if "│" in x]
    table = {name: rest for name, *rest in rows}
    assert len(table) == len(
        jax.tree.leaves(read_checkpoint(digits, finished[0])[1].state)
    )
    assert table["norm1.batch_counter"] == ["()", "int32", "60", "60"]
    assert table["norm2.batch_state_index[0]"][:2] == ["(16,)", "float32"]
    assert float(table["conv2.uv_index[1]"][3]) > 0


def test_the_figure_is_a_picture(finished):
    """The figure is a PNG of a size that fits a screen, and not blank."""
    picture = imread(finished[0] / "digits.png", format="png")
    height, width, _ = picture.shape
    assert 1000 <= width <= 2000 and 1000 <= height <= 2000
    assert picture[..., :3].std() > 0.1


def test_the_model_file_is_the_trained_model(digits, finished):
    """Model and state that are read from the file predict what the run predicted."""
    data = digits.digits_data.load()
    model, state, _ = read_checkpoint(digits, finished[0]).training
    make = vn.nn.make_with_state(digits.Network)
    like = make(8, jax.random.key(0))
    loaded = vn.tree_deserialise_leaves(finished[0] / "model.eqx", like)
    expected = digits.predict(model, state, data.test_images)
    np.testing.assert_array_equal(digits.predict(*loaded, data.test_images), expected)


POINTS = {
    "before the first checkpoint": ("digits", "start", 1),
    "before the first step": ("digits", "train_step", 1),
    "in the first epoch": ("digits", "train_step", 2),
    "in a later epoch": ("digits", "train_step", 7 * STEPS + 2),
    "while metrics are stored": ("jax", "device_get", 4),
    "while a checkpoint is written": ("os", "replace", 6),
    "while the last checkpoint is written": ("os", "replace", EPOCHS + 1),
    "while the model is written": ("os", "replace", EPOCHS + 2),
    "before the figure is drawn": ("digits_figure", "draw", 1),
}


@pytest.mark.parametrize("point", POINTS)
def test_an_interruption_changes_nothing(
    digits, finished, plain, tmp_path, monkeypatch, capsys, point
):
    """A run that was stopped and started again ends like one that never was."""
    module, name, call = POINTS[point]
    target = importlib.import_module(module)
    with monkeypatch.context() as patch:
        patch.setattr(target, name, interrupt_at(call, getattr(target, name)))
        assert digits.main([*RECIPE, "--out", str(tmp_path)]) == digits.INTERRUPTED
    assert "goes on from here" in capsys.readouterr().out
    assert digits.main([*RECIPE, "--out", str(tmp_path)]) == 0
    assert same_results(tmp_path, finished[0])


def test_many_interruptions_change_nothing(
    digits, finished, plain, tmp_path, monkeypatch
):
    """It does not matter how often a run is stopped."""
    with monkeypatch.context() as patch:
        step = interrupt_at(0, digits.train_step)
        for call in (4, 5, 11, 30):
            patch.setattr(digits, "train_step", interrupt_at(call, step))
            assert digits.main([*RECIPE, "--out", str(tmp_path)]) == digits.INTERRUPTED
    assert digits.main([*RECIPE, "--out", str(tmp_path)]) == 0
    assert same_results(tmp_path, finished[0])


# The program as it is, but at epoch 7 of its batches the system sends it a Ctrl-C.
SIGNALED = """
import os, runpy, signal, sys
sys.path.insert(0, {folder!r})
import digits_data
batches = digits_data.batches
def signaled(data, size, seed, epoch):
    for i, batch in enumerate(batches(data, size, seed, epoch)):
        if (epoch, i) == (7, 1):
            os.kill(os.getpid(), signal.SIGINT)
        yield batch
digits_data.batches = signaled
runpy.run_path({folder!r} + "/digits.py", run_name="__main__")
"""


def test_a_real_ctrl_c(digits, plain, finished, tmp_path, capsys):
    """A signal ends the program in words, and another process goes on from it."""
    program = SIGNALED.format(folder=str(EXAMPLES))
    command = [sys.executable, "-c", program, *RECIPE, f"--out={tmp_path}"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (process.returncode, process.stderr) == (digits.INTERRUPTED, "")
    assert "goes on from here" in process.stdout
    assert read_checkpoint(digits, tmp_path).epoch == 7
    assert digits.main([*RECIPE, "--out", str(tmp_path)]) == 0
    assert "7 of 20 epochs are done" in capsys.readouterr().out
    assert same_results(tmp_path, finished[0])


def test_a_finished_run_says_so(digits, finished, capsys):
    """Starting a finished run again shows it again, changes nothing, names --fresh."""
    before = contents(finished[0])
    assert digits.main([*RECIPE, "--out", str(finished[0])]) == 0
    output = capsys.readouterr().out
    assert "finished" in output and "--fresh" in output
    assert contents(finished[0]) == before


@pytest.mark.parametrize("option", ["--epochs=3", "--batch-size=64", "--seed=4"])
def test_a_foreign_checkpoint_is_refused(digits, finished, option):
    """A checkpoint of other options is left alone; its options are named."""
    text = refusal(digits, finished[0], option)
    assert "checkpoint.eqx was made with other options" in text
    assert (
        " ".join(RECIPE).replace("=", " ") == re.search("--epochs.*", text)[0].strip()
    )
    assert "--fresh" in text and "--out" in text


def spoil(data, how):
    return {"empty": b"", "cut short": data[:-100], "longer": data + b"x"}.get(
        how, b"not a checkpoint at all"
    )


@pytest.mark.parametrize("how", ["empty", "cut short", "longer", "something else"])
def test_a_damaged_checkpoint_is_refused(digits, finished, tmp_path, how):
    """A damaged checkpoint is left alone, and the message says what to do."""
    path = tmp_path / "checkpoint.eqx"
    path.write_bytes(spoil((finished[0] / path.name).read_bytes(), how))
    text = refusal(digits, tmp_path)
    assert text.startswith(f"{path} is damaged") and "--fresh" in text


def test_fresh_starts_anew(digits, finished, plain, tmp_path):
    """With --fresh it does not matter what is in the folder."""
    (tmp_path / "checkpoint.eqx").write_bytes(b"damaged")
    assert digits.main([*RECIPE, "--out", str(tmp_path), "--fresh"]) == 0
    assert same_results(tmp_path, finished[0])


def test_help_lists_the_options(digits, capsys):
    """--help names every option, with its default."""
    with pytest.raises(SystemExit) as ended:
        digits.main(["--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    for name, default in zip(digits.Recipe._fields, digits.parse([])[0], strict=True):
        assert re.search(rf"--{name.replace('_', '-')} .*\(default: {default}\)", text)
    assert "--out" in text and "--fresh" in text


BAD = ["--epochs=0", "--epochs=2.5", "--batch-size=1", "--batch-size=1348", "--width=0"]
BAD += ["--seed=-1", "--seed=x", "--seed=4294967296"]


@pytest.mark.parametrize("option", BAD)
def test_bad_values_are_refused(digits, tmp_path, capsys, option):
    """A value outside its range is refused in words, before anything is written."""
    with pytest.raises(SystemExit) as refused:
        digits.main([option, f"--out={tmp_path / 'new'}"])
    assert refused.value.code == 2
    name, value = option.split("=")
    assert re.search(
        rf"{name}: expected a whole number from .* '{value}'", capsys.readouterr().err
    )
    assert not (tmp_path / "new").exists()


def test_a_bad_folder_is_refused(digits, tmp_path):
    """A folder that is a file is refused with its name."""
    (tmp_path / "file").write_text("")
    assert refusal(digits, tmp_path, f"--out={tmp_path / 'file'}").startswith(
        str(tmp_path / "file")
    )


def test_the_split_is_fair(digits):
    """A quarter is held out, the same one always, with a tenth of each digit."""
    data, again = digits.digits_data.load(), digits.digits_data.load()
    jax.tree.map(np.testing.assert_array_equal, data, again)
    assert (len(data.train_images), len(data.test_images)) == (1347, 450)
    assert data.train_images.min() == 0 and data.train_images.max() == 1
    counts = [np.bincount(x) for x in (data.train_labels, data.test_labels)]
    np.testing.assert_allclose(counts[0] / 1347, counts[1] / 450, atol=2e-3)


def test_batches_depend_on_seed_and_epoch(digits):
    """The same seed and epoch give the same batches, another one gives others."""
    data = digits.digits_data.load()

    def batches(seed, epoch):
        return list(digits.digits_data.batches(data, 449, seed, epoch))

    first = batches(0, 1)
    assert [images.shape for images, _ in first] == [(449, 1, 8, 8)] * STEPS
    jax.tree.map(np.testing.assert_array_equal, first, batches(0, 1))
    for other in (batches(0, 2), batches(1, 1)):
        assert not np.array_equal(first[0][1], other[0][1])


class Midway:
    """A random generator that always draws the middle: it changes no image."""

    def uniform(self, low, high, size):
        return np.full(size, (low + high) / 2)


def test_augmentation_is_gentle(digits):
    """No rotation, scaling and shift is the identity; others keep most of the ink."""
    images = digits.digits_data.load().train_images
    same = digits.digits_data.augment(images, Midway())
    np.testing.assert_allclose(same, images, atol=1e-6)
    turned = digits.digits_data.augment(images, np.random.default_rng(0))
    assert turned.dtype == np.float32 and turned.min() >= 0 and turned.max() <= 1
    ink = turned.sum() / images.sum()
    assert 0.85 < ink < 1.1 and not np.allclose(turned, images)


def test_the_device_is_not_waited_for(digits, monkeypatch):
    """The metrics of a step are not looked at before later steps are under way."""
    recipe, *_ = digits.parse(["--epochs=1", "--batch-size=64"])
    events = []

    class Log:
        def step(self, epoch, step, loss, accuracy):
            events.append(("read", step))

        def epoch(self, epoch, history):
            events.append(("all", epoch))

    class History:
        def record(self, *args):
            pass

    def train_step(training, *args):
        events.append(("begin", sum(kind == "begin" for kind, _ in events)))
        return training, (0, 0)

    monkeypatch.setattr(digits, "train_step", train_step)
    monkeypatch.setattr(digits, "predict", lambda *_: None)
    monkeypatch.setattr(digits, "measure", lambda *_: None)
    run = digits.Run(0, (None, None, None), History())
    digits.train_epoch(run, recipe, None, digits.digits_data.load(), Log())
    for step in range(recipe.steps - digits.LAG):
        assert events.index(("read", step)) > events.index(("begin", step + digits.LAG))
    assert events[-1] == ("all", 0)


def test_the_step_is_compiled_once(digits, finished, plain, tmp_path, monkeypatch):
    """A run that goes on with arrays from a file traces nothing anew."""
    monkeypatch.setattr(digits, "compute_loss", None)  # cannot be traced
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupt_at(4, os.replace))
        assert digits.main([*RECIPE, "--out", str(tmp_path)]) == digits.INTERRUPTED
    assert digits.main([*RECIPE, "--out", str(tmp_path)]) == 0


def test_the_bar_is_live(digits, monkeypatch):
    """On a terminal there is a bar with loss, accuracy and speed."""
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=100)
    report = importlib.import_module("digits_report")
    monkeypatch.setattr(report, "console", console)
    _, state = vn.nn.make_with_state(digits.Network)(8, jax.random.key(0))
    history = importlib.import_module("digits_figure").History.start(4, 5, state)
    with report.Progress(epochs=4, steps=5, batch_size=64) as progress:
        progress.step(0, 4, np.float32(0.25), np.float32(0.5))
        progress.epoch(0, history)
        progress.epoch(1, history)
        progress.step(2, 0, np.float32(0.125), np.float32(0.75))
    text = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", output.getvalue())
    last = text.splitlines()[-1].split("\r")[-1]
    assert re.match(
        r"epoch 3/4  loss 0.125  train  75.0%  test   0.0% .* images/s", last
    )
