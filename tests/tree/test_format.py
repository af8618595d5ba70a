"""Pretty-printing of trees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vernal as vn
from tests.strategies import Empty, Node, Scale
from vernal._tree.format import Text

TEXTS = {
    "f32[3,4]": jnp.ones((3, 4)),
    "bf16[]": jnp.ones((), jnp.bfloat16),
    "i8[0]": jnp.zeros(0, jnp.int8),
    "f64[2](numpy)": np.ones(2),
    "key<fry>[]": jax.random.key(0),
    "weak_f32[]": jnp.asarray(1.0),
    "[1, 'a', None]": [1, "a", None],
    "{'a': (1,)}": {"a": (1,)},
    "Scale(factor=f32[2])": Scale(jnp.ones(2)),
    "Empty()": Empty(),
}


@pytest.mark.parametrize("text, tree", TEXTS.items(), ids=TEXTS)
def test_short_texts(text, tree):
    """Arrays are written as dtype and shape, other things as Python would."""
    assert vn.tree_pformat(tree) == text


def test_arrays_in_full():
    """With `short_arrays=False` values are written."""
    text = vn.tree_pformat([jnp.arange(3), np.arange(2)], short_arrays=False)
    assert text == "[Array([0, 1, 2], dtype=int32), array([0, 1])]"


def test_functions_are_written_by_name():
    """A function is known by its name, also where JAX has wrapped it."""
    assert "relu" in vn.tree_pformat(jax.nn.relu)
    wrapped = jax.custom_jvp(test_short_texts)
    assert "test_short_texts" in vn.tree_pformat(wrapped)
    assert "custom_jvp" not in vn.tree_pformat(wrapped)


def test_structs():
    """`struct_as_array` writes the shapes of `eval_shape` like arrays."""
    struct = jax.ShapeDtypeStruct((3,), jnp.float32)
    assert "ShapeDtypeStruct" in vn.tree_pformat(struct)
    assert vn.tree_pformat(struct, struct_as_array=True) == "f32[3]"


def test_width_and_indent():
    """What fits into the width is one line; what does not is indented below."""
    node = Node(jnp.ones(3), Scale(2), "tag", len)
    text = vn.tree_pformat(node)
    assert "\n" not in text
    narrow = vn.tree_pformat(node, width=30, indent=4).splitlines()
    assert narrow[0] == "Node(" and narrow[-1] == ")"
    assert narrow[1] == "    first=f32[3],"
    assert all(len(line) <= 40 for line in narrow)


def test_default_width_and_indent():
    """By default there are 80 columns, and two more for each level."""
    fits = ["x" * 38, "y" * 34]
    assert len(vn.tree_pformat(fits)) == 80
    wider = ["x" * 38, "y" * 35]
    assert vn.tree_pformat(wider).splitlines()[1] == f"  {wider[0]!r},"


def test_truncated_nodes():
    """A node for which `truncate_leaf` is true shows only its class."""
    tree = [Scale(jnp.ones(2)), 1]
    text = vn.tree_pformat(tree, truncate_leaf=lambda x: isinstance(x, Scale))
    assert text == "[Scale(...), 1]"


def test_traced_arrays():
    """Tracers are written like the arrays that they stand for."""
    texts = []

    def see(x):
        texts.append(vn.tree_pformat(Scale(x)))
        return x

    jax.jit(jax.vmap(see))(jnp.ones((3, 2)))
    assert texts == ["Scale(factor=f32[2])"]


def test_pprint_prints_what_pformat_returns(capsys):
    """`tree_pprint` prints the same text, with the same options, and a newline."""
    tree = Node(jnp.ones(3), [jax.ShapeDtypeStruct((2,), jnp.int32)])
    options = {"width": 20, "indent": 3, "struct_as_array": True}
    vn.tree_pprint(tree, **options)
    assert capsys.readouterr().out == vn.tree_pformat(tree, **options) + "\n"
    long = ["x" * 38, "y" * 35]  # one column more than the default
    vn.tree_pprint(long)
    assert capsys.readouterr().out == vn.tree_pformat(long) + "\n"
    vn.tree_pprint(tree, short_arrays=False, truncate_leaf=lambda x: type(x) is list)
    assert "[1." in (out := capsys.readouterr().out) and "list(...)" in out


def test_jitted_functions_print_as_they_were_written():
    """The text has no address in it, so that it is the same in every run."""
    for function in (jax.nn.relu, jnp.tanh, jax.jit(lambda x: x)):
        assert " at 0x" not in vn.tree_pformat(function)
    assert vn.tree_pformat(jax.nn.relu) == "<function relu>"


def test_text_in_the_place_of_a_leaf():
    """A Text prints as it is, without quotes."""
    assert vn.tree_pformat([Text("<gone>"), 1]) == "[<gone>, 1]"
