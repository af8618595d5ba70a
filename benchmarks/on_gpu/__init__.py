"""What a GPU is asked to do, in every library: one adapter each.

Each has ``NORMS``, batch normalizations by name, and ``RESNETS``, ResNet-50s in
training.
"""

import importlib
import importlib.util
from typing import Any

LIBRARIES = {  # adapters, and what they import
    "raw": "jax",
    "vernal": "vernal",
    "equinox": "equinox",
    "linen": "flax",
    "nnx": "flax",
    "torch": "torch",
}


def installed(package: str, cuda: bool) -> bool:
    """Whether there is such a package; of PyTorch, one that can do what is asked."""
    if not importlib.util.find_spec(package):
        return False
    if package == "torch" and cuda:
        return bool(importlib.import_module("torch").cuda.is_available())
    return True


def missing(cuda: bool) -> list[str]:
    """The libraries that cannot be measured here."""
    return [name for name, p in LIBRARIES.items() if not installed(p, cuda)]


def cases(kind: str, only: list[str], cuda: bool) -> dict[str, Any]:
    """What to measure, by name; plain JAX is the first.

    Arguments:
        kind: ``"NORMS"`` or ``"RESNETS"``.
        only: the libraries.
        cuda: whether there is a GPU, which PyTorch must see, too.
    """
    return {
        name: case
        for library in LIBRARIES
        if library in only and library not in missing(cuda)
        for name, case in getattr(
            importlib.import_module(f"{__name__}.in_{library}"), kind
        ).items()
    }
