"""Small computations, written once per library, with equal mathematics and values.

Each adapter has some of these functions. They return a dictionary, as some libraries
have two ways; what an adapter does not have is not measured.

- ``blocks(n)``: n blocks of BatchNorm(4) and Linear(4, 4). The step changes the whole
  state, doubles the batch, and does no other work; it returns only what it has changed.
- ``example()``: a training step of a small network with BatchNorm and SpectralNorm.
- ``eager()``: its forward pass under ``vmap``, not compiled; functions, no programs.
- ``normed(n)``: n blocks of BatchNorm and SpectralNorm(Linear); the step returns
  gradients and the new state.
- ``deep(n, scanned)``: the same for n residual layers of Linear and BatchNorm, as a
  Python loop or as the library's own loop.
- ``slots(n)``: functions that trace a function that adds 1 to each of n slots of state.
"""

import importlib
import importlib.util
from types import ModuleType

# What has to be installed for each adapter.
PACKAGES = {
    "raw": "optax",
    "vernal": "optax",
    "equinox": "equinox",
    "nnx": "flax",
    "linen": "flax",
    "haiku": "haiku",
    "torch": "torch",
}


def missing() -> list[str]:
    """The libraries that are not installed."""
    return [k for k, name in PACKAGES.items() if importlib.util.find_spec(name) is None]


def libraries() -> dict[str, ModuleType]:
    """The adapters whose libraries are installed; plain JAX is the first."""
    names = [name for name in PACKAGES if name not in missing()]
    return {k: importlib.import_module(f"{__name__}.in_{k}") for k in names}
