"""Forgetting what was compiled, in a process of its own: it concerns all functions."""

import subprocess
import sys

PROGRAM = """
import jax, jax.numpy as jnp, vernal as vn
traces = []

def trace(x):
    traces.append(None)
    return x + 1

jitted, mapped, plain = vn.filter_jit(trace), vn.filter_pmap(trace), jax.jit(trace)
for _ in range(2):
    for _ in range(3):
        jitted(jnp.ones(2)), jitted(jnp.ones(3)), mapped(jnp.ones((1, 2)))
        plain(jnp.ones(2))
    print(len(traces), len(jitted.cache), len(mapped.cache))
    vn.clear_caches()
print(len(jitted.cache), len(mapped.cache), jitted(jnp.ones(2)).tolist())
"""


def test_everything_is_compiled_anew():
    """Functions are traced again after the caches were cleared, JAX's own too."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    first, second, last = done.stdout.splitlines()
    assert (first, last) == ("4 1 1", "0 0 [2.0, 2.0]")
    assert second == "8 1 1"
