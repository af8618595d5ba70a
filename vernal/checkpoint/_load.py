"""``load``: a tree from a file, each leaf by its name."""

import os
from typing import Any, Literal, TypeVar, overload

import jax

from .._serialisation.stored import fold, unfold
from ..errors import TreeError, report, short
from ..typing import PyTree
from ._file import Entry, Reader
from ._leaves import fits, from_array, from_number, kind_of
from ._names import Only, Rename, named_leaves, rename_all, selection
from ._report import LoadReport

_T = TypeVar("_T")


class _Place:
    """A leaf to be filled, and where its array goes."""

    def __init__(self, leaf: Any, sharding: Any) -> None:
        self.leaf = leaf
        self.sharding = sharding


@overload
def load(
    path: str | os.PathLike[str],
    like: _T,
    *,
    strict: Literal[True] = True,
    rename: Rename | None = None,
    only: Only | None = None,
    sharding: PyTree = None,
) -> _T: ...
@overload
def load(
    path: str | os.PathLike[str],
    like: _T,
    *,
    strict: Literal[False],
    rename: Rename | None = None,
    only: Only | None = None,
    sharding: PyTree = None,
) -> tuple[_T, LoadReport]: ...
def load(
    path: str | os.PathLike[str],
    like: _T,
    *,
    strict: bool = True,
    rename: Rename | None = None,
    only: Only | None = None,
    sharding: PyTree = None,
) -> _T | tuple[_T, LoadReport]:
    """Reads what :func:`vernal.save` wrote into a tree, each leaf by its name.

    All names of the file and of the tree must be there on both sides, with the same
    shapes and dtypes; if not, the error tells all that is amiss. Nothing in a file is
    ever run, and what was cut short or altered is refused.

    Arguments:
        path: the file.
        like: a tree with the structure, shapes and dtypes to be loaded. Its arrays may
            be abstract, as from :func:`filter_eval_shape`. Whether an array comes back
            as JAX's or NumPy's, ``like`` says; an integer may stand for a float.
        strict: if False, names that do not fit stay as they are in ``like``, and a
            report of them is returned too.
        rename: new names for old ones: a dictionary ``{"old.prefix": "new.prefix"}``
            for whole subtrees (the longest prefix counts; ``""`` is the whole), or a
            function from a name in the file to its name in the tree, or to None for
            one that is not wanted.
        only: which part to load: the name (in the tree) of a subtree, a compiled
            regular expression that is searched for, a function of the name, or
            several of these. All else stays as it is in ``like``, and may be missing.
        sharding: a ``jax.sharding.Sharding`` for all arrays, or a tree of them whose
            structure is a prefix of ``like``'s; None where there is none. Each
            device is given its part only. By default an array goes where that of
            ``like`` is, if that is on several devices or abstract with a sharding.

    Returns:
        A tree as ``like``, with the values from the file, also of static fields that
        are ``stored``, such as the ``inference`` of a layer. Leaves that are not
        stored, such as functions, are those of ``like``. With ``strict=False``, a pair
        of the tree and a :class:`vernal.checkpoint.LoadReport`.

    Raises:
        ModelFileError: names do not fit, or the file is damaged or of another format.

    >>> import vernal as vn, jax, tempfile
    >>> path = tempfile.mkdtemp() + "/mlp.safetensors"
    >>> make = lambda key: vn.nn.MLP(2, 1, width_size=4, depth=1, key=key)
    >>> mlp = make(jax.random.key(0))
    >>> vn.save(path, {"old": mlp})
    >>> like = vn.filter_eval_shape(make, jax.random.key(1))
    >>> loaded = vn.load(path, {"new": like}, rename={"old": "new"})
    >>> bool(vn.tree_equal(loaded["new"], mlp))
    True
    """
    reader = Reader(path)
    places = unfold(_places(like, sharding))
    names = named_leaves(places)
    wanted = {name: _leaf(place) for name, place in names.items()}
    wanted = {k: leaf for k, leaf in wanted.items() if kind_of(leaf) is not None}
    found = {
        k: reader.entries[v] for k, v in rename_all(reader.entries, rename).items()
    }
    takes = selection(only, [*wanted, *found])
    outcome = _compare(
        reader,
        {name: leaf for name, leaf in wanted.items() if takes(name)},
        {name: entry for name, entry in found.items() if takes(name)},
    )
    if strict and not outcome.is_complete:
        raise outcome.error()
    loaded = {name: _read(reader, found[name], names[name]) for name in outcome.loaded}
    leaves = [loaded.get(name, _leaf(place)) for name, place in names.items()]
    treedef: Any = jax.tree.structure(places)
    tree: _T = fold(treedef.unflatten(leaves))
    return tree if strict else (tree, outcome)


def _places(like: PyTree, sharding: PyTree) -> PyTree:
    def below(one: Any, subtree: PyTree) -> PyTree:
        if one is not None and not isinstance(one, jax.sharding.Sharding):
            raise TreeError(
                report(
                    "load: a leaf of `sharding` is no sharding.",
                    expected="a jax.sharding.Sharding, or None",
                    got=short(one),
                )
            )
        return jax.tree.map(lambda leaf: _Place(leaf, one or _own(leaf)), subtree)

    return jax.tree.map(below, sharding, like, is_leaf=lambda x: x is None)


def _own(leaf: Any) -> Any:
    """Where the array of a tree is, if that is no matter of course."""
    sharding = getattr(leaf, "sharding", None)
    mesh = getattr(sharding, "mesh", None)
    if sharding is None or isinstance(mesh, jax.sharding.AbstractMesh):
        return None
    is_abstract = isinstance(leaf, jax.ShapeDtypeStruct)
    return sharding if is_abstract or sharding.num_devices > 1 else None


def _leaf(place: Any) -> Any:
    """What stands at a place: static fields that are stored stand there themselves."""
    return place.leaf if isinstance(place, _Place) else place


def _compare(
    reader: Reader, wanted: dict[str, Any], found: dict[str, Entry]
) -> LoadReport:
    misfits = {k: _misfit(found[k], wanted[k]) for k in wanted if k in found}
    return LoadReport(
        path=reader.path,
        loaded=tuple([name for name, text in misfits.items() if not text]),
        missing=tuple([name for name in wanted if name not in found]),
        unexpected=tuple([name for name in found if name not in wanted]),
        mismatching={name: text for name, text in misfits.items() if text},
    )


def _misfit(entry: Entry, leaf: Any) -> str:
    """Why what is in the file cannot take the place of a leaf; empty if it can."""
    kind = kind_of(leaf)
    if kind is None or not fits(entry.kind, kind):
        return f"is {entry.kind} and should be {kind}"
    if kind.shape is None:
        try:
            from_number(entry.kind.dtype, entry.number, leaf)
        except ValueError:
            return f"is {short(entry.number)} and should be a {type(leaf).__name__}"
    return ""


def _read(reader: Reader, entry: Entry, place: Any) -> Any:
    leaf = _leaf(place)
    if entry.kind.shape is None:
        return from_number(entry.kind.dtype, entry.number, leaf)
    array = reader.array(entry, leaf)
    try:
        return from_array(array, leaf, place.sharding)
    except Exception as error:  # a sharding that does not divide the shape, say
        error.add_note(f"This was at {reader.path}, leaf `{entry.name}`.")
        raise
