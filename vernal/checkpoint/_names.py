"""What the leaves of a tree are called in a file, and which names are meant."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import jax.tree_util as jtu

from .._tree.paths import path_text
from ..errors import ModelFileError, TreeError, report
from ..typing import PyTree

Rename: TypeAlias = Mapping[str, str] | Callable[[str], str | None]
Only: TypeAlias = str | Sequence[str] | re.Pattern[str] | Callable[[str], bool]

# A key of a dictionary that reads as the path of an attribute is written as one. The
# slots of a State have such keys.
_WORD = r"[^\W\d]\w*"
_STEP = r"\[(?:\d+|'[^'\]]*')\]"
_PATH = re.compile(rf"(?:{_WORD}|{_STEP})(?:\.{_WORD}|{_STEP})*")
_RESERVED = "__metadata__"  # of the file format
_ALONE = "value"  # a tree that is a single leaf


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by their names, in order.

    ``{"model": model}`` has the name ``model.layers[0].weight``. Where two leaves
    would be called the same, keys are quoted: ``['model'].layers[0].weight``.
    """
    pairs = jtu.tree_leaves_with_path(tree)
    names = [_join(path) or _ALONE for path, _ in pairs]
    counts = Counter(names)
    found: dict[str, Any] = {}
    for name, (path, leaf) in zip(names, pairs, strict=True):
        if counts[name] > 1 or name == _RESERVED:
            name = path_text(path)
        if name in found or name == _RESERVED:
            raise TreeError(
                report(
                    f"two leaves of the tree are both called `{name}`.",
                    expected="one name for each leaf",
                    fix="rename a key, or a field of a pytree class of your own",
                )
            )
        found[name] = leaf
    return found


def _join(path: tuple[Any, ...]) -> str:
    name = ""
    for key in path:
        text = path_text((key,))
        if isinstance(key, jtu.DictKey) and isinstance(key.key, str):
            text = key.key if _PATH.fullmatch(key.key) else text
        name += text if not name or text.startswith("[") else f".{text}"
    return name


def is_under(name: str, prefix: str) -> bool:
    """Whether a name is that of a subtree, or of something in it.

    >>> is_under("norm.scale", "norm"), is_under("norm1.scale", "norm")
    (True, False)
    """
    rest = name.removeprefix(prefix)
    return not prefix or (name.startswith(prefix) and (not rest or rest[0] in ".["))


def rename_all(names: Iterable[str], rename: Rename | None) -> dict[str, str]:
    """Names as the tree has them -> names as the file has them.

    Raises:
        ModelFileError: two names become the same.
    """
    found: dict[str, str] = {}
    for old in names:
        new = _renamed(old, rename)
        if new is None:
            continue
        if new in found:
            raise ModelFileError(
                report(
                    "`rename` gives two names of the file the same new name.",
                    expected="a new name for each",
                    got=f"`{found[new]}` and `{old}` -> `{new}`",
                )
            )
        found[new] = old
    return found


def _renamed(name: str, rename: Rename | None) -> str | None:
    if rename is None:
        return name
    if not isinstance(rename, Mapping):
        return rename(name)
    prefixes = [prefix for prefix in rename if is_under(name, prefix)]
    if not prefixes:
        return name
    prefix = max(prefixes, key=len)
    new, rest = rename[prefix], name.removeprefix(prefix).removeprefix(".")
    return new + rest if not (new and rest) or rest[0] == "[" else f"{new}.{rest}"


def selection(only: Only | None, names: Iterable[str]) -> Callable[[str], bool]:
    """The question whether a name is to be loaded.

    Raises:
        ModelFileError: a part of ``only`` matches none of the names.
    """
    if only is None:
        return lambda name: True
    parts: Sequence[Any] = [only]
    if isinstance(only, Sequence) and not isinstance(only, str):
        parts = only
    questions = [_question(part) for part in parts]
    names = list(names)
    for part, asks in zip(parts, questions, strict=True):
        if not any(map(asks, names)):
            raise ModelFileError(
                report(
                    "`only` matches no name.",
                    expected="the name of a subtree, such as `model`; a compiled "
                    "regular expression; a function of the name; or several names",
                    got=f"{part!r}",
                )
            )
    return lambda name: any(asks(name) for asks in questions)


def _question(only: Any) -> Callable[[str], bool]:
    if isinstance(only, str):
        return lambda name: is_under(name, only)
    if isinstance(only, re.Pattern):
        return lambda name: only.search(name) is not None
    return lambda name: bool(only(name))
