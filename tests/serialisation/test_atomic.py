"""A file is written whole or not at all."""

import os
import pathlib
import stat
import threading
from typing import Any

import jax.numpy as jnp
import pytest

import vernal as vn
from tests.strategies import refuses
from vernal._serialisation.atomic import remove_leftovers, replacing
from vernal.errors import TreeError


@pytest.mark.parametrize("there", [True, False])
def test_writing_is_all_or_nothing(tmp_path: pathlib.Path, there: bool) -> None:
    """A leaf that fails leaves the old file, or none, and no other file."""
    path = tmp_path / "model.eqx"
    if there:
        vn.tree_serialise_leaves(path, [1, 2])
    with refuses(TreeError, str(path), "leaf `[1]`"):
        vn.tree_serialise_leaves(path, [jnp.ones(10_000), 2**64])
    assert os.listdir(tmp_path) == (["model.eqx"] if there else [])
    if there:
        assert vn.tree_deserialise_leaves(path, [0, 0]) == [1, 2]


def test_an_interrupt_leaves_the_old_file(tmp_path: pathlib.Path) -> None:
    """So does Ctrl-C."""
    path = tmp_path / "model.eqx"
    vn.tree_serialise_leaves(path, 1)

    def interrupt(file: Any, x: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vn.tree_serialise_leaves(path, 2, filter_spec=interrupt)
    assert os.listdir(tmp_path) == ["model.eqx"]
    assert vn.tree_deserialise_leaves(path, 0) == 1


def test_the_new_file_is_complete_before_it_takes_the_place(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All bytes are on the disk when the old file is replaced."""
    path = tmp_path / "model.eqx"
    path.write_bytes(b"old")
    synced, replace, fsync = [], os.replace, os.fsync

    def spy_fsync(number: int) -> None:
        fsync(number)
        synced.append(os.fstat(number).st_size)

    def spy_replace(source: Any, target: Any) -> None:
        assert synced == [os.path.getsize(source)] == [3]
        assert path.read_bytes() == b"old"
        assert os.path.dirname(source) == os.path.dirname(target)
        replace(source, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    vn.tree_serialise_leaves(path, 1, filter_spec=lambda file, x: file.write(b"new"))
    assert path.read_bytes() == b"new"


def test_the_new_name_lasts(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is synced after the file has taken its place, and if it can be."""
    steps, replace, fsync = [], os.replace, os.fsync

    def spy_fsync(number: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(number).st_mode)
        steps.append("folder" if is_folder else "file")
        fsync(number)
        if is_folder:
            raise OSError("not on this disk")

    def spy_replace(source: Any, target: Any) -> None:
        steps.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    with replacing(tmp_path / "no suffix") as file:
        file.write(b"new")
    assert steps == ["file", "replace", "folder"]
    assert (tmp_path / "no suffix").read_bytes() == b"new"


def test_leftovers_are_removed(tmp_path: pathlib.Path) -> None:
    """Those of killed writers, and nothing else."""
    with replacing(tmp_path / "file"):
        (name,) = os.listdir(tmp_path)
    for other in (name, "a.tmp", ".a.tmp", name + ".x"):
        (tmp_path / other).touch()
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(
        [".a.tmp", "a.tmp", "file", name + ".x"]
    )


def test_permissions_and_links(tmp_path: pathlib.Path) -> None:
    """A file that is replaced keeps its mode, and is still reached by its link."""
    path, link = tmp_path / "model.eqx", tmp_path / "link.eqx"
    vn.tree_serialise_leaves(path, 1)
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    path.chmod(0o640)
    link.symlink_to(path)
    vn.tree_serialise_leaves(link, 2)
    assert link.is_symlink() and vn.tree_deserialise_leaves(path, 0) == 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_pipe_stays_a_pipe(tmp_path: pathlib.Path) -> None:
    """What is no regular file is written to, not replaced."""
    path = tmp_path / "pipe.eqx"
    os.mkfifo(path)
    received: list[bytes] = []
    reader = threading.Thread(
        target=lambda: received.append(path.read_bytes()), daemon=True
    )
    reader.start()
    # NumPy itself cannot write to a pipe; a function of the user's can.
    vn.tree_serialise_leaves(path, 1, filter_spec=lambda file, x: file.write(b"new"))
    reader.join(timeout=10)
    assert received == [b"new"]
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_a_directory_is_no_file(tmp_path: pathlib.Path) -> None:
    """Errors of the operating system come through as they are."""
    (tmp_path / "a.eqx").mkdir()
    with pytest.raises(IsADirectoryError):
        vn.tree_serialise_leaves(tmp_path / "a.eqx", 1)
    with pytest.raises(FileNotFoundError):
        vn.tree_serialise_leaves(tmp_path / "none" / "a.eqx", 1)
    with pytest.raises(FileNotFoundError):
        vn.tree_deserialise_leaves(tmp_path / "none", 1)
