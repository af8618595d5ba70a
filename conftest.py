"""The strict world in which the tests, the doc examples and the README run.

It stands at the root, not in tests/, because docstrings are tested under it too.
Nothing that is set here may reach a user: vernal itself sets no configuration.
"""

import os
from collections.abc import Iterator

# All of this must be in place before anything imports jax. Eight simulated devices
# are for the tests of sharding; a platform that the caller names wins, for GPU runs.
_DEVICES = "--xla_force_host_platform_device_count=8"
_FLAGS = os.environ.get("XLA_FLAGS", "")
if _DEVICES not in _FLAGS:
    os.environ["XLA_FLAGS"] = f"{_FLAGS} {_DEVICES}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Nearly all of the tests' time is compilation of tiny programs. (As a variable, so
# that the programs which a test starts compute the same.)
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# A compilation cache on disk would hide slow or repeated compilation.
os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)

import jax  # noqa: E402
import pytest  # noqa: E402

pytest_plugins = ["pytester"]

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_enable_compilation_cache", False)

_WATCHED = (
    "jax_numpy_dtype_promotion",
    "jax_numpy_rank_promotion",
    "jax_enable_x64",
    "jax_disable_jit",
    "jax_debug_nans",
)


def _watched() -> dict[str, object]:
    return {name: getattr(jax.config, name) for name in _WATCHED}


@pytest.fixture(autouse=True, scope="module")
def room_to_count(request: pytest.FixtureRequest) -> None:
    """JAX counts compilations as long as it remembers less than 8,192 functions."""
    if "retrace" in request.node.name:
        jax.clear_caches()


@pytest.fixture(autouse=True)
def strict_world(request: pytest.FixtureRequest) -> Iterator[None]:
    """Relaxes promotion where a test is marked so; no setting may be left changed."""
    before = _watched()
    if request.node.get_closest_marker("relaxed") is None:
        yield
    else:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            yield
    assert _watched() == before, "the test changed JAX's configuration and left it so"
