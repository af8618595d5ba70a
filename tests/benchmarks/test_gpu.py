"""What the benchmark for GPUs computes and counts; here it makes a dry run only."""

import importlib
import json
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest

_FOLDER = pathlib.Path(__file__).parents[2] / "benchmarks"
_HERE = ["raw", "vernal", "equinox"]  # what the tests are run with

# The benchmark is written as its users write: plain JAX broadcasts as NumPy does.
pytestmark = pytest.mark.relaxed


@pytest.fixture(scope="module")
def gpu() -> Iterator[Any]:
    """The program, which imports what is beside it."""
    sys.path.insert(0, str(_FOLDER))
    yield importlib.import_module("gpu")
    sys.path.remove(str(_FOLDER))


def test_bytes(gpu: Any) -> None:
    """The floor of the first shape in a ResNet-50 at batch 64, counted by hand."""
    shape = (64, 64, 112, 112)  # 51,380,224 values
    assert gpu.floor.forward_bytes(shape, "float32") == 3 * 205_520_896
    assert gpu.floor.backward_bytes(shape, "float32") == 5 * 205_520_896
    assert gpu.floor.floor_bytes(shape, "float32") == 1_644_167_168
    assert gpu.floor.floor_bytes(shape, "bfloat16") == 822_083_584


def test_plan(gpu: Any) -> None:
    """A ResNet-50 has 16 blocks, and its norms see the shapes that are measured."""
    size = gpu.tasks.Size()
    blocks = list(gpu.tasks.blocks(size))
    assert len(blocks) == 16 and size.features == 2048
    outputs = dict.fromkeys(4 * inner for _, inner, _ in blocks)
    assert [64, *outputs] == [channels for channels, _ in gpu.tasks.SHAPES]
    assert [block for block in blocks if block[2] == 2] == [
        (256, 128, 2),
        (512, 256, 2),
        (1024, 512, 2),
    ]


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_norms_agree(gpu: Any, layout: str) -> None:
    """Output and gradients are those of plain JAX, in whatever way they are taken."""
    found = {}
    for name, make in gpu.on_gpu.cases("NORMS", _HERE, cuda=False).items():
        y, dx, dparams, _ = make((3, 4, 5, 5), layout, "float32")()
        found[name] = [y, dx, *sorted(jax.tree.leaves(dparams), key=np.sum)]
    assert {"raw one-pass", "vernal pixels", "equinox"} < set(found)
    for arrays in found.values():
        for got, expected in zip(arrays, found["raw"], strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_dry_run(gpu: Any, tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """It says that it is one, and writes what it returns."""
    file = tmp_path / "gpu.json"
    options = ["--tiny", "--rows", "norms", "--dtype", "float32", "--only", *_HERE]
    found = gpu.main([*options, "--json", str(file)])
    assert [row["layout"] for row in found["norms"]] == ["NCHW", "NHWC"]
    for row in found["norms"]:
        assert row["floor_bytes"] == 8 * 4 * 4 * 3 * 4 * 4
        for result in row["results"].values():
            moved = result["share"] * result["time"][0]
            fastest = max(found["bytes_per_second"].values())
            assert moved * fastest == pytest.approx(row["floor_bytes"])
    written = json.loads(file.read_text())
    assert written["norms"][0]["results"] == found["norms"][0]["results"]
    shown = capsys.readouterr().out
    assert "have not run on a GPU yet" in shown and "vernal pixels" in shown


def test_failures(gpu: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A library that fails leaves its reason, and the others go on."""

    def bad(*_: Any) -> Any:
        raise RuntimeError("out of memory [/]")

    cases = {"bad": bad, **gpu.on_gpu.cases("NORMS", ["raw"], cuda=False)}
    options = {"seconds": 0.0, "limit": 60.0}
    row = gpu.measure.norms(cases, (2, 3, 4, 4), "NCHW", "float32", 1e9, 0.0, options)
    assert row["results"]["bad"] == {"failed": "RuntimeError: out of memory [/]"}
    assert row["results"]["raw"]["share"] > 0
    for table in gpu.tables({"norms": [row]}):
        gpu.Console().print(table)
    assert "out of memory [/]" in capsys.readouterr().out


def test_no_gpu(gpu: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Without one there is an error, and the way out."""
    with pytest.raises(SystemExit):
        gpu.main(["--rows", "norms"])
    assert "--tiny" in capsys.readouterr().err


def test_resnets_agree(gpu: Any) -> None:
    """The losses of a small ResNet of bottlenecks are those of plain JAX."""
    size, found = gpu.tasks.Size(**gpu.tasks.TINY), []
    cases = gpu.on_gpu.cases("RESNETS", ["raw", "vernal"], cuda=False)
    for name in ("raw one-pass", "vernal"):
        train = gpu.measure.Stepper(cases[name], size, gpu.tasks.images(size, 4))
        found.append([float(train()) for _ in range(3)])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4)
    assert len(set(found[0])) == 3  # it learns


def test_pipeline(gpu: Any) -> None:
    """A batch has all images, and normalized colors; a loop waits for what it must."""
    size = gpu.tasks.Size(**gpu.tasks.TINY)
    source = gpu.pipeline.Pipeline(size, 5)
    xs, labels = source.batch()
    assert xs.shape == (5, 3, 16, 16) and xs.dtype == np.float32 and len(labels) == 5
    assert abs(float(xs.mean())) < 0.5 and 0.5 < float(xs.std()) < 2
    events: list[str] = []

    class Loss:
        def __init__(self) -> None:
            events.append("send")

        def block_until_ready(self) -> None:
            events.append("wait")

    gpu.pipeline.Loop(3, None, lambda batch: Loss(), ahead=1)()
    assert events == ["send", "send", "wait", "send", "wait", "wait"]
    events.clear()
    gpu.pipeline.Loop(2, None, lambda batch: Loss(), ahead=0)()
    assert events == ["send", "wait"] * 2
