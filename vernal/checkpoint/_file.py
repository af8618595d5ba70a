"""The file: a table of arrays in the safetensors format, and a manifest.

The manifest is a JSON text in the header. It says what each array was in the tree,
holds the Python numbers and the user's metadata, and has a checksum for each array and
for itself. So whatever is altered is noticed, and nothing in a file is ever run.

Files are written here, as the package ``safetensors`` would need all arrays in memory
and hold Python's global lock, and read by that package, which trusts nothing.
"""

import json
import math
import os
import pathlib
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import numpy as np
from safetensors import SafetensorError, safe_open

from .._serialisation.atomic import replacing
from ..errors import ModelFileError, TreeError, report, short
from ._leaves import Kind, layout

FORMAT = 1
# What Python raises besides, for JSON that is not as we write it.
_ODD = (AttributeError, ArithmeticError, RecursionError)
_LARGEST_HEADER = 100_000_000  # what readers of the format accept


class Entry(NamedTuple):
    """What a file says of one leaf."""

    name: str
    kind: Kind
    crc32: str
    """The checksum of an array's bytes."""

    number: str
    """A Python number as text."""


class FileInfo(NamedTuple):
    """What is in a file that :func:`vernal.save` wrote; printed, a table of the names.

    Attributes:
        path: the file.
        size: its size in bytes.
        entries: one for each array or number, in the order of the tree, with ``name``
            and ``kind``; ``kind`` has ``dtype`` and ``shape``, which is None for a
            Python number.
        metadata: what was given as ``metadata``.
        format: the version of the format.

    >>> import vernal as vn, jax.numpy as jnp, tempfile
    >>> path = tempfile.mkdtemp() + "/weights.safetensors"
    >>> vn.save(path, {"a": jnp.ones(3)})
    >>> [entry.name for entry in vn.checkpoint.inspect(path).entries]
    ['a']
    """

    path: pathlib.Path
    size: int
    entries: tuple[Entry, ...]
    metadata: Any
    format: int

    def __str__(self) -> str:
        count = f"{len(self.entries)} name{'' if len(self.entries) == 1 else 's'}"
        rows = [f"{self.path}: {count}, {self.size} bytes, format {self.format}"]
        width = max((len(entry.name) for entry in self.entries), default=0)
        for entry in self.entries:
            value = f" {entry.number}" if entry.kind.shape is None else ""
            rows.append(f"  {entry.name:<{width}}  {entry.kind}{value}")
        if self.metadata is not None:
            rows.append(f"metadata: {short(json.dumps(self.metadata), 500)}")
        return "\n".join(rows)


class Item(NamedTuple):
    """One leaf on its way into a file."""

    name: str
    kind: Kind
    number: str = ""
    table: tuple[str, tuple[int, ...]] = ("", ())
    """Dtype and shape of an array in the file's own table."""

    fetch: Callable[[], np.ndarray[Any, Any]] | None = None
    """Gives the values of an array; called once, when it is its turn."""


def write(path: str | os.PathLike[str], items: list[Item], metadata: Any) -> None:
    """Writes a file in one piece, one array after the other.

    Raises:
        TreeError: the metadata is no JSON, or the header is too long.
    """
    sums: dict[str, str] = {}
    arrays = [item for item in items if item.fetch is not None]
    # Largest first: so each array begins at a multiple of its item size.
    arrays.sort(key=lambda item: -_item_size(item.table[0]))
    blank = _header(items, arrays, sums, metadata)
    with replacing(path) as file:
        file.write(blank)
        for item in arrays:
            assert item.fetch is not None
            data = item.fetch().reshape(-1).view(np.uint8)
            file.write(data.data)
            sums[item.name] = _checksum(data)
        file.seek(0)  # the checksums are known only now
        file.write(_header(items, arrays, sums, metadata))


def _header(
    items: list[Item], arrays: list[Item], sums: dict[str, str], metadata: Any
) -> bytes:
    table: dict[str, Any] = {}
    start = 0
    for item in arrays:
        dtype, shape = item.table
        end = start + _item_size(dtype) * math.prod(shape)
        table[item.name] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": (start, end),
        }
        start = end
    manifest = to_json({"leaves": _records(items, sums), "metadata": metadata})
    own: Any = {
        "format": f"vernal {FORMAT}",
        "manifest": manifest,
        "checksum": _checksum(manifest.encode()),
    }
    text = to_json({"__metadata__": own} | table).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > _LARGEST_HEADER:
        raise TreeError(
            report(
                "the names and the metadata are too long for one file.",
                expected=f"{_LARGEST_HEADER} bytes at most",
                got=f"{len(text)} bytes",
                fix="store large metadata as arrays of the tree",
            )
        )
    return len(text).to_bytes(8, "little") + text


def _records(items: list[Item], sums: dict[str, str]) -> dict[str, Any]:
    records: dict[str, Any] = {}
    for item in items:
        dtype, shape = item.kind
        if shape is None:
            records[item.name] = {"number": dtype, "value": item.number}
        else:
            crc32 = sums.get(item.name, "0" * 8)
            records[item.name] = {"dtype": dtype, "shape": shape, "crc32": crc32}
    return records


