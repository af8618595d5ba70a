"""Orbax: for what vernal's `save` is not for, arrays spread over many machines."""

import os
import pathlib
import socket
import subprocess
import sys

import jax
import jax.random as jr
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding, PartitionSpec as P

import vernal as vn
from tests.neighbors.orbax_process import model_and_state, weight
from tests.policy.source import ROOT


def test_the_same_tree_goes_through_orbax(tmp_path: pathlib.Path) -> None:
    """A model, its State and a key come back, sharded as asked; `save` takes them."""
    rows = NamedSharding(jax.make_mesh((8,), ("x",)), P("x"))
    saved = (*model_and_state(0), jr.key(0))
    like = jax.tree.map(
        ocp.utils.to_shape_dtype_struct, (*model_and_state(1), jr.key(1))
    )
    abstract = jax.ShapeDtypeStruct((16, 8), "float32", sharding=rows)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "run", saved)
        checkpointer.wait_until_finished()
        loaded = checkpointer.restore(
            tmp_path / "run", vn.tree_at(weight, like, abstract)
        )
    assert bool(vn.tree_equal(loaded, saved))
    assert weight(loaded).sharding == rows
    vn.save(tmp_path / "file", loaded)
    new = (*model_and_state(1), jr.key(1))
    assert bool(vn.tree_equal(vn.load(tmp_path / "file", new), saved))


@pytest.mark.slow  # each process starts JAX, and they wait for each other
def test_two_processes_save_and_restore_one_tree(tmp_path: pathlib.Path) -> None:
    """Each has half of a weight; `save` refuses it and takes what is whole."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    script = ROOT / "tests" / "neighbors" / "orbax_process.py"
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(port), str(number), tmp_path],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]
    try:
        for process in processes:
            said, _ = process.communicate(timeout=120)
            assert process.returncode == 0 and "done" in said, said
    finally:
        for process in processes:
            process.kill()
