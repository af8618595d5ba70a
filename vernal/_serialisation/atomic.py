"""Writing a file in one piece: the old file stays until the new one is complete."""

import contextlib
import os
import pathlib
import re
import uuid
from collections.abc import Iterator
from typing import BinaryIO, TypeAlias

from ..errors import ModelFileError, report

PathOrFile: TypeAlias = str | os.PathLike[str] | BinaryIO
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp")


def file_name(path_or_file: PathOrFile) -> str:
    """The path of the file, with its suffix."""
    if hasattr(path_or_file, "write") or hasattr(path_or_file, "read"):
        return "<file object>"
    if not isinstance(path_or_file, str | os.PathLike):
        raise ModelFileError(
            report(
                "the first argument is neither a path nor an open file.",
                expected="a str or pathlib.Path, or a file open for bytes",
                got=f"{type(path_or_file).__name__}",
                fix="the path comes first, and then the tree",
            )
        )
    path = pathlib.Path(path_or_file)
    return str(path if path.suffix else path.with_suffix(".eqx"))


@contextlib.contextmanager
def writing(path_or_file: PathOrFile) -> Iterator[BinaryIO]:
    """A file to write to that comes into its place when all went well."""
    if not isinstance(path_or_file, str | os.PathLike):
        yield path_or_file
        return
    with replacing(file_name(path_or_file)) as file:
        yield file


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """As :func:`writing`, at just this path."""
    target = pathlib.Path(path).resolve()  # a link stays a link
    if target.exists() and not target.is_file():  # a pipe, say, is not to be replaced
        with open(target, "wb") as file:
            yield file
        return
    temporary = target.with_name(f".{uuid.uuid4().hex}.tmp")  # see `remove_leftovers`
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            temporary.chmod(target.stat().st_mode)
        os.replace(temporary, target)
        _sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: pathlib.Path) -> None:
    """Removes what killed processes left in a folder to which nobody writes now."""
    for path in folder.glob(".*.tmp"):
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _sync_folder(folder: pathlib.Path) -> None:
    """Makes a new name last through a loss of power, where folders can be synced."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
