"""Tools to find out what a program does: not for programs that are done."""

from typing import TYPE_CHECKING

from .._lazy import lazy_names

if TYPE_CHECKING:
    from ._announce import announce_transform as announce_transform
    from ._dce import inspect_dce as inspect_dce, store_dce as store_dce
    from ._retrace import explain_retrace as explain_retrace
    from ._states import (
        assert_states_used_once as assert_states_used_once,
        assert_updates_kept as assert_updates_kept,
    )
    from ._stops import backward_nan as backward_nan, breakpoint_if as breakpoint_if
    from ._traces import (
        assert_max_traces as assert_max_traces,
        get_num_traces as get_num_traces,
    )
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = [
    "announce_transform",
    "assert_max_traces",
    "assert_states_used_once",
    "assert_updates_kept",
    "backward_nan",
    "breakpoint_if",
    "explain_retrace",
    "get_num_traces",
    "inspect_dce",
    "store_dce",
]
