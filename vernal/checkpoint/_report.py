"""Which names of a file and of a tree have found each other."""

import pathlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ..errors import ModelFileError, short

_SHOWN = 3


class LoadReport(NamedTuple):
    """What ``load(…, strict=False)`` loaded and what not; printed, a short text.

    Attributes:
        path: the file.
        loaded: the names of all leaves that come from the file.
        missing: names of the tree that the file lacks.
        unexpected: names of the file that the tree lacks.
        mismatching: names of both with different shapes, dtypes or kinds, and what the
            file has and the tree expects.

    >>> import vernal as vn, jax.numpy as jnp, tempfile
    >>> path = tempfile.mkdtemp() + "/weights.safetensors"
    >>> vn.save(path, {"a": jnp.ones(3), "b": 1.0})
    >>> like = {"a": jnp.zeros(2), "c": 0.0}
    >>> tree, report = vn.load(path, like, strict=False)
    >>> print(report)
    /...weights.safetensors: 3 names do not fit the tree, and 0 do.
      missing:     1: `c`
      unexpected:  1: `b`
      mismatching: 1: `a` is float32[3] and should be float32[2]
    """

    path: pathlib.Path
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatching: Mapping[str, str]

    @property
    def is_complete(self) -> bool:
        """Whether all names of the file and of the tree were loaded."""
        return not (self.missing or self.unexpected or self.mismatching)

    def __str__(self) -> str:
        count = len(self.missing) + len(self.unexpected) + len(self.mismatching)
        noun = "name does" if count == 1 else "names do"
        title = f"{self.path}: {count} {noun} not fit the tree"
        rows = {
            "missing": _some(f"`{name}`" for name in self.missing),
            "unexpected": _some(f"`{name}`" for name in self.unexpected),
            "mismatching": _some(f"`{k}` {v}" for k, v in self.mismatching.items()),
        }
        lines = [f"  {name + ':':<12} {text}" for name, text in rows.items() if text]
        return "\n".join([f"{title}, and {len(self.loaded)} do.", *lines])

    def error(self) -> ModelFileError:
        """The same as an error that tells the ways out."""
        fix = "pass `rename`, `only`, or `strict=False`; or build another `like`"
        return ModelFileError(f"{self}\n  fix:         {fix}")


def _some(texts: Iterable[str]) -> str:
    """The number of some texts, and the first ones."""
    texts = list(texts)
    if not texts:
        return ""
    more = ", …" if len(texts) > _SHOWN else ""
    return f"{len(texts)}: {', '.join(short(x, 120) for x in texts[:_SHOWN])}{more}"
