"""Whole networks in training, in every library: one adapter each.

Each has ``RESNETS`` and ``TRANSFORMERS``, the cases to measure by name; and of the
ResNet ``resnet_model(key, width)``, which constructs it, and ``abstract_resnet``.
"""

import importlib
import importlib.util
from types import ModuleType
from typing import Any

LIBRARIES = {  # adapters, and what they import
    "raw": "jax",
    "vernal": "vernal",
    "equinox": "equinox",
    "nnx": "flax",
    "linen": "flax",
    "haiku": "haiku",
    "torch": "torch",
}


def libraries() -> dict[str, ModuleType]:
    """The adapters of the libraries that are installed, by name."""
    return {
        name: importlib.import_module(f"{__name__}.in_{name}")
        for name, package in LIBRARIES.items()
        if importlib.util.find_spec(package)
    }


def missing() -> list[str]:
    """The libraries that are not."""
    return [name for name, p in LIBRARIES.items() if not importlib.util.find_spec(p)]


def cases(kind: str, only: list[str] | None = None) -> dict[str, Any]:
    """What to measure, by name; plain JAX is the first.

    Arguments:
        kind: ``"RESNETS"`` or ``"TRANSFORMERS"``.
        only: the libraries; None for all that are installed.
    """
    return {
        name: case
        for library, adapter in libraries().items()
        if only is None or library in only
        for name, case in getattr(adapter, kind).items()
    }
