"""Changed copies of trees: ``tree_at`` and ``apply_updates``."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax

from ..errors import TreeError, report, short
from ..typing import IsLeaf, PyTree
from ._handles import (
    Handle,
    is_shared,
    restore_hidden,
    unwrap,
    visit,
    wrap_everything,
    wrap_leaves,
)

_Tree = TypeVar("_Tree")
_UNSET: Any = object()


def tree_at(
    where: Callable[[_Tree], Any | Sequence[Any]],
    pytree: _Tree,
    replace: Any | Sequence[Any] = _UNSET,
    replace_fn: Callable[[Any], Any] = _UNSET,
    is_leaf: IsLeaf = None,
) -> _Tree:
    """Returns a copy of a tree in which some leaves or subtrees are replaced.

    The tree itself stays as it is. No ``__init__`` or ``__check_init__`` runs, so the
    replacement may be anything: a mask, a spec, an array of another shape.

    Arguments:
        where: takes a tree of this structure and returns one of its nodes, or a
            sequence of them: ``lambda m: m.layers[-1].weight``. Static fields
            (``lambda m: m.dropout.inference``) and fields that are None can be named
            too. It may search by type or shape; it must not look at values.
        pytree: the tree to copy.
        replace: the replacement; for a sequence of nodes, a sequence as long.
        replace_fn: in place of ``replace``: a function from the old node to the new.
        is_leaf: as in ``jax.tree.map``: what to take as a leaf.

    Returns:
        The changed copy. Arrays that are not replaced are shared with the original.

    Raises:
        TreeError: ``where`` gives something that is not in the tree, or gives one
            place twice; or the number of replacements is another.

    >>> tree = {"a": 1, "b": [2, 3]}
    >>> tree_at(lambda t: t["b"][0], tree, "new")
    {'a': 1, 'b': ['new', 3]}
    >>> tree_at(lambda t: t["b"], tree, replace_fn=sum)
    {'a': 1, 'b': 5}
    """
    if (replace is _UNSET) == (replace_fn is _UNSET):
        raise TreeError("tree_at: pass exactly one of `replace` and `replace_fn`.")
    tagged, nodes, is_single = _select(where, pytree, is_leaf)
    if replace_fn is not _UNSET:
        new = [replace_fn(unwrap(node)) for node in nodes]
    else:
        is_one = is_single or not isinstance(replace, Sequence)
        new = [replace] if is_one else list(replace)
        if len(new) != len(nodes):
            raise TreeError(
                report(
                    "tree_at: `where` and `replace` differ in length.",
                    expected=f"{len(nodes)} replacements, one per node of `where`",
                    got=f"{len(new)}",
                )
            )
    replacements = {id(n): r for n, r in zip(nodes, new, strict=True)}
    out, used = _swap(tagged, replacements)
    if used != replacements.keys():
        raise TreeError(
            report(
                "tree_at: `where` gives a node, and another one inside of it.",
                expected="nodes of which none contains another",
                got=f"{len(nodes)} nodes, {len(nodes) - len(used)} inside of others",
            )
        )
    return out


def _swap(tagged: PyTree, replacements: dict[int, Any]) -> tuple[PyTree, set[int]]:
    """Puts the replacements in, and the values back for all other handles."""
    used: set[int] = set()

    def swap(x: Any) -> Any:
        if id(x) not in replacements:
            return unwrap(x)
        used.add(id(x))
        return replacements[id(x)]

    out = jax.tree.map(swap, tagged, is_leaf=lambda x: id(x) in replacements)
    restore_hidden(out, swap)
    return out, used


def apply_updates(model: PyTree, updates: PyTree) -> PyTree:
    """Adds updates to a model, leaf by leaf; where an update is None nothing changes.

    Arguments:
        model: any tree, usually a Module.
        updates: a tree of the same structure, as optax gives it.

    Returns:
        The updated model.

    >>> apply_updates({"name": "x", "w": 1.0}, {"name": None, "w": 0.5})
    {'name': 'x', 'w': 1.5}
    """
    return jax.tree.map(
        lambda u, p: p if u is None else p + u,
        updates,
        model,
        is_leaf=lambda x: x is None,
    )


def _select(
    where: Callable[[Any], Any], pytree: PyTree, is_leaf: IsLeaf
) -> tuple[PyTree, list[Any], bool]:
    """Finds the chosen nodes in a copy of the tree whose nodes are all distinct.

    Leaves can repeat (small integers, tied arrays), so ``where`` sees a copy in which
    each is wrapped in a handle of its own. What is no leaf (static fields, None) is
    wrapped only if the first try finds nothing: most functions never ask for it.
    """
    original = where(pytree)
    for wrap in (wrap_leaves, wrap_everything):
        tagged = wrap(pytree, is_leaf)
        places = _places(tagged)
        try:
            chosen = where(tagged)
        except Exception as error:
            raise _looks_at_values(short(str(error))) from error
        is_single = id(chosen) in places
        nodes = [chosen] if is_single else chosen
        if wrap is wrap_leaves and is_shared(chosen):
            continue  # None and () could be nodes: they have handles next time
        if isinstance(nodes, list | tuple) and all(id(n) in places for n in nodes):
            _check_choice(list(nodes), [original] if is_single else original)
            return tagged, list(nodes), is_single
    raise TreeError(
        report(
            "tree_at: `where` gives something that is not a node of the tree.",
            expected="a node of the tree it is called with, or a sequence of nodes",
            got=f"{short(repr(original))} ({type(original).__name__})",
            fix="return the nodes themselves: `lambda m: (m.a.weight, m.b.weight)`",
        )
    )


def _places(tagged: PyTree) -> dict[int, Any]:
    """All nodes of the tree, leaves and exposed fields included, by their ids."""
    found: dict[int, Any] = {}

    def add(node: Any) -> None:
        if not is_shared(node):
            found[id(node)] = node
        for value in getattr(node, "__dict__", {}).values():
            if type(value) is Handle:
                found[id(value)] = value

    visit(tagged, add)
    return found


def _check_choice(nodes: list[Any], original: Any) -> None:
    if len({id(node) for node in nodes}) != len(nodes):
        raise TreeError(
            report(
                "tree_at: `where` gives one place of the tree twice.",
                expected="distinct nodes",
                got=f"{len(nodes)} nodes, {len({id(n) for n in nodes})} distinct",
            )
        )
    if len(original) != len(nodes):
        got = f"{len(original)} nodes with values, {len(nodes)} without"
        raise _looks_at_values(got)


def _looks_at_values(got: str) -> TreeError:
    return TreeError(
        report(
            "tree_at: `where` chooses by the values of leaves.",
            expected="a choice of nodes by structure, type or shape only",
            got=got,
            fix="search the tree first and let `where` use the result",
        )
    )
