"""Saving and loading by name: ``vernal.save``, ``vernal.load``, and a Manager."""

from ._file import FileInfo as FileInfo, inspect as inspect
from ._load import load as load
from ._manager import Manager as Manager
from ._report import LoadReport as LoadReport
from ._save import save as save

__all__ = ["FileInfo", "LoadReport", "Manager", "inspect", "load", "save"]
