"""Looking one level into a pytree, and proving that it is a tree at all."""

from typing import Any

import jax

from ..errors import TreeError, report
from ..typing import PyTree


def tree_flatten_one_level(
    pytree: PyTree,
) -> tuple[list[Any], jax.tree_util.PyTreeDef]:
    """Flattens only the outermost node: its direct children, and how to rebuild it.

    Returns:
        The children and a treedef that rebuilds the node from as many objects. A leaf
        gives itself as the only child.

    Raises:
        TreeError: ``pytree`` has itself as a child.

    >>> children, treedef = tree_flatten_one_level({"a": [1, 2], "b": 3})
    >>> children
    [[1, 2], 3]
    >>> treedef.unflatten(["x", "y"])
    {'a': 'x', 'b': 'y'}
    """
    at_root = True

    def stop(node: Any) -> bool:
        nonlocal at_root
        if node is pytree and not at_root:
            raise TreeError(f"a {type(pytree).__name__} has itself as a child.")
        at_root = False
        return node is not pytree

    return jax.tree.flatten(pytree, is_leaf=stop)


def tree_check(pytree: PyTree) -> None:
    """Checks that no node of the tree appears at two places, or inside itself.

    JAX copies a node that appears twice: after the next ``tree.map`` the two places
    are independent. Call this where that would be a bug. Leaves and empty containers
    may repeat.

    Raises:
        TreeError: a node appears twice; the message tells which.

    >>> shared = [1]
    >>> tree_check({"a": shared, "b": [1]})
    >>> tree_check({"a": shared, "b": shared})
    Traceback (most recent call last):
        ...
    vernal.errors.TreeError: a list appears at two places of the tree.
      fix:      copy it, or keep one place and look the other up from there
    """
    _check(pytree, {})


def _check(node: PyTree, finished: dict[int, bool]) -> None:
    children, treedef = tree_flatten_one_level(node)
    if jax.tree_util.treedef_is_leaf(treedef) or not children:
        return
    if id(node) in finished:
        inside_itself = not finished[id(node)]
        where = "inside itself" if inside_itself else "at two places of the tree"
        raise TreeError(
            report(
                f"a {type(node).__name__} appears {where}.",
                fix="copy it, or keep one place and look the other up from there",
            )
        )
    finished[id(node)] = False
    for child in children:
        _check(child, finished)
    finished[id(node)] = True
