"""Settings of JAX that a test switches on for a while, on old and new versions."""

import contextlib

import jax


def x64(enabled: bool = True) -> contextlib.AbstractContextManager[None]:
    """64-bit mode."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(enabled)
    return jax.experimental.enable_x64(enabled)  # before JAX 0.8
