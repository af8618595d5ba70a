"""Which slots a model has, and what they are called."""

import pytest

import vernal as vn
from tests.strategies import Counter, Node, Opaque, Pair, refuses
from vernal._state.index import Slot
from vernal._state.naming import named_slots
from vernal.errors import StateError
from vernal.nn import StateIndex


class Net(vn.Module):
    blocks: list
    head: Counter
    tag: str = vn.field(static=True, default="net")


def paths(tree):
    return [slot.path for _, slot in named_slots(tree)]


def test_slots_are_named_by_their_paths():
    """The name reads like the access; the owner is the class of the whole."""
    net = Net([Counter(0), {"a": Counter(0)}], Counter(0))
    found = named_slots(net)
    assert [slot.path for _, slot in found] == [
        "blocks[0].index",
        "blocks[1]['a'].index",
        "head.index",
    ]
    assert {slot.owner for _, slot in found} == {"Net"}
    assert all(eval(f"net.{slot.path}", {"net": net}) == i for i, slot in found)


TREES = {
    "a tuple": ((Counter(0), 1, Counter(0)), ["[0].index", "[2].index"]),
    "a namedtuple": (Pair(1, Counter(0)), [".right.index"]),
    "a dict": ({"b": Counter(0), "a": StateIndex(0)}, ["['a']", "['b'].index"]),
    "an index alone": (StateIndex(0), ["index"]),
    "nothing": (Opaque(), []),
}


@pytest.mark.parametrize("tree, expected", TREES.values(), ids=TREES)
def test_names_in_any_tree(tree, expected):
    """Indices are found in any pytree, in the order of its leaves."""
    assert [p.removeprefix(".") for p in paths(tree)] == [
        p.removeprefix(".") for p in expected
    ]


def test_a_shared_layer_has_one_slot():
    """An index at several places has one slot, named after the first of them."""
    shared, other = Counter(0), Counter(0)
    net = Net([shared, other, shared], shared)
    assert paths(net) == [
        "blocks[0].index",
        "blocks[1].index",
        "blocks[0].index",
        "blocks[0].index",
    ]
    assert len({slot for _, slot in named_slots(net)}) == 2


def test_names_are_the_same_every_time():
    """Two models that are built alike have equal slots."""
    one, two = (Net([Counter(0)], Counter(0)) for _ in range(2))
    assert [s for _, s in named_slots(one)] == [s for _, s in named_slots(two)]


def test_an_index_without_its_initial_value():
    """A part that was split before is refused, with both of its names and the way."""
    part, _ = vn.nn.make_with_state(Net)([], Counter(0))
    words = (
        "`second.head.index` of Node has no initial value",
        "split before, where it was `head.index`",
        "join_state(part, part_state)",
    )
    with refuses(StateError, *words):
        named_slots(Node(Counter(0), part))


def test_an_index_whose_value_was_deleted():
    """After `delete_init_state` the same is said, with the only name there is."""
    part = vn.nn.delete_init_state(Counter(0))
    with refuses(StateError, "`first.index` of Node", "where it was `first.index`"):
        named_slots(Node(part))


def test_two_indices_out_of_one_jitted_constructor():
    """What one compiled constructor made twice cannot be told apart: refused."""
    make = vn.filter_jit(Counter)
    words = (
        "cannot tell whether `first.index` and `second.index` are one slot",
        "outside `jit`",
        "filter_jit(make_with_state(Model))",
    )
    with refuses(StateError, *words):
        named_slots(Node(make(), make()))


def test_one_layer_out_of_a_jitted_constructor():
    """One that stands at two places is seen to be one."""
    layer = vn.filter_jit(Counter)()
    assert paths(Node(layer, layer)) == ["first.index"] * 2


def test_several_layers_of_one_jitted_model():
    """The layers of a model that was made as a whole are told apart."""
    model = vn.filter_jit(lambda: Node(Counter(0), Counter(0)))()
    assert paths(model) == ["first.index", "second.index"]


def test_two_indices_out_of_one_vmapped_constructor():
    """Without jit, each call of a constructor makes an identity of its own."""
    make = vn.filter_vmap(Counter, axis_size=2)
    assert paths(Node(make(), make())) == ["first.index", "second.index"]


def test_slots_compare_as_pairs():
    """A slot is its path and its owner."""
    ((_, slot),) = named_slots({"a": StateIndex(0)})
    assert slot == Slot("['a']", "dict")
