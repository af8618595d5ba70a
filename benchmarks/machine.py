"""On what the figures were taken."""

import importlib.metadata
import os
import platform
from pathlib import Path

import jax

PACKAGES = (
    "jax",
    "jaxlib",
    "vernal",
    "equinox",
    "flax",
    "dm-haiku",
    "optax",
    "numpy",
    "torch",
)


def describe() -> dict[str, str]:
    """The machine and the versions, as people name them."""
    versions = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "processor": f"{processor()}, {os.cpu_count()} cores",
        "device": jax.devices()[0].device_kind,
        "system": platform.system(),
        "versions": ", ".join(f"{name} {v}" for name, v in versions.items()),
    }


def processor() -> str:
    """The model of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [x.partition(":")[2].strip() for x in lines if x.startswith("model name")]
    return names[0] if names else platform.machine()
