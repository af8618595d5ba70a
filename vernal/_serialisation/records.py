"""The leaves of a tree in a file, as ``.npy`` records one after the other.

The stream has no names and no structure: the tree to be filled gives both. The header
of a record, a text with dtype and shape, is compared with what the leaf needs before
any data is read, so that a damaged file can neither allocate memory nor run anything.
"""

import contextlib
import math
import os
import pathlib
import re
import uuid
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Literal, NoReturn, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from numpy.lib import format as npy

from ._tree.filters import is_array_like
from ._tree.paths import path_text
from .errors import ModelFileError, TreeError, report
from .typing import IsLeaf, PyTree

_T = TypeVar("_T")
_PathOrFile: TypeAlias = str | os.PathLike[str] | BinaryIO
_Write: TypeAlias = Callable[[BinaryIO, Any], None]
_Read: TypeAlias = Callable[[BinaryIO, Any], Any]

_MAGIC = npy.MAGIC_PREFIX + b"\x01\x00"  # no array needs the later versions
_HEADER = re.compile(
    r"\{'descr': (.+), 'fortran_order': (True|False), "
    r"'shape': \(((?:\d{1,19}, )*(?:\d{1,19},?)?)\), \} *\n"
)
_KEYS = re.compile(r"\[\('([^']+)', '[^']+', \([^()]*\)\)\]")
_NAMES = {
    repr(npy.dtype_to_descr(np.dtype(name))): np.dtype(name).name
    for name in ["?", "f2", "f4", "f8", "c8", "c16", jnp.bfloat16]
    + [f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)]
}
_CHUNK = 1 << 24
_FIX = "build `like` with the hyperparameters that the file was written with"

# What np.asarray makes of Python's numbers. An integer may stand for a float, and
# both for a complex number, as everywhere in Python.
_INTEGERS = (np.dtype(np.int64), np.dtype(np.uint64))
_REALS = (np.dtype(np.float64), *_INTEGERS)
_PYTHON_NUMBERS: dict[type, tuple[np.dtype[Any], ...]] = {
    bool: (np.dtype(bool),),
    int: _INTEGERS,
    float: _REALS,
    complex: (np.dtype(np.complex128), *_REALS),
}


def default_serialise_filter_spec(f: BinaryIO, x: Any) -> None:
    """Writes one leaf to a file: arrays, numbers and PRNG keys; skips anything else.

    Call it from a ``filter_spec`` of your own that treats some leaves differently.

    Arguments:
        f: a file open for writing bytes.
        x: the leaf.

    Raises:
        TreeError: the leaf looks like an array, and cannot be stored as numbers.

    >>> import io, jax.numpy as jnp
    >>> file = io.BytesIO()
    >>> default_serialise_filter_spec(file, jnp.ones(3))
    >>> default_serialise_filter_spec(file, "text")
    >>> len(file.getvalue())
    140
    """
    if _is_key(x):
        array = _pack_keys(x)
    elif is_array_like(x):
        array = np.asarray(x)
    else:
        return
    if array.dtype.hasobject:
        raise TreeError(
            report(
                "the leaf cannot be stored.",
                expected="an array of numbers, or a number of at most 64 bits",
                got=f"{type(x).__name__}, of which NumPy makes objects",
                fix="pass a `filter_spec` that converts or skips it",
            )
        )
    np.save(f, array, allow_pickle=False)


