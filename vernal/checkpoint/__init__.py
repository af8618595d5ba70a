"""Saving and loading by name: ``vernal.save``, ``vernal.load``, and a Manager."""

from typing import TYPE_CHECKING

from .._lazy import lazy_names

if TYPE_CHECKING:
    from ._file import FileInfo as FileInfo, inspect as inspect
    from ._load import load as load
    from ._manager import Manager as Manager
    from ._report import LoadReport as LoadReport
    from ._save import save as save
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = ["FileInfo", "LoadReport", "Manager", "inspect", "load", "save"]
