"""Where in the user's program something is: a few lines, without the libraries'."""

import os
import pathlib
import sys
import types

import jax

# The folders of JAX and of vernal itself, also by the links that lead there.
_FOLDERS = [pathlib.Path(str(jax.__file__)).parent, pathlib.Path(__file__).parents[1]]
_HIDDEN = tuple(
    f"{folder}{os.sep}" for path in _FOLDERS for folder in (path, path.resolve())
)
_DEPTH = 3


def user_stack() -> list[str]:
    """Up to three lines such as ``train.py:31 in loss``, innermost first."""
    lines: list[str] = []
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and len(lines) < _DEPTH:
        code = frame.f_code
        is_file = not code.co_filename.startswith("<")
        path = os.path.abspath(code.co_filename)
        if is_file and not path.startswith(_HIDDEN):
            lines.append(f"{_short_path(path)}:{frame.f_lineno} in {code.co_name}")
        frame = frame.f_back
    return lines


def _short_path(path: str) -> str:
    relative = os.path.relpath(path)
    return relative if len(relative) < len(path) else path
