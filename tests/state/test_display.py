"""How a State looks when it is printed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vernal as vn
from vernal._state.display import BLOCKS, histogram
from vernal.nn import State, StateIndex


def of(**values):
    """A State with these values."""
    _, state = vn.nn.split_state({k: StateIndex(v) for k, v in values.items()})
    return state


def cells(x):
    """What is shown of a single slot, after its name."""
    (line,) = str(of(x=x)).splitlines()[1:]
    return line.removeprefix("  ['x']  ")


def test_a_table():
    """Slots have a row for each array: name, place, shape, numbers, range, blocks."""
    values = np.float32([0, 0, 0, 0, 1, 1, 2, 3])
    state = of(count=jnp.array(7), mean=(values, jnp.ones(3)))
    assert str(state).splitlines() == [
        "State of dict with 2 slots",
        "  ['count']       i32[]   7",
        "  ['mean']   [0]  f32[8]  0.875 ± 1.1  0 … 3  █▁▁▁▅▁▁▁▃▁▁▃",
        "             [1]  f32[3]  1, 1, 1",
    ]
    assert repr(state).splitlines()[1:] == [
        "  ['count']  i32[]",
        "  ['mean']   (f32[8], f32[3])",
    ]


KINDS = [
    (jnp.array(0.5), "f32[]  0.5"),
    (jnp.array([1.0, -2.0]), "f32[2]  1, -2"),
    (jnp.zeros((4, 5)), "f32[4,5]  all 0"),
    (jnp.array(True), "bool[]  True"),
    (jnp.arange(9) > 4, "bool[9]  4 of 9 true"),
    (jnp.arange(9) - 4, "i32[9]  -4 … 4"),
    (jnp.array([3j, 4.0, 0, 0, 3j]), "c64[5]  |z| 2 ± 1.7  0 … 4  █▁▁▁▁▁▁▁▁█▁▅"),
    (jnp.zeros((0, 3)), "f32[0,3]"),
    (jax.random.key(0), "key<fry>[]"),
    (jnp.array(jnp.nan), "f32[]  nan  ‼ 1 NaN of 1"),
    (jnp.full(5, jnp.nan), "f32[5]  ‼ 5 NaN of 5"),
    (
        jnp.array([jnp.nan, jnp.inf, -jnp.inf, 1, 3, 3]),
        "f32[6]  2.33 ± 0.94  1 … 3  ▅▁▁▁▁▁▁▁▁▁▁█  ‼ 1 NaN, 2 inf of 6",
    ),
    (jnp.bfloat16([1, 1, 3, 3]), "bf16[4]  2 ± 1  1 … 3  █▁▁▁▁▁▁▁▁▁▁█"),
    (
        jnp.array([-3e38, 0, 0, 3e38]),
        "f32[4]  0 ± 2.1e+38  -3e+38 … 3e+38  ▅▁▁▁▁▁█▁▁▁▁▅",
    ),
]


@pytest.mark.parametrize(("value", "expected"), KINDS)
def test_values_of_every_kind(value, expected):
    """Numbers, bools, keys and what is not finite: each is told in its way."""
    assert cells(value) == expected


def test_what_has_no_values():
    """Tracers, structs, masks and donated arrays are shown without values."""
    state = of(x=jnp.ones(5))
    texts = [
        str(jax.eval_shape(lambda: state)),
        str(jax.tree.map(lambda _: True, state)),
    ]
    jax.jit(lambda s: texts.append(str(s)))(state)
    rows = [text.splitlines()[1] for text in texts]
    assert rows == ["  ['x']  f32[5]", "  ['x']  True", "  ['x']  f32[5]"]
    jax.tree.leaves(state)[0].delete()
    assert str(state).endswith("f32[5]  deleted: it was donated")
    assert "f32[5]" in repr(state)


def test_large_states():
    """Arrays of over a million entries, and all after ten millions, are not copied."""
    large, fair = np.zeros((1000, 1001), np.int8), np.zeros((1000, 1000), np.int8)
    rows = str(
        of(a=large, b=fair, **{f"c{i:02}": fair for i in range(11)})
    ).splitlines()
    are_left_out = ["too large to look into" in row for row in rows[1:]]
    assert are_left_out == [True] + 10 * [False] + 2 * [True]


def test_many_arrays_in_a_slot():
    """Of a slot with many arrays the first eight are shown, and the rest counted."""
    rows = str(of(x={f"{i:02}": jnp.array(i) for i in range(20)})).splitlines()
    assert len(rows) == 10 and rows[8].split() == ["['07']", "i32[]", "7"]
    assert rows[9].strip() == "… 12 more"
    assert str(of(x=())).splitlines()[1] == "  ['x']  ()"


def test_histogram():
    """The mode is a full block, an empty bin the lowest, the ends are included."""
    assert histogram(np.arange(12.0)) == "█" * 12
    counts = np.repeat(np.arange(12.0), [7, 6, 5, 4, 3, 2, 1, 0, 0, 0, 0, 7])
    assert histogram(counts) == "█▇▆▅▄▃▂▁▁▁▁█"
    assert len(BLOCKS) == 8


def test_a_consumed_state():
    """What was replaced says so, and shows nothing else."""
    model, state = vn.nn.split_state({"a": StateIndex(jnp.array(1))})
    state.set(model["a"], 2)
    assert str(state) == repr(state) == "State(replaced by `set` of `['a']`)"
    assert state._repr_html_() is None


def test_html():
    """In a notebook it is a table, in which what is not finite stands out."""
    page = of(good=jnp.arange(5.0), bad=jnp.array(jnp.nan))._repr_html_()
    for word in ("State of dict with 2 slots", "f32[5]", "2 ± 1.4", "‼ 1 NaN of 1"):
        assert word in page
    assert page.count("font-weight:bold") == 6  # every cell of the bad row


def test_nothing_is_changed():
    """Printing leaves a State usable, and no slots is no error."""
    state = of(x=jnp.ones(5))
    str(state), state._repr_html_()
    assert "replaced" not in repr(state)
    _, empty = vn.nn.split_state([])
    assert isinstance(empty, State) and str(empty) == "State of list with 0 slots"
