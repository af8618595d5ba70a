"""``save``: a tree in one file, its leaves by their names."""

import functools
import os
from typing import Any

import jax
import numpy as np

from .._serialisation.stored import unfold
from .._tree.filters import is_array_like
from ..errors import TreeError, short
from ..typing import PyTree
from ._file import Item, write
from ._leaves import check_storable, kind_of, layout, to_array, to_number
from ._names import named_leaves


def save(path: str | os.PathLike[str], tree: PyTree, *, metadata: Any = None) -> None:
    """Writes the arrays and numbers of a tree to a file, each by its name.

    The name of a leaf is its path: ``model.layers[0].weight`` in ``{"model": model}``.
    :func:`vernal.load` finds it by that. So layers of one shape cannot be mixed up,
    names can be changed, and parts be loaded. Stored are JAX and NumPy arrays of any
    dtype, random keys, Python's numbers, and those static fields of layers that are
    ``stored``, such as the rate of a Dropout; but not functions, texts and objects.

    The file appears, or takes the place of an old one, once all of it is on the disk;
    a process that is killed leaves the old one. It is in the safetensors format, which
    many programs read. Each array has a checksum.

    Arguments:
        path: the file; ``.safetensors`` is a usual suffix. None is added.
        tree: any pytree. For training to go on later:
            ``{"model": model, "state": state, "opt_state": opt_state}``.
        metadata: what JSON can hold: dictionaries with text keys, lists, texts,
            numbers. :func:`vernal.checkpoint.inspect` shows it.

    Raises:
        TreeError: a leaf cannot be stored, or the metadata is no JSON. An old file at
            this path is still there.

    >>> import vernal as vn, jax, tempfile
    >>> mlp = vn.nn.MLP(2, 1, width_size=4, depth=1, key=jax.random.key(0))
    >>> path = tempfile.mkdtemp() + "/mlp.safetensors"
    >>> vn.save(path, mlp)
    >>> bool(vn.tree_equal(vn.load(path, mlp), mlp))
    True
    """
    write(path, items_of(tree, copy=False), metadata)


def items_of(tree: PyTree, *, copy: bool) -> list[Item]:
    """What a file holds of a tree.

    Arguments:
        tree: any pytree.
        copy: whether to copy the values at once, so that the tree's arrays may be
            donated or overwritten before they are written.
    """
    leaves = named_leaves(unfold(tree))
    if copy:
        for leaf in leaves.values():  # all transfers at once, not one after the other
            if isinstance(leaf, jax.Array) and leaf.is_fully_addressable:
                leaf.copy_to_host_async()
    found = [_item(name, leaf, copy) for name, leaf in leaves.items()]
    return [item for item in found if item is not None]


def _item(name: str, leaf: Any, copy: bool) -> Item | None:
    kind = kind_of(leaf)
    try:
        if kind is None:
            if is_array_like(leaf):
                raise TreeError(f"{short(leaf)} only turns into an array; convert it.")
            return None
        check_storable(leaf, kind)
        if kind.shape is None:
            return Item(name, kind, number=to_number(leaf))
    except (TreeError, ValueError) as error:
        raise TreeError(f"leaf `{name}`: {error}") from None
    fetch: Any = functools.partial(to_array, leaf, copy=False)
    if copy:
        fetch = functools.partial(np.asarray, to_array(leaf, copy=True))
    return Item(name, kind, table=layout(leaf, kind), fetch=fetch)
