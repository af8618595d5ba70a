"""Importing vernal is silent: it starts, changes and brings along nothing."""

import json
import os
import subprocess
import sys

from tests.policy.source import ROOT

EXTRAS = [
    "dm_haiku",
    "equinox",
    "flax",
    "haiku",
    "hypothesis",
    "matplotlib",
    "optax",
    "orbax",
    "pytest",
    "rich",
    "sklearn",
    "torch",
]

# Dependencies come first, so that what they do is not laid at vernal's door.
PROBE = """
import atexit, contextlib, io, json, logging, os, signal, sys, warnings
import jax, jax.numpy, jaxtyping, numpy, safetensors, safetensors.numpy, wadler_lindig
import jax._src.xla_bridge as bridge

def footprint():
    return {
        "warning filters": len(warnings.filters),
        "exit hooks": atexit._ncallbacks(),
        "jax configuration": {k: repr(v) for k, v in jax.config.values.items()},
        "environment": dict(os.environ),
        "log handlers": [repr(x) for x in logging.root.handlers],
        "hooks": [repr(sys.excepthook), repr(sys.displayhook)],
        "signals": repr(signal.getsignal(signal.SIGINT)),
        "patched jax": {k: id(v) for k, v in vars(jax).items() if callable(v)},
        "patched numpy": {k: id(v) for k, v in vars(jax.numpy).items() if callable(v)},
        "backends": sorted(bridge._backends),
    }

before, known, said = footprint(), set(sys.modules), io.StringIO()
with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
    exec(sys.argv[1])
after = footprint()
changed = [key for key in before if before[key] != after[key]]
if said.getvalue():
    changed.append("output")
top = {name.partition(".")[0] for name in set(sys.modules) - known}
print(json.dumps({"changed": changed, "imported": sorted(top)}))
"""


def effects(statement):
    """What running a statement in a new process changes and imports."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROBE, statement],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_import_is_silent():
    """No backend, no filter, no hook, no setting, no patch, no word, no extra."""
    found = effects("import vernal, vernal.nn")
    assert found["changed"] == []
    assert set(EXTRAS).isdisjoint(found["imported"])


LOUD = """
import atexit, warnings, jax, rich
warnings.simplefilter("ignore")
atexit.register(print)
jax.jit = None
jax.config.update("jax_enable_x64", True)
print(jax.device_count())
"""


def test_a_loud_import_is_seen():
    """Each kind of side effect is found."""
    found = effects(LOUD)
    assert found["changed"] == [
        "warning filters",
        "exit hooks",
        "jax configuration",
        "patched jax",
        "backends",
        "output",
    ]
    assert "rich" in found["imported"]
