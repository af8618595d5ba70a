"""Importing vernal loads next to nothing; each name is loaded when it is used."""

import subprocess
import sys

import pytest

import vernal as vn
from vernal._lazy import lazy_names

PROGRAM = """
import sys
import vernal as vn
before = {name for name in sys.modules if name.startswith("vernal.")}
assert before == {"vernal._lazy"}, before
assert "jax" not in sys.modules
assert "Linear" in dir(vn.nn) and "filter_jit" in dir(vn)
linear = vn.nn.Linear(2, 3, key=__import__("jax").random.key(0))
loaded = {name for name in sys.modules if name.startswith("vernal.")} - before
unneeded = ("checkpoint", "debug", "metrics", "_batch_norm", "_transform.pmap")
assert not any(word in name for name in loaded for word in unneeded), loaded
assert linear.__call__(linear.weight[0]).shape == (3,)
"""


def test_only_what_is_used_is_loaded():
    """In a new process: neither JAX nor a layer is loaded before it is asked for."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("package", [vn, vn.nn, vn.debug, vn.metrics, vn.checkpoint])
def test_every_public_name_is_found(package):
    """What __all__ lists can be had, and is the same thing each time."""
    for name in package.__all__:
        assert getattr(package, name) is vars(package)[name]


def test_a_name_that_does_not_exist():
    """A mistyped name is an AttributeError that knows what was meant."""
    with pytest.raises(AttributeError, match=r"'vernal\.nn' has no attribute 'Linaer'"):
        vn.nn.Linaer  # noqa: B018
    assert not hasattr(vn, "Sequential")
    with pytest.raises(ImportError, match="Linaer"):
        from vernal.nn import Linaer  # noqa: F401


def test_a_package_without_source(monkeypatch):
    """Where only bytecode was shipped, the error says what is missing."""
    monkeypatch.setattr(type(vn.__spec__.loader), "get_source", lambda *_: None)
    with pytest.raises(ImportError, match="vernal: the source is missing"):
        lazy_names("vernal")


def test_dir_is_what_is_public():
    """Completion offers the public names, not the helpers of the package."""
    public = [name for name in dir(vn.nn) if not name.startswith("_")]
    assert public == sorted(vn.nn.__all__)