def default_deserialise_filter_spec(f: BinaryIO, x: Any) -> Any:
    """Reads one leaf from a file: the inverse of :func:`default_serialise_filter_spec`.

    Call it from a ``filter_spec`` of your own that treats some leaves differently.

    Arguments:
        f: a file open for reading bytes.
        x: a leaf of the kind, shape and dtype to be read; for a JAX array, a
            ``jax.ShapeDtypeStruct`` will do.

    Returns:
        The value read; or ``x``, if it is something that is not stored.

    Raises:
        ModelFileError: the file is damaged, ends here, or has something else here.

    >>> import io, jax.numpy as jnp
    >>> file = io.BytesIO()
    >>> default_serialise_filter_spec(file, jnp.arange(3.0))
    >>> _ = file.seek(0)
    >>> default_deserialise_filter_spec(file, jnp.zeros(3))
    Array([0., 1., 2.], dtype=float32)
    """
    if _is_key(x):
        return _read_keys(f, x)
    if isinstance(x, jax.Array | jax.ShapeDtypeStruct):
        return jnp.asarray(_read(f, (x.dtype,), x.shape))
    if isinstance(x, np.ndarray):
        return _read(f, (x.dtype,), x.shape)
    if isinstance(x, np.generic):
        return _read(f, (x.dtype,), ())[()]
    for kind, dtypes in _PYTHON_NUMBERS.items():
        if isinstance(x, kind):
            return _rebuild(type(x), _read(f, dtypes, ()).item())
    return x


