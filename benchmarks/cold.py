"""What is paid once in a process: imports, and the construction of a model.

As a program, prints the seconds that a first construction takes in this process:

    python benchmarks/cold.py networks.in_vernal:resnet_model
"""

import argparse
import importlib
import importlib.util
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.random as jr
from effort import Effort
from timing import Candidate, Results, fresh, interleaved

IMPORTS = {
    "vernal": "vernal",
    "equinox": "equinox",
    "nnx": "flax.nnx",
    "linen": "flax.linen",
    "haiku": "haiku",
}

_IMPORT = """\
import jax, time
start = time.perf_counter()
import {}
print(time.perf_counter() - start)
"""


def imports(effort: Effort) -> Results:
    """What importing a library takes beyond JAX, in processes of their own."""
    found = {
        name: ["-c", _IMPORT.format(module)]
        for name, module in IMPORTS.items()
        if importlib.util.find_spec(module.partition(".")[0])
    }
    return fresh(found, effort.fresh if effort.quick else 7)


def adapters() -> dict[str, Any]:
    """Those of the whole networks, in libraries on JAX."""
    found = importlib.import_module("networks").libraries()
    return {name: adapter for name, adapter in found.items() if name != "torch"}


def first(effort: Effort) -> Results:
    """A first construction of a ResNet-18, in a process of its own."""
    places = {name: f"networks.in_{name}:resnet_model" for name in adapters()}
    commands = {name: [__file__, place] for name, place in places.items()}
    return fresh(commands, effort.fresh, "raw", limit=2 * effort.limit, warm=0)


def later(effort: Effort, function: str = "resnet_model") -> Results:
    """The same where all is compiled already."""

    def runner(make: Callable[..., Any]) -> Candidate:
        return lambda: jax.block_until_ready(arrays(make(jr.key(0))))

    runs = {name: runner(getattr(a, function)) for name, a in adapters().items()}
    options = effort.options() | {"limit": 2 * effort.limit}  # the first one compiles
    return interleaved(runs, reference="raw", warm=1, **options)


def abstract(effort: Effort) -> Results:
    """The same where only shapes are computed."""
    return later(effort, "abstract_resnet")


def arrays(model: Any) -> list[Any]:
    """The arrays of a model of any library."""
    return [a for a in jax.tree.leaves(model) if isinstance(a, jax.Array)]


def main(argv: list[str] | None = None) -> float:
    """Constructs once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("place", help="MODULE:FUNCTION, which takes a random key")
    module, _, name = parser.parse_args(argv).place.partition(":")
    make = getattr(importlib.import_module(module), name)
    start = time.perf_counter()
    jax.block_until_ready(arrays(make(jr.key(0))))
    seconds = time.perf_counter() - start
    print(seconds)
    return seconds


if __name__ == "__main__":
    main()
