"""Keeping one warning of JAX quiet while a function is compiled.

JAX warns of donated buffers that no output could use. It does so in the call that
compiles, after the function was traced. So the trace switches the warning off, and the
end of that call switches it on again; other calls have nothing to do with it. (The
context manager of the warnings module would put back a copy of all filters, which is
wrong where threads or recursive calls overlap.)
"""

import re
import threading
import warnings
from collections.abc import Callable
from typing import Any

_FILTER: Any = (
    "ignore",
    re.compile("Some donated buffers were not usable", re.IGNORECASE),
    Warning,
    None,
    0,
)
_lock = threading.Lock()
_users = 0


class _Depth(threading.local):
    count = 0


_depth = _Depth()


def silence_donation() -> None:
    """Switches the warning off until the enclosing :func:`restoring` ends."""
    global _users
    _depth.count += 1
    with _lock:
        _users += 1
        if _FILTER not in warnings.filters:
            warnings.filters.insert(0, _FILTER)  # type: ignore[attr-defined]


def restoring(call: Callable[..., Any], *args: Any) -> Any:
    """Calls a function, and undoes what it silenced."""
    before = _depth.count
    try:
        return call(*args)
    finally:
        if _depth.count > before:
            _restore(_depth.count - before)


def _restore(times: int) -> None:
    global _users
    _depth.count -= times
    with _lock:
        _users -= times
        if _users == 0 and _FILTER in warnings.filters:
            warnings.filters.remove(_FILTER)  # type: ignore[attr-defined]