def tree_serialise_leaves(
    path_or_file: _PathOrFile,
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

    with _writing(path_or_file) as file:
        _map_leaves(write, file, _name(path_or_file), filter_spec, pytree, is_leaf)


def tree_deserialise_leaves(
    path_or_file: _PathOrFile,
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

    name = _name(path_or_file)
    if not isinstance(path_or_file, str | os.PathLike):
        return _map_leaves(read, path_or_file, name, filter_spec, like, is_leaf)
    with open(name, "rb") as file:
        out = _map_leaves(read, file, name, filter_spec, like, is_leaf)
        if file.read(1):
            title = f"{name}: the file goes on after the last leaf of `like`"
            _fail(title, "the end of the file", "more bytes", _FIX)
    return out


def _map_leaves(
    function: Callable[[BinaryIO, Any, Any], Any],
    file: BinaryIO,
    name: str,
    filter_spec: PyTree,
    tree: _T,
    is_leaf: IsLeaf,
) -> _T:
    """Maps over all leaves in order; errors tell the file and the leaf."""

    def map_subtree(start: tuple[Any, ...], spec: Any, subtree: PyTree) -> PyTree:
        def map_leaf(path: tuple[Any, ...], leaf: Any) -> Any:
            with _errors_at(name, path_text((*start, *path))):
                return function(file, spec, leaf)

        return jtu.tree_map_with_path(map_leaf, subtree, is_leaf=is_leaf)

    return jtu.tree_map_with_path(map_subtree, filter_spec, tree)


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


def _name(path_or_file: _PathOrFile) -> str:
    """The path of the file, with its suffix."""
    if not isinstance(path_or_file, str | os.PathLike):
        return "<file object>"
    path = pathlib.Path(path_or_file)
    return str(path if path.suffix else path.with_suffix(".eqx"))


@contextlib.contextmanager
def _writing(path_or_file: _PathOrFile) -> Iterator[BinaryIO]:
    """A file to write to that comes into its place when all went well."""
    if not isinstance(path_or_file, str | os.PathLike):
        yield path_or_file
        return
    target = pathlib.Path(_name(path_or_file)).resolve()  # a link stays a link
    if target.exists() and not target.is_file():  # a pipe, say, is not to be replaced
        with open(target, "wb") as file:
            yield file
        return
    temporary = target.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            temporary.chmod(target.stat().st_mode)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _read(
    f: BinaryIO, dtypes: tuple[np.dtype[Any], ...], shape: tuple[int, ...]
) -> np.ndarray[Any, Any]:
    """Reads one record, which must have this shape and one of these dtypes."""
    descrs = [repr(npy.dtype_to_descr(dtype)) for dtype in dtypes]
    descr, order, stored_shape = _read_header(f)
    if dtypes[0].hasobject:  # bytes of a file would be taken for addresses
        _fail("objects are never read", "numbers in `like`", str(dtypes[0]), _FIX)
    if descr not in descrs or stored_shape != shape:
        what = "dtype" if stored_shape == shape else "shape"
        expected = f"{shape}, {_dtype_name(descrs[0], dtypes[0])}"
        got = f"{stored_shape}, {_dtype_name(descr)}"
        _fail(f"the stored array has another {what}", expected, got, _FIX)
    dtype = dtypes[descrs.index(descr)]
    size = dtype.itemsize * math.prod(shape)
    data = _read_at_most(f, size)
    if len(data) < size:
        _fail("the array is cut short", f"{size} bytes", f"{len(data)} bytes")
    if dtype.kind == "b" and (most := np.frombuffer(data, np.uint8).max(initial=0)) > 1:
        _fail("an array of bool is damaged", "0 and 1", f"{most}")
    return np.ndarray(shape, dtype, data, order=order)


def _read_header(f: BinaryIO) -> tuple[str, Literal["C", "F"], tuple[int, ...]]:
    """The text that stands for the dtype, the order, and the shape of a record."""
    start = _read_at_most(f, 10)
    if not start:
        _fail("the file ends here", "a stored array", "nothing", _FIX)
    if start.startswith(_MAGIC):
        start += _read_at_most(f, int.from_bytes(start[8:], "little"))
    match = _HEADER.fullmatch(start[10:].decode("latin1"))
    if match is None:
        _fail("no stored array begins here", "a header", f"{bytes(start[:40])!r}")
    shape = tuple(map(int, re.findall(r"\d+", match[3])))
    return match[1], "F" if match[2] == "True" else "C", shape


def _read_at_most(f: BinaryIO, size: int) -> bytearray:
    data = bytearray()  # grows with what is there, so that nothing is taken on trust
    while len(data) < size and (part := f.read(min(size - len(data), _CHUNK))):
        data += part
    return data


def _fail(title: str, expected: str, got: str, fix: str = "") -> NoReturn:
    fix = (
        fix or "get the file anew; check that each `filter_spec` reads what was written"
    )
    raise ModelFileError(report(f"{title}.", expected=expected, got=got, fix=fix))


def _dtype_name(descr: str, dtype: np.dtype[Any] | None = None) -> str:
    """What users call a dtype; what stands in a file is not trusted to be one."""
    if match := _KEYS.fullmatch(descr):
        return f"key<{match[1]}>"
    return _NAMES.get(descr, f"dtype {descr}") if dtype is None else str(dtype)


def _check_kind(new: Any, like: Any) -> None:
    """Refuses what a ``filter_spec`` returned if it cannot stand for ``like``."""
    if _kind(new) != _kind(like):
        _fail("the leaf has become something else", _kind(like), _kind(new), _FIX)


def _kind(x: Any) -> str:
    if isinstance(x, jax.Array | jax.ShapeDtypeStruct):
        return f"a JAX array {x.shape}, {x.dtype}"
    if isinstance(x, np.ndarray):
        return f"a NumPy array {x.shape}, {x.dtype}"
    return f"{type(x).__module__}.{type(x).__qualname__}"


def _rebuild(kind: type, number: Any) -> Any:
    try:
        return kind(number)
    except (ValueError, TypeError):
        _fail("the number is none of its type", kind.__name__, f"{number!r}", _FIX)


def _is_key(x: Any) -> bool:
    is_jax = isinstance(x, jax.Array | jax.ShapeDtypeStruct)
    return is_jax and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _pack_keys(keys: jax.Array) -> np.ndarray[Any, Any]:
    """PRNG keys as an array whose dtype has a field, named after the implementation."""
    data = np.asarray(jr.key_data(keys))
    dtype = np.dtype([(str(jr.key_impl(keys)), data.dtype, data.shape[keys.ndim :])])
    return np.ndarray(keys.shape, dtype, data.tobytes())


def _read_keys(f: BinaryIO, like: jax.Array | jax.ShapeDtypeStruct) -> jax.Array:
    impls = []

    def data_of(keys: jax.Array) -> jax.Array:
        impls.append(jr.key_impl(keys))
        return jr.key_data(keys)

    # Traced, as a ShapeDtypeStruct cannot be asked for its implementation.
    data = jax.eval_shape(data_of, like)
    name = str(impls[0])
    dtype = np.dtype([(name, data.dtype, data.shape[len(like.shape) :])])
    array = _read(f, (dtype,), like.shape)[name]
    return jr.wrap_key_data(jnp.asarray(array), impl=impls[0])
