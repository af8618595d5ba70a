"""The checkpoints of a training run."""

import os
import pathlib
import subprocess
import sys
import threading
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import vernal as vn
from tests.model_files import assert_same
from tests.policy.source import ROOT
from tests.strategies import refuses
from vernal.checkpoint import Manager, _manager
from vernal.errors import ModelFileError, TreeError


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "deep" / "run"


OPTIMIZER = optax.adam(1e-2)


def start(seed: int = 0) -> dict[str, Any]:
    """A run at its beginning, with random keys and a step of Python's."""
    key = jr.key(seed)

    def make(key: jax.Array) -> Any:
        layers = [vn.nn.Linear(3, 4, key=key), vn.nn.BatchNorm(4, "batch")]
        return vn.nn.Sequential([*layers, vn.nn.Dropout(0.5)])

    model, state = vn.nn.make_with_state(make)(key)
    opt_state = OPTIMIZER.init(model)
    arrays = {"model": model, "state": state, "opt_state": opt_state, "key": key}
    return {**arrays, "step": 0}


def loss(model: Any, state: Any, xs: jax.Array, key: jax.Array) -> Any:
    def one(x: jax.Array, state: Any, key: jax.Array) -> Any:
        return model(x, state, key=key)

    batched = jax.vmap(one, axis_name="batch", in_axes=(0, None, 0), out_axes=(0, None))
    ys, state = batched(xs, state, jr.split(key, len(xs)))
    return jnp.mean((ys - 1) ** 2), state


@vn.filter_jit(donate="all")
def update(run: Any) -> Any:
    key, data, noise = jr.split(run["key"], 3)
    xs = jr.normal(data, (8, 3))
    value = vn.filter_value_and_grad(loss, has_aux=True)
    (metric, state), grads = value(run["model"], run["state"], xs, noise)
    updates, opt_state = OPTIMIZER.update(grads, run["opt_state"])
    model = vn.apply_updates(run["model"], updates)
    return {"model": model, "state": state, "opt_state": opt_state, "key": key}, metric


def train(run: Any, steps: int, manager: Manager | None = None) -> Any:
    for _ in range(steps):
        number = run["step"] + 1
        arrays, metric = update({k: v for k, v in run.items() if k != "step"})
        run = {**arrays, "step": number}
        if manager is not None:
            manager.save(number, run, metric=metric)
    return run


@pytest.mark.relaxed  # optax adds int counts to floats, as its users do
def test_a_run_goes_on_bit_by_bit(folder: pathlib.Path) -> None:
    """Stopped, restored into another start, and trained on: the same in every bit.

    Each step donates the arrays that were just saved.
    """
    whole = train(start(), 12)
    with Manager(folder, keep=3) as manager:
        train(start(), 7, manager)
    with Manager(folder, keep=3) as manager:
        assert manager.steps == (5, 6, 7)
        resumed = manager.restore(start(1))
        assert resumed["step"] == 7
        resumed = train(resumed, 5, manager)
        assert_same(resumed, whole)
        assert manager.steps == (10, 11, 12)
        assert_same(train(manager.restore(start(1), 10), 2), whole)