def to_json(value: Any) -> str:
    """The text of the manifest or of metadata.

    Raises:
        TreeError: JSON cannot hold it.
    """
    try:
        return json.dumps(value, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise TreeError(
            report(
                "`metadata` cannot be written as JSON.",
                expected="dictionaries with text keys, lists, texts, numbers, None",
                got=short(str(error)),
            )
        ) from None


def _checksum(data: Any) -> str:
    return f"{zlib.crc32(data):08x}"


def _item_size(dtype: str) -> int:
    digits = "".join(filter(str.isdigit, dtype))
    return int(digits or 8) // 8  # BOOL has no digits


class Reader:
    """An open file whose header was checked.

    Raises:
        ModelFileError: the file is damaged, or not of this format.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = pathlib.Path(path)
        with open(self.path, "rb") as file:  # raises what the operating system says
            size = file.seek(0, os.SEEK_END)
        try:
            self._file: Any = safe_open(str(self.path), framework="np")
        except (SafetensorError, OSError, ValueError) as error:
            self.damaged("the header cannot be read", short(str(error)))
        self.info = self._check(size)
        self.entries = {entry.name: entry for entry in self.info.entries}

    def array(self, entry: Entry, leaf: Any) -> np.ndarray[Any, Any]:
        """The values of an array, for a leaf of the same kind."""
        try:
            view = self._file.get_slice(entry.name)
            found = (view.get_dtype(), tuple(view.get_shape()))
            if found != (wanted := layout(leaf, entry.kind)):
                self.damaged(
                    f"`{entry.name}` is not what it should be", f"{found}, not {wanted}"
                )
            array = self._file.get_tensor(entry.name)
        except SafetensorError as error:
            self.damaged(f"`{entry.name}` cannot be read", short(str(error)))
        data = array.reshape(-1).view(np.uint8)
        if _checksum(data) != entry.crc32:
            self.damaged(f"`{entry.name}` was altered", "another checksum")
        if entry.kind.dtype == "bool" and data.max(initial=0) > 1:
            self.damaged(f"`{entry.name}` is not boolean", f"{data.max()}")
        return array

    def damaged(self, title: str, got: str) -> NoReturn:
        raise ModelFileError(
            report(
                f"{self.path}: {title}.",
                expected="a whole file, as `vernal.save` writes it",
                got=got,
                fix="get the file anew, or go back to an older one",
            )
        )

    def _check(self, size: int) -> FileInfo:
        own = self._file.metadata() or {}
        name, _, version = own.get("format", "").partition(" ")
        if name != "vernal" or not {"manifest", "checksum"} <= own.keys():
            self.damaged(
                "the file was not written by `vernal.save`",
                f"header with {sorted(own)}",
            )
        manifest = own["manifest"]
        if _checksum(manifest.encode()) != own["checksum"]:
            self.damaged("the header was altered", "another checksum")
        if version != str(FORMAT):
            self.damaged("the file has another format", f"format {version}")
        try:
            content = json.loads(manifest)
            records = content["leaves"].items()
            entries = tuple([_entry(name, record) for name, record in records])
            metadata = content["metadata"]
        except (ValueError, LookupError, TypeError, *_ODD) as error:
            self.damaged("the header cannot be read", short(repr(error)))
        arrays = {entry.name for entry in entries if entry.kind.shape is not None}
        if arrays != set(self._file.keys()):
            self.damaged("the arrays are not those that the header names", "others")
        return FileInfo(self.path, size, entries, metadata, FORMAT)


def _entry(name: str, record: dict[str, Any]) -> Entry:
    if "number" in record:
        return Entry(name, Kind(str(record["number"]), None), "", str(record["value"]))
    kind = Kind(str(record["dtype"]), tuple(map(int, record["shape"])))
    return Entry(name, kind, str(record["crc32"]), "")


def inspect(path: str | os.PathLike[str]) -> FileInfo:
    """Says what is in a file, without reading its arrays.

    Arguments:
        path: a file that :func:`vernal.save` wrote.

    Returns:
        The names, kinds and metadata; ``print`` it for a table.

    Raises:
        ModelFileError: the header is damaged, or of another format. (Whether arrays
            are damaged is seen when they are loaded.)

    >>> import vernal as vn, jax, jax.numpy as jnp, tempfile
    >>> path = tempfile.mkdtemp() + "/weights.safetensors"
    >>> tree = {"layers": [jnp.ones((2, 3))], "key": jax.random.key(0), "rate": 0.5}
    >>> vn.save(path, tree, metadata={"epoch": 3})
    >>> print(vn.checkpoint.inspect(path))
    /...weights.safetensors: 3 names, ... bytes, format 1
      key        key<threefry2x32>[]
      layers[0]  float32[2,3]
      rate       Python float 0.5
    metadata: {"epoch": 3}
    """
    return Reader(path).info
