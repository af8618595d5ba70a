"""One leaf in a file, as a record of NumPy's ``.npy`` format.

The header of a record, a text with dtype and shape, is compared with what the leaf
needs before any data is read, so that a damaged file can neither allocate memory nor
run anything.
"""

import math
import re
from typing import Any, BinaryIO, Literal, NoReturn

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from numpy.lib import format as npy

from .._tree.filters import is_array_like
from ..errors import ModelFileError, TreeError, report

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
FIX = "build `like` with the hyperparameters that the file was written with"

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


def _read(
    f: BinaryIO, dtypes: tuple[np.dtype[Any], ...], shape: tuple[int, ...]
) -> np.ndarray[Any, Any]:
    """Reads one record, which must have this shape and one of these dtypes."""
    descrs = [repr(npy.dtype_to_descr(dtype)) for dtype in dtypes]
    descr, order, stored_shape = _read_header(f)
    if dtypes[0].hasobject:  # bytes of a file would be taken for addresses
        fail("objects are never read", "numbers in `like`", str(dtypes[0]), FIX)
    if descr not in descrs or stored_shape != shape:
        what = "dtype" if stored_shape == shape else "shape"
        expected = f"{shape}, {_dtype_name(descrs[0], dtypes[0])}"
        got = f"{stored_shape}, {_dtype_name(descr)}"
        fail(f"the stored array has another {what}", expected, got, FIX)
    dtype = dtypes[descrs.index(descr)]
    size = dtype.itemsize * math.prod(shape)
    data = _read_at_most(f, size)
    if len(data) < size:
        fail("the array is cut short", f"{size} bytes", f"{len(data)} bytes")
    if dtype.kind == "b" and (most := np.frombuffer(data, np.uint8).max(initial=0)) > 1:
        fail("an array of bool is damaged", "0 and 1", f"{most}")
    return np.ndarray(shape, dtype, data, order=order)


def _read_header(f: BinaryIO) -> tuple[str, Literal["C", "F"], tuple[int, ...]]:
    """The text that stands for the dtype, the order, and the shape of a record."""
    start = _read_at_most(f, 10)
    if not start:
        fail("the file ends here", "a stored array", "nothing", FIX)
    if start.startswith(_MAGIC):
        start += _read_at_most(f, int.from_bytes(start[8:], "little"))
    match = _HEADER.fullmatch(start[10:].decode("latin1"))
    if match is None:
        fail("no stored array begins here", "a header", f"{bytes(start[:40])!r}")
    shape = tuple(map(int, re.findall(r"\d+", match[3])))
    return match[1], "F" if match[2] == "True" else "C", shape


def _read_at_most(f: BinaryIO, size: int) -> bytearray:
    data = bytearray()  # grows with what is there, so that nothing is taken on trust
    while len(data) < size and (part := f.read(min(size - len(data), _CHUNK))):
        data += part
    return data


def fail(title: str, expected: str, got: str, fix: str = "") -> NoReturn:
    fix = (
        fix or "get the file anew; check that each `filter_spec` reads what was written"
    )
    raise ModelFileError(report(f"{title}.", expected=expected, got=got, fix=fix))


def _dtype_name(descr: str, dtype: np.dtype[Any] | None = None) -> str:
    """What users call a dtype; what stands in a file is not trusted to be one."""
    if match := _KEYS.fullmatch(descr):
        return f"key<{match[1]}>"
    return _NAMES.get(descr, f"dtype {descr}") if dtype is None else str(dtype)


def _rebuild(kind: type, number: Any) -> Any:
    try:
        return kind(number)
    except (ValueError, TypeError):
        fail("the number is none of its type", kind.__name__, f"{number!r}", FIX)


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
