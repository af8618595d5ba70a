"""Choosing parts of a tree: by type, by name, or by a function."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import jax.tree_util as jtu

from ..errors import TreeError, report, short
from ..typing import PyTree
from .paths import path_text
from .surgery import tree_at

Where: TypeAlias = (
    type | str | re.Pattern[str] | Callable[[Any], Any] | Sequence["Where"]
)
"""Which parts of a tree are meant.

- a class: every part that is an instance of it;
- text: the part of this name, such as ``body.layers[0]``, where ``*`` stands for
  anything: ``*norm*``. A compiled regular expression is searched for in each name;
- a function of the tree that returns a part, or a list of them: ``lambda m: m.body``;
- a sequence of such: all that one of them means.
"""

Path: TypeAlias = tuple[Any, ...]


def select(what: str, tree: PyTree, where: Where) -> list[tuple[Path, Any]]:
    """The parts of a tree that are meant, with their paths, in order.

    A part of a part that is meant does not count by itself.

    Raises:
        TreeError: ``where`` is none of the above, or means nothing in this tree;
            ``what`` is the name of the public function that was called.
    """
    is_meant = _question(what, tree, where)
    found = list(_outermost((), tree, is_meant))
    if not found:
        raise TreeError(
            report(
                f"{what}: `where` means nothing in this {type(tree).__name__}.",
                expected="a class, a name with * for anything, or a function, of "
                f"{short(_names(tree))}",
                got=repr(where),
            )
        )
    return found


def walk(tree: PyTree) -> Iterator[tuple[Path, Any]]:
    """All nodes and leaves with their paths, parents first; also each None."""
    return _outermost((), tree, lambda path, node: True, is_deep=True)


def _outermost(
    path: Path, tree: Any, is_meant: Callable[[Path, Any], bool], is_deep: bool = False
) -> Iterator[tuple[Path, Any]]:
    if is_meant(path, tree):
        yield path, tree
        if not is_deep:
            return
    children = jtu.tree_leaves_with_path(tree, is_leaf=lambda x: x is not tree)
    for step, child in children:
        if step:  # a leaf is its own only child
            yield from _outermost(path + step, child, is_meant, is_deep)


def _question(what: str, tree: PyTree, where: Any) -> Callable[[Path, Any], bool]:
    if isinstance(where, type):
        return lambda path, node: isinstance(node, where)
    if isinstance(where, str):
        escaped = re.escape(where).replace(r"\*", ".*")
        return lambda path, node: re.fullmatch(escaped, path_text(path)) is not None
    if isinstance(where, re.Pattern):
        return lambda path, node: where.search(path_text(path)) is not None
    if callable(where):
        paths = _places(tree, where)
        return lambda path, node: path in paths
    if isinstance(where, Sequence):
        questions = [_question(what, tree, one) for one in where]
        return lambda path, node: any(asks(path, node) for asks in questions)
    raise TreeError(
        report(
            f"{what}: cannot understand `where`.",
            expected="a class, a name, a regular expression, a function, or several",
            got=repr(where),
        )
    )


class _Mark:
    pass


def _places(tree: PyTree, where: Callable[[Any], Any]) -> set[Path]:
    mark = _Mark()
    marked = tree_at(where, tree, replace_fn=lambda part: mark)
    leaves = jtu.tree_leaves_with_path(marked)
    return {path for path, leaf in leaves if leaf is mark}


def _names(tree: PyTree) -> str:
    names = [path_text(path) for path, node in walk(tree) if len(path) == 1]
    return f"{type(tree).__name__} with {', '.join(names) or 'no parts'}"
