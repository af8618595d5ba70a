"""Loads damaged variants of a file: each is refused, or gives what it did before.

Prints how many were refused, and fails at the first one that was not, that took more
than a second, or that asked for more memory than there should be.
"""

import argparse
import pathlib
import random
import resource
import tempfile
import time
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import vernal as vn
from vernal.errors import ModelFileError

MEMORY = 2**30
SECONDS = 1.0


def example() -> Any:
    """A tree with leaves of every kind, and a State."""
    key = jax.random.key(0)
    model, state = vn.nn.make_with_state(vn.nn.BatchNorm)(3, "batch")
    leaves = [jnp.arange(5.0), jnp.ones((2, 2), jnp.bfloat16), np.arange(4), key]
    numbers = {"int": 3, "float": 0.1, "bool": True, "complex": 1j}
    flags = jnp.array([True, False])
    return {"norm": model, "state": state, "leaves": leaves, **numbers, "flags": flags}


def damage(data: bytes, rng: random.Random) -> bytes:
    """One variant: cut, altered, shifted or mixed up at random places."""
    place = rng.randrange(len(data))
    end = min(len(data), place + rng.choice([1, 1, 2, 8, 64]))
    noise = rng.randbytes(end - place)
    kind = rng.randrange(9)
    if kind == 0:  # cut short
        return data[:place]
    if kind == 1:  # a few bits
        out = bytearray(data)
        for _ in range(rng.choice([1, 1, 1, 3, 10])):
            out[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(out)
    if kind == 2:  # bytes overwritten
        return data[:place] + noise + data[end:]
    if kind == 3:  # bytes lost
        return data[:place] + data[end:]
    if kind == 4:  # bytes inserted
        return data[:place] + noise + data[place:]
    if kind == 5:  # a block that was never written
        return data[:place] + bytes(len(data) - place)
    if kind == 6:  # another length of the header
        return rng.randbytes(rng.choice([1, 2, 4, 8])).ljust(8, b"\0") + data[8:]
    if kind == 7:  # two blocks exchanged
        other = rng.randrange(len(data))
        a, b = sorted((place, other))
        size = min(8, b - a, len(data) - b)
        return (
            data[:a]
            + data[b : b + size]
            + data[a + size : b]
            + data[a : a + size]
            + data[b + size :]
        )
    # A digit of the header, so that it still reads as a header.
    digits = [i for i, byte in enumerate(data[:2000]) if chr(byte).isdigit()]
    at = rng.choice(digits)
    return data[:at] + str(rng.randrange(10)).encode() + data[at + 1 :]


def run(variants: int, seed: int, folder: pathlib.Path) -> Counter[str]:
    """How often variants were refused, and how often they did no harm.

    Raises:
        AssertionError: one of them was neither, or took too long.
    """
    rng = random.Random(seed)
    tree, path = example(), folder / "file.safetensors"
    vn.save(path, tree, metadata={"note": "fuzz", "epoch": 12})
    data = path.read_bytes()
    counts: Counter[str] = Counter()
    for number in range(variants):
        path.write_bytes(damage(data, rng))
        start = time.perf_counter()
        try:
            loaded = vn.load(path, tree)
            metadata = vn.checkpoint.inspect(path).metadata
        except ModelFileError as error:
            assert str(path) in str(error), error
            assert len(str(error).splitlines()) <= 6, error
            counts["refused"] += 1
        else:
            same = bool(vn.tree_equal(loaded, tree, typematch=True))
            assert same and metadata == {"note": "fuzz", "epoch": 12}, number
            counts["harmless"] += 1
        assert time.perf_counter() - start < SECONDS, number
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    example()  # JAX has taken its memory by now
    status = pathlib.Path("/proc/self/statm")
    if status.exists():
        pages = int(status.read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with tempfile.TemporaryDirectory() as folder:
        counts = run(options.variants, options.seed, pathlib.Path(folder))
    print(", ".join(f"{count} {what}" for what, count in sorted(counts.items())))


if __name__ == "__main__":
    main()
