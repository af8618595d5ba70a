"""``state_diff``: what changed, and what its table says."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.strategies import Counter, refuses
from vernal import nn
from vernal.errors import ConsumedStateError, StateError


@pytest.fixture
def pair():
    """Slots of all kinds of values, and a state in which some differ."""
    init = {"w": jnp.array([3.0, 4.0, 0.0]), "n": 1, "key": jax.random.key(0)}
    model, old = nn.make_with_state(lambda: [Counter(init), Counter(True)])()
    new = {"w": jnp.array([3.0, 1.0, 4.0]), "n": 1, "key": jax.random.key(1)}
    return model, old, copy.copy(old).set(model[0].index, new)


def test_the_changes(pair):
    """Names, counts, the largest difference and the relative one are right."""
    _, old, new = pair
    diff = nn.state_diff(old, new)
    assert diff and diff.same == ["[0].index['n']", "[1].index"]
    key, w = diff.changes
    assert w == ("[0].index['w']", "float32(3,)", 2, 3, 4.0, 1.0)
    assert key.name == "[0].index['key']" and key.changed == 1
    title, names, _, *rows = repr(diff).splitlines()
    assert title == "2 of 4 arrays changed"
    assert names.split() == ["slot", "array", "changed", "largest", "relative"]
    assert rows[1].split() == [w.name, w.shape, "2", "of", "3", "4", "100.00%"]
    assert "float32(3,)" in diff._repr_html_()


def test_nothing_changed(pair):
    """Equal states say so, also where NaN is equal to NaN."""
    model, old, _ = pair
    assert not nn.state_diff(old, old)
    assert str(nn.state_diff(old, old)) == "0 of 4 arrays changed"
    value = old.get(model[0].index) | {"w": jnp.full(3, jnp.nan)}
    sick = copy.copy(old).set(model[0].index, value)
    assert not nn.state_diff(sick, copy.copy(sick))


def test_nan_zero_and_bool(pair):
    """NaN that came in is shown; so is a change from 0, and of a flag."""
    model, old, _ = pair
    value = {"w": jnp.array([3.0, jnp.nan, 0.0]), "n": 1, "key": jax.random.key(0)}
    sick = copy.copy(old).set(model[0].index, value).set(model[1].index, False)
    w, flag = nn.state_diff(old, sick).changes
    assert w.changed == 1 and np.isnan(w.largest) and np.isnan(w.relative)
    assert (flag.largest, flag.relative) == (1, 1)
    assert "nan" in str(nn.state_diff(old, sick))
    assert nn.state_diff(old, sick).table().loud == {0}
    back = nn.state_diff(sick, old).changes[1]
    assert back.relative == np.inf
    assert "from 0" in str(nn.state_diff(sick, old))


def test_half_precision_and_large_numbers():
    """Differences are taken in float64: nothing overflows, nothing is rounded off."""
    init = {"a": jnp.full(2, -6e4, jnp.float16), "b": jnp.array(2**31 - 1)}
    index, old = nn.split_state(nn.StateIndex(init))
    value = {"a": jnp.full(2, 6e4, jnp.float16), "b": jnp.array(-(2**31))}
    a, b = nn.state_diff(old, copy.copy(old).set(index, value)).changes
    assert a.largest == 2 * np.float64(np.float16(6e4)) and b.largest == 2.0**32 - 1


def test_other_models():
    """Slots that only one state has, or in another shape, are shown as such."""
    _, old = nn.make_with_state(lambda: {"a": Counter(0), "b": Counter(jnp.ones(2))})()
    _, new = nn.make_with_state(lambda: {"b": Counter(jnp.ones(3)), "c": Counter(0)})()
    forms = {change.name: change.shape for change in nn.state_diff(old, new).changes}
    assert forms == {
        "['a'].index": "int32() → absent",
        "['b'].index": "float32(2,) → float32(3,)",
        "['c'].index": "absent → int32()",
    }


def test_refused(pair):
    """States that were replaced, traced values, and what is no State."""
    model, old, new = pair
    new.set(model[1].index, False)
    with refuses(ConsumedStateError, "replaced by"):
        nn.state_diff(old, new)
    with refuses(StateError, "`[0].index['key']` is traced", "outside of jit"):
        jax.jit(lambda s: nn.state_diff(s, s))(old)
    with refuses(StateError, "state_diff: `new` is not a State", "list"):
        nn.state_diff(old, [])
