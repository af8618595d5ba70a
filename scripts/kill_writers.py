"""Kills processes that write files, at random instants; the files are always whole.

Each process writes versions of one file, and checkpoints by a Manager, over and over.
After each kill the file holds one complete version, not older than the last one that
was finished, and so do all checkpoints. Prints what was seen.
"""

import argparse
import os
import pathlib
import random
import signal
import tempfile
import time
from typing import Any

import numpy as np

import vernal as vn

ARRAYS = 20
KEEP = 3


def tree(version: int) -> Any:
    """A tree that tells its version in every element; without JAX, see `start`."""
    arrays = [np.full(5_000, version) for _ in range(ARRAYS)]
    return {"arrays": arrays, "version": version}


def version_of(path: pathlib.Path) -> int:
    """The version in a file, all of which must be of one version."""
    loaded = vn.load(path, tree(0))
    for array in loaded["arrays"]:
        assert (array == loaded["version"]).all()
    return int(loaded["version"])


def start(folder: pathlib.Path, version: int) -> tuple[int, int]:
    """Starts a writer; its id, and a pipe in which it tells what is finished.

    A fork, as starting Python anew takes seconds. JAX has started no threads yet.
    """
    reading, writing = os.pipe()
    if child := os.fork():
        os.close(writing)
        return child, reading
    with vn.checkpoint.Manager(folder / "run", keep=KEEP) as manager:
        while True:
            version += 1
            vn.save(folder / "file", tree(version), metadata=version)
            os.write(writing, version.to_bytes(8, "little"))
            manager.save(version, tree(version))


def check(folder: pathlib.Path, before: int, finished: int) -> int:
    """Looks at all files; the version that was reached."""
    reached = version_of(folder / "file")
    assert reached >= finished, (reached, finished)
    manager = vn.checkpoint.Manager(folder / "run", keep=KEEP)
    for step in manager.steps:
        assert version_of(manager.path(step)) == step
    assert len(manager.steps) <= KEEP + 1
    # When a writer finishes a version, its last checkpoint but one is written.
    assert finished - before < 3 or (manager.latest or 0) >= finished - 2
    return max(reached, manager.latest or 0)


def run(times: int, seed: int, folder: pathlib.Path) -> tuple[int, int]:
    """How many versions were written, and how many kills left a temporary file."""
    rng = random.Random(seed)
    version, leftovers = 0, 0
    vn.save(folder / "file", tree(0))
    for _ in range(times):
        child, pipe = start(folder, version)
        time.sleep(rng.uniform(0, 0.15))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        said = b""
        while part := os.read(pipe, 1 << 16):
            said += part
        os.close(pipe)
        finished = int.from_bytes(said[-8:], "little") if said else version
        leftovers += any(path.name.endswith(".tmp") for path in folder.rglob(".*.tmp"))
        for path in folder.glob(".*.tmp"):  # those of `save`; the Manager's, it removes
            path.unlink()
        version = check(folder, version, finished)
    return version, leftovers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        args = options.times, options.seed, pathlib.Path(folder)
        version, leftovers = run(*args)
    print(
        f"{options.times} kills, {version} versions, all whole; "
        f"{leftovers} kills left a temporary file"
    )


if __name__ == "__main__":
    main()
