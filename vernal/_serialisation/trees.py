"""The leaves of a tree in a file, one record after the other.

The stream has no names and no structure: the tree to be filled gives both.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, TypeAlias, TypeVar

import jax
import jax.tree_util as jtu
import numpy as np

from .._tree.paths import path_text
from ..errors import ModelFileError, TreeError
from ..typing import IsLeaf, PyTree
from .atomic import PathOrFile, file_name, writing
from .records import (
    FIX,
    default_deserialise_filter_spec,
    default_serialise_filter_spec,
    fail,
)
from .stored import fold, unfold

_T = TypeVar("_T")
_Write: TypeAlias = Callable[[BinaryIO, Any], None]
_Read: TypeAlias = Callable[[BinaryIO, Any], Any]


def tree_serialise_leaves(
    path_or_file: PathOrFile,
    pytree: PyTree,
    filter_spec: PyTree[_Write] = default_serialise_filter_spec,
    is_leaf: IsLeaf = None,
) -> None:
    """Writes the arrays and numbers of a tree to a file.

    Only values are written, in the order of the leaves; :func:`tree_deserialise_leaves`
    needs a tree of the same structure to put them into. Files that Equinox wrote can
    be read, and it can read these, but for PRNG keys with a dtype of their own.

    A file given by its path is written in one piece: it appears, or takes the place of
    an old one, once all of it is on the disk. Of the one-byte and smaller dtypes the
    format keeps the size only; which one it was, ``like`` must tell.

    Arguments:
        path_or_file: a path, to which ``.eqx`` is added if it has no suffix; or a file
            open for writing bytes, which may have other contents before and after.
        pytree: any pytree, usually a model, or a model and its State.
        filter_spec: a function ``(file, leaf)`` that writes one leaf; or a tree of
            them whose structure is a prefix of ``pytree``'s.
        is_leaf: as in ``jax.tree.map``.

    Raises:
        TreeError: a leaf cannot be stored; an old file at this path is still there.

    >>> import vernal as vn, io, jax
    >>> mlp = vn.nn.MLP(2, 1, width_size=4, depth=1, key=jax.random.key(0))
    >>> file = io.BytesIO()
    >>> tree_serialise_leaves(file, mlp)
    >>> len(file.getvalue())
    580
    """

    def write(file: BinaryIO, spec: Any, leaf: Any) -> Any:
        spec(file, leaf)
        return leaf

    with writing(path_or_file) as file:
        default, name = default_serialise_filter_spec, file_name(path_or_file)
        _map_leaves(write, file, name, default, filter_spec, pytree, is_leaf)


def tree_deserialise_leaves(
    path_or_file: PathOrFile,
    like: _T,
    filter_spec: PyTree[_Read] = default_deserialise_filter_spec,
    is_leaf: IsLeaf = None,
) -> _T:
    """Reads what :func:`tree_serialise_leaves` wrote into a tree of that structure.

    No code in a file is ever run, and no memory is allocated before kind, shape and
    dtype of an array are known to be those in ``like``.

    Arguments:
        path_or_file: a path, to which ``.eqx`` is added if it has no suffix; or a file
            open for reading bytes, which is left after the last leaf.
        like: a tree with the structure, shapes and dtypes of the one that was written.
            Its arrays may be ``jax.ShapeDtypeStruct``, as from
            :func:`filter_eval_shape`.
        filter_spec: a function ``(file, leaf of like)`` that returns the new leaf; or
            a tree of them whose structure is a prefix of ``like``'s.
        is_leaf: as in ``jax.tree.map``.

    Returns:
        A tree as ``like``, with the values from the file; leaves that are not stored,
        such as functions, are those of ``like``.

    Raises:
        ModelFileError: the file is damaged or cut short, has leaves of other kinds,
            shapes or dtypes, or (given by its path) does not end after the last leaf.

    >>> import vernal as vn, io, jax
    >>> mlp = vn.nn.MLP(2, 1, width_size=4, depth=1, key=jax.random.key(0))
    >>> file = io.BytesIO()
    >>> tree_serialise_leaves(file, mlp)
    >>> _ = file.seek(0)
    >>> make = lambda: vn.nn.MLP(2, 1, width_size=4, depth=1, key=jax.random.key(1))
    >>> loaded = tree_deserialise_leaves(file, vn.filter_eval_shape(make))
    >>> bool(vn.tree_equal(loaded, mlp))
    True
    """

    def read(file: BinaryIO, spec: Any, leaf: Any) -> Any:
        new = spec(file, leaf)
        _check_kind(new, leaf)
        return new

    default, name = default_deserialise_filter_spec, file_name(path_or_file)
    if not isinstance(path_or_file, str | os.PathLike):
        rest = (default, filter_spec, like, is_leaf)
        return _map_leaves(read, path_or_file, name, *rest)
    with open(name, "rb") as file:
        out = _map_leaves(read, file, name, default, filter_spec, like, is_leaf)
        if file.read(1):
            title = f"{name}: the file goes on after the last leaf of `like`"
            fail(title, "the end of the file", "more bytes", FIX)
    return out


def _map_leaves(
    function: Callable[[BinaryIO, Any, Any], Any],
    file: BinaryIO,
    name: str,
    default: Callable[[BinaryIO, Any], Any],
    filter_spec: PyTree,
    tree: _T,
    is_leaf: IsLeaf,
) -> _T:
    """Maps over all leaves in order; errors tell the file and the leaf.

    A ``filter_spec`` that is a tree has no functions for static fields: they get the
    default.
    """

    def map_subtree(start: tuple[Any, ...], spec: Any, subtree: PyTree) -> PyTree:
        def map_leaf(path: tuple[Any, ...], leaf: Any) -> Any:
            with _errors_at(name, path_text((*start, *path))):
                return function(file, spec, leaf)

        return jtu.tree_map_with_path(map_leaf, subtree, is_leaf=is_leaf)

    specs, leaves = unfold(filter_spec, stored=default), unfold(tree, is_leaf=is_leaf)
    return fold(jtu.tree_map_with_path(map_subtree, specs, leaves))


@contextlib.contextmanager
def _errors_at(name: str, path: str) -> Iterator[None]:
    place = f"{name}, leaf `{path}`" if path else f"{name}"
    try:
        yield
    except (ModelFileError, TreeError) as error:
        raise type(error)(f"{place}: {error}") from None
    except Exception as error:  # from a user's filter_spec, or the operating system
        error.add_note(f"This was at {place}.")
        raise


def _check_kind(new: Any, like: Any) -> None:
    """Refuses what a ``filter_spec`` returned if it cannot stand for ``like``."""
    if _kind(new) != _kind(like):
        fail("the leaf has become something else", _kind(like), _kind(new), FIX)


def _kind(x: Any) -> str:
    if isinstance(x, jax.Array | jax.ShapeDtypeStruct):
        return f"a JAX array {x.shape}, {x.dtype}"
    if isinstance(x, np.ndarray):
        return f"a NumPy array {x.shape}, {x.dtype}"
    return f"{type(x).__module__}.{type(x).__qualname__}"
