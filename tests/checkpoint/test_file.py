"""The file: what others read in it, and what damaged ones do."""

import importlib.util
import json
import pathlib
import zlib
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy

import vernal as vn
from tests.policy.source import ROOT
from tests.strategies import refuses
from vernal.errors import ModelFileError, TreeError


def script(name: str) -> Any:
    """A script, as a module."""
    path = ROOT / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rewrite(path: pathlib.Path, change: Any) -> None:
    """Changes the header of a file as somebody would who makes its checksum right."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    own = header["__metadata__"]
    manifest = json.loads(own["manifest"])
    change(header, manifest)
    own["manifest"] = json.dumps(manifest)
    own["checksum"] = f"{zlib.crc32(own['manifest'].encode()):08x}"
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])


def test_others_can_read_the_file(tmp_path: pathlib.Path) -> None:
    """The safetensors library finds the arrays by the names, and aligned."""
    path = tmp_path / "f.safetensors"
    layer = {"weight": jnp.arange(6.0).reshape(2, 3), "on": np.array([True])}
    tree = {"layers": [layer], "half": jnp.ones(3, jnp.bfloat16), "big": np.arange(3)}
    vn.save(path, tree, metadata={"epoch": 3})
    found = safetensors.numpy.load_file(path)
    assert set(found) == {"layers[0].weight", "layers[0].on", "half", "big"}
    assert (found["layers[0].weight"] == np.asarray(layer["weight"])).all()
    assert found["half"].dtype == jnp.bfloat16
    assert (found["big"] == tree["big"]).all()
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    assert size % 8 == 0
    assert json.loads(header.pop("__metadata__")["manifest"])["metadata"] == {
        "epoch": 3
    }
    items = {"BOOL": 1, "F32": 4, "BF16": 2, "I64": 8}
    starts = {x["dtype"]: x["data_offsets"][0] for x in header.values()}
    assert all(start % items[dtype] == 0 for dtype, start in starts.items())


def test_the_same_tree_gives_the_same_file(tmp_path: pathlib.Path) -> None:
    """No time and no chance goes into a file."""
    tree = {"a": jnp.ones(3), "b": 0.5, "c": {"x", "y"}}
    vn.save(tmp_path / "1", tree)
    vn.save(tmp_path / "2", {**tree, "c": {"y", "x"}})
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_inspect_prints_a_table(tmp_path: pathlib.Path) -> None:
    """Names in the order of the tree, kinds, numbers and metadata."""
    path = tmp_path / "f"
    vn.save(path, {"b": 0.5, "a": (jnp.ones((2, 3)), 7)}, metadata=["x"])
    info = vn.checkpoint.inspect(path)
    assert str(info) == (
        f"{path}: 3 names, {path.stat().st_size} bytes, format 1\n"
        "  a[0]  float32[2,3]\n"
        "  a[1]  Python int 7\n"
        "  b     Python float 0.5\n"
        'metadata: ["x"]'
    )
    vn.save(path, jnp.ones(()))
    assert str(vn.checkpoint.inspect(path)).endswith("format 1\n  value  float32[]")
    assert vn.checkpoint.inspect(path).metadata is None


def test_inspect_reads_no_arrays(tmp_path: pathlib.Path) -> None:
    """Damage in an array is seen when it is loaded, and there it is named."""
    path = tmp_path / "f"
    vn.save(path, {"a": jnp.ones(3), "b": jnp.ones(3)})
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert len(vn.checkpoint.inspect(path).entries) == 2
    with refuses(ModelFileError, str(path), "`b` was altered"):
        vn.load(path, {"a": jnp.ones(3), "b": jnp.ones(3)})


@pytest.mark.parametrize("metadata", [{"a": object()}, b"x", {(1, 2): 3}, {1, 2}])
def test_metadata_that_is_no_json_is_refused(
    tmp_path: pathlib.Path, metadata: Any
) -> None:
    """And the old file is still there."""
    path = tmp_path / "f"
    vn.save(path, 1)
    with refuses(TreeError, "`metadata`", "JSON"):
        vn.save(path, 2, metadata=metadata)
    assert vn.load(path, 0) == 1


def test_files_of_others_are_refused(tmp_path: pathlib.Path) -> None:
    """A file without names and checksums of ours, and one that is no such file."""
    path = tmp_path / "f"
    safetensors.numpy.save_file({"a": np.ones(3)}, path)
    with refuses(ModelFileError, str(path), "not written by `vernal.save`"):
        vn.load(path, {"a": np.ones(3)})
    for data in (b"", b"text", bytes(8), b"\xff" * 8, b"\xff" * 100):
        path.write_bytes(data)
        with refuses(ModelFileError, str(path), "the header cannot be read"):
            vn.load(path, {"a": np.ones(3)})


def test_errors_of_the_system_come_through(tmp_path: pathlib.Path) -> None:
    """Where there is no file, Python's own errors say so."""
    with pytest.raises(FileNotFoundError):
        vn.checkpoint.inspect(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        vn.load(tmp_path, 1)
    with pytest.raises(FileNotFoundError):
        vn.save(tmp_path / "none" / "f", 1)


def test_a_newer_format_is_refused(tmp_path: pathlib.Path) -> None:
    """By its version, before anything in it is looked at."""
    path = tmp_path / "f"
    vn.save(path, 1)

    def newer(header: Any, manifest: Any) -> None:
        header["__metadata__"]["format"] = "vernal 2"
        manifest.clear()

    rewrite(path, newer)
    with refuses(ModelFileError, "another format", "format 2"):
        vn.load(path, 1)


NESTED: Any = "[" * 50_000
HOSTILE = {
    "a huge shape": {"dtype": "bool", "shape": [10**18], "crc32": "0"},
    "a negative shape": {"dtype": "bool", "shape": [-2], "crc32": "0"},
    "an infinite shape": {"dtype": "bool", "shape": [float("inf")], "crc32": "0"},
    "no shape": {"dtype": "bool"},
    "no record": 3,
    "another dtype": {"dtype": "os.system('x')", "shape": [2], "crc32": "0"},
    "a number": {"number": "int", "value": "9" * 10_000},
}


@pytest.mark.parametrize("record", HOSTILE.values(), ids=HOSTILE)
def test_hostile_manifests_are_refused(tmp_path: pathlib.Path, record: Any) -> None:
    """Also with the right checksum, nothing is allocated, run or believed."""
    path = tmp_path / "f"
    vn.save(path, {"a": np.array([True, False])})
    rewrite(path, lambda header, manifest: manifest["leaves"].update(a=record))
    with refuses(ModelFileError, str(path)):
        vn.load(path, {"a": np.array([True, False])})


def test_hostile_tables_are_refused(tmp_path: pathlib.Path) -> None:
    """Offsets beyond the file, arrays without a record, and another dtype."""
    path = tmp_path / "f"
    tree = {"a": np.arange(2.0), "n": 1}
    changes = [
        lambda header, _: header["a"].update(data_offsets=[0, 2**60]),
        lambda header, _: header["a"].update(shape=[2**60]),
        lambda header, _: header["a"].update(dtype="I64"),
        lambda header, _: header.update(b=header.pop("a")),
        lambda header, manifest: manifest["leaves"].pop("a"),
        lambda header, manifest: manifest.update(leaves=[]),
        lambda header, manifest: manifest.pop("metadata"),
    ]
    for change in changes:
        vn.save(path, tree)
        rewrite(path, change)
        with refuses(ModelFileError, str(path)):
            vn.load(path, tree)


def test_an_array_without_a_record_is_refused(tmp_path: pathlib.Path) -> None:
    """It has no checksum, so it could be anything."""
    path = tmp_path / "f"
    vn.save(path, {"a": np.arange(2.0), "n": 1})
    rewrite(path, lambda header, manifest: manifest["leaves"].pop("a"))
    for read in (vn.checkpoint.inspect, lambda path: vn.load(path, {"n": 0})):
        with refuses(ModelFileError, str(path), "not those that the header names"):
            read(path)


def test_a_manifest_without_end_is_refused(tmp_path: pathlib.Path) -> None:
    """Depth is no way to bring a reader down."""
    path = tmp_path / "f"
    vn.save(path, 1)
    data = path.read_bytes()
    header = json.loads(data[8:])
    own = header["__metadata__"]
    own["manifest"] = '{"leaves":{},"metadata":' + "[" * 100_000
    own["checksum"] = f"{zlib.crc32(own['manifest'].encode()):08x}"
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with refuses(ModelFileError, str(path), "the header cannot be read"):
        vn.load(path, 1)


def test_booleans_are_zero_or_one(tmp_path: pathlib.Path) -> None:
    """Other bytes, with a right checksum, would be booleans that are neither."""
    path = tmp_path / "f"
    vn.save(path, np.array([True, False]))

    def change(header: Any, manifest: Any) -> None:
        manifest["leaves"]["value"]["crc32"] = f"{zlib.crc32(bytes([2, 0])):08x}"

    rewrite(path, change)
    path.write_bytes(path.read_bytes()[:-2] + bytes([2, 0]))
    with refuses(ModelFileError, "`value` is not boolean", "2"):
        vn.load(path, np.array([True, False]))


def test_damaged_files_are_refused(tmp_path: pathlib.Path) -> None:
    """Cut, altered, shifted and mixed up: an error, or no harm was done."""
    counts = script("fuzz_files").run(400, 0, tmp_path)
    assert counts["refused"] > 350


def test_a_number_that_is_too_long_to_read_is_refused(tmp_path: pathlib.Path) -> None:
    """What Python would not read back is not written."""
    with refuses(TreeError, "leaf `a`", "4300"):
        vn.save(tmp_path / "f", {"a": 10**5000})
