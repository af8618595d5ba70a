"""The hook for tools that follow what is stored."""

import pytest

from tests.strategies import Counter
from vernal import nn
from vernal._state.marks import marked, marking


def test_marks_see_each_set():
    """Within the block each stored value passes through; after it, none does."""
    counter, state = nn.make_with_state(Counter)(0)
    seen = []

    def double(name, value):
        seen.append(name)
        return 2 * value

    with pytest.raises(KeyError), marking(double):
        state = state.set(counter.index, 4)
        raise KeyError
    assert int(state.get(counter.index)) == 8 and seen == ["index"]
    assert int(state.set(counter.index, 4).get(counter.index)) == 4
    assert marked("x", 1) == 1