def test_values_are_those_at_the_time_of_saving(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Donating or overwriting the arrays before they are written changes nothing."""
    gate, write = threading.Event(), _manager.write

    def slow(*args: Any) -> None:
        assert gate.wait(10)
        write(*args)

    monkeypatch.setattr(_manager, "write", slow)
    double = jax.jit(lambda x: 2 * x, donate_argnums=0)
    x, y = jnp.arange(10_000.0), np.arange(10)
    with Manager(folder) as manager:
        note = ["old"]
        manager.save(1, {"x": x, "y": y}, metadata=note)  # and nothing is written yet
        note[0] = "another"
        for _ in range(10):
            x = double(x)
        y[:] = 0
        assert not list(folder.glob("*.safetensors"))
        gate.set()
        loaded = manager.restore({"x": x, "y": y})
    assert vn.checkpoint.inspect(manager.path()).metadata["metadata"] == ["old"]
    assert (loaded["x"] == jnp.arange(10_000.0)).all()
    assert (loaded["y"] == np.arange(10)).all()


def run_metrics(folder: pathlib.Path, metrics: list[Any], **options: Any) -> Manager:
    with Manager(folder, **options) as manager:
        for step, metric in enumerate(metrics):
            manager.save(step, jnp.array(step), metric=metric)
    return manager


@pytest.mark.parametrize(
    "options, steps, best",
    [
        ({}, (5,), None),
        ({"keep": 2}, (4, 5), None),
        ({"keep": 9}, (0, 1, 2, 3, 4, 5), None),
        ({"best": "min"}, (2, 5), 2),
        ({"best": "max"}, (1, 5), 1),
        ({"best": "max", "keep": 5}, (1, 2, 3, 4, 5), 1),
    ],
)
def test_the_last_and_the_best_are_kept(
    folder: pathlib.Path, options: Any, steps: tuple[int, ...], best: int | None
) -> None:
    """And no others; a NaN or no metric is never the best; of equals, the first is."""
    metrics = [None, jnp.float32(0.9), 0.1, float("nan"), 0.1, 0.5]
    manager = run_metrics(folder, metrics, **options)
    assert manager.steps == steps
    assert manager.latest == 5
    assert manager.best == best
    assert sorted(os.listdir(folder)) == [f"step-{i}.safetensors" for i in steps]
    again = Manager(folder, **options)  # which reads the metrics from the files
    assert again.best == best
    if best is not None:
        assert again.restore(jnp.array(0), "best") == best
    assert again.restore(jnp.array(0)) == 5


def test_numbers_are_sorted_as_numbers(folder: pathlib.Path) -> None:
    """Step 10 is after step 9."""
    with Manager(folder, keep=2) as manager:
        for step in (8, 9, 10):
            manager.save(step, step)
    assert manager.steps == (9, 10) and manager.restore(0) == 10


def test_a_step_is_replaced_but_never_put_before_others(folder: pathlib.Path) -> None:
    """The same step anew is fine; an earlier one is refused."""
    with Manager(folder, best="min") as manager:
        manager.save(3, 1, metric=1)
        manager.save(3, 2, metric=2)
        assert manager.restore(0) == 2
        with refuses(ModelFileError, "step 2 is too early", "from 3 on"):
            manager.save(2, 3)
        assert manager.steps == (3,)
        with refuses(ModelFileError, "step -1 is too early"):
            manager.save(-1, 3)


def test_the_metric_of_a_replaced_step_is_the_new_one(folder: pathlib.Path) -> None:
    """The old one, which was better, counts no more."""
    with Manager(folder, best="min", keep=2) as manager:
        for step, metric in ((3, 0.1), (3, 5), (4, 3)):
            manager.save(np.int64(step), metric, metric=metric)
    assert manager.best == 4


def test_there_may_be_no_checkpoint(folder: pathlib.Path) -> None:
    """A fresh start is seen by `latest`; asking for more is an error."""
    with Manager(folder, best="min") as manager:
        assert (manager.steps, manager.latest, manager.best) == ((), None, None)
        for step in ("latest", "best", 3):
            with refuses(ModelFileError, str(folder), repr(step)):
                manager.restore(0, step)
    assert not folder.exists()


@pytest.mark.parametrize("options", [{"keep": 0}, {"best": "low"}])
def test_bad_arguments_are_refused(folder: pathlib.Path, options: Any) -> None:
    """When the Manager is made."""
    with refuses(ModelFileError, "out of its range", *map(str, options.values())):
        Manager(folder, **options)


def test_what_goes_wrong_is_raised_by_the_next_call(folder: pathlib.Path) -> None:
    """With the step and the folder; after that, all works again."""
    folder.parent.mkdir()
    folder.write_text("a file where the folder should be")
    manager = Manager(folder)
    manager.save(1, 1)
    with pytest.raises(FileExistsError) as info:
        manager.save(2, 2)
    assert any(
        "step 1" in note and str(folder) in note for note in info.value.__notes__
    )
    manager.save(2, 2)
    with pytest.raises(FileExistsError):
        manager.close()
    folder.unlink()
    manager.save(3, 3)
    manager.close()
    assert manager.restore(0) == 3


def test_what_cannot_be_saved_is_refused_at_once(folder: pathlib.Path) -> None:
    """Not in the background, where it would be seen too late."""
    with Manager(folder) as manager:
        with refuses(TreeError, "leaf `a`"):
            manager.save(1, {"a": np.array(["x"])})
        with refuses(TreeError, "`metadata`"):
            manager.save(1, {"a": 1}, metadata={"a": object()})
        assert manager.steps == ()


def test_the_end_of_the_block_waits(folder: pathlib.Path) -> None:
    """Also when an exception ends it; the thread is gone then."""
    with pytest.raises(KeyError), Manager(folder) as manager:
        manager.save(1, jnp.ones(1000))
        raise KeyError
    assert [path.name for path in folder.iterdir()] == ["step-1.safetensors"]
    assert not [x for x in threading.enumerate() if x.name.startswith("checkpoint")]


def test_leftovers_of_killed_processes_go(folder: pathlib.Path) -> None:
    """Temporary files go when the next checkpoint is written; strangers stay."""
    folder.mkdir(parents=True)
    (folder / f".{'0f' * 16}.tmp").write_text("half")
    for name in (".mine.tmp", "notes.txt", "step-x.safetensors"):
        (folder / name).write_text("mine")
    with Manager(folder) as manager:
        assert manager.steps == ()
        manager.save(1, 1)
    expected = [".mine.tmp", "notes.txt", "step-1.safetensors", "step-x.safetensors"]
    assert sorted(os.listdir(folder)) == expected


def test_a_damaged_checkpoint_stops_nothing(folder: pathlib.Path) -> None:
    """It is refused when restored, has no metric, and training can go on."""
    run_metrics(folder, [0.5, 0.1], best="min", keep=3)
    (folder / "step-1.safetensors").write_bytes(b"damaged")
    with Manager(folder, best="min", keep=3) as manager:
        assert manager.best == 0
        with refuses(ModelFileError, "step-1.safetensors"):
            manager.restore(jnp.array(0))
        manager.save(2, jnp.array(2))
    assert manager.restore(jnp.array(0)) == 2


def test_a_file_tells_its_step(folder: pathlib.Path) -> None:
    """Step, metric and metadata stand in the file; `load` reads it too."""
    with Manager(folder) as manager:
        manager.save(4, {"a": 1}, metric=jnp.float32(0.5), metadata={"note": "x"})
        path = manager.path()
    found = vn.checkpoint.inspect(path).metadata
    assert found == {"step": 4, "metric": 0.5, "metadata": {"note": "x"}}
    assert vn.load(path, {"b": 0}, rename={"a": "b"}) == {"b": 1}


def test_restoring_keeps_shardings(folder: pathlib.Path) -> None:
    """As `load` does."""
    mesh = jax.make_mesh((8,), ("x",))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    with Manager(folder) as manager:
        manager.save(1, jax.device_put(jnp.arange(8), rows))
        assert manager.restore(jnp.arange(8), sharding=rows).sharding == rows


def test_a_process_that_ends_has_written_all(folder: pathlib.Path) -> None:
    """Without `close` too."""
    code = (
        "import sys, vernal as vn; vn.checkpoint.Manager(sys.argv[1]).save(1, {'a': 3})"
    )
    subprocess.run([sys.executable, "-c", code, folder], cwd=ROOT, check=True)
    assert Manager(folder).restore({"a": 0}) == {"a": 3}


def test_killed_processes_leave_whole_files(tmp_path: pathlib.Path) -> None:
    """At whatever instant: the old file or the new one, and no half checkpoint.

    In a process of its own, as one that has started JAX should not fork.
    """
    run = [sys.executable, ROOT / "scripts" / "kill_writers.py", "--times", "12"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        run, env=environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("12 kills")
