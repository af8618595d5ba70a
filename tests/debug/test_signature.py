"""What a compilation depends on, by path, and what differs between two."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vernal as vn
from vernal import nn
from vernal.debug._signature import changes, describe, same_type


def signature(*args, **kwargs):
    def step(model, *rest, **options):
        return None

    return describe(step, args, kwargs)


def differences(a, b, same=None):
    return [str(change) for change in changes(signature(a), signature(b), same)]


def dropout(p, inference=False):
    return {"layers": [nn.Dropout(p, inference), jnp.ones(3)]}


class Holds(vn.Module):
    value: object = None
    function: object = vn.field(static="if_function", default=None)


_, STATE1 = nn.split_state({"a": nn.StateIndex(jnp.array(1))})
_, STATE2 = nn.split_state({"b": nn.StateIndex(jnp.array(1))})

PAIRS = [
    (jnp.ones(3), jnp.zeros(3), []),
    (jnp.ones(3), np.ones(3), []),  # NumPy's 64 bits are traced as 32
    (jnp.ones(3), jnp.ones((3, 1)), ["model: float32(3, 1), before float32(3,)"]),
    (jnp.ones(3), jnp.ones(3, int), ["model: int32(3,), before float32(3,)"]),
    (jnp.asarray(1.0), 1.0, ["model: 1.0, before float32() weakly typed"]),
    (1, 1.0, ["model: 1.0, before 1"]),
    (1, True, ["model: True, before 1"]),
    ("a", "b", ["model: 'b', before 'a'"]),
    (None, 1, ["model: 1, before NoneType"]),
    ([1, 2], (1, 2), ["model: tuple of 2, before list of 2"]),
    ([1, 2], [1, 2, 3], ["model: list of 3, before list of 2"]),
    ({"a": [1]}, {"a": [2]}, ["model['a'][0]: 2, before 1"]),
    ({"a": 1}, {"b": 1}, ["model: dict of 'b', before dict of 'a'"]),
    (dropout(0.1), dropout(0.1), []),
    (dropout(0.1), dropout(0.2), ["model['layers'][0].p: 0.2, before 0.1"]),
    (
        dropout(0.1),
        dropout(0.2, True),
        [
            "model['layers'][0].p: 0.2, before 0.1",
            "model['layers'][0].inference: True, before False",
        ],
    ),
    (Holds(1), Holds([1]), ["model.value: list of 1, before 1"]),
    (Holds(None, abs), Holds(None, max), None),
    (STATE1, STATE2, ["model: State with ['b'], before State with ['a']"]),
    (STATE1, STATE1, []),
    (jax.tree_util.Partial(abs, 1), jax.tree_util.Partial(max, 1), None),
]


@pytest.mark.parametrize(("a", "b", "expected"), PAIRS)
def test_differences(a, b, expected):
    """Each difference has its path; nothing is said of the inside of what differs."""
    found = differences(a, b)
    assert len(found) == 1 if expected is None else found == expected


def test_functions_are_told_apart():
    """Two functions of the same text are two, and one is one."""
    first, second = (functools.partial(lambda x: x) for _ in range(2))
    assert differences(first, first) == [] != differences(first, second)


def test_numbers_by_type():
    """Where numbers are traced only their type matters."""
    assert differences([1, 2.0], [3, 4.0], same_type) == []
    assert differences([1], [1.0], same_type) == ["model[0]: 1.0, before 1"]


def test_placement():
    """Arrays that were put on a device differ from others, and on another device."""
    x, devices = jnp.ones(3), jax.devices()
    here, there = (jax.device_put(x, device) for device in devices[:2])
    (change,) = differences(x, here)
    assert change.startswith("placement of model: SingleDeviceSharding")
    assert change.endswith("before absent")
    assert len(differences(here, there)) == 1 and differences(here, here) == []


def test_what_cannot_be_compared():
    """A static value whose comparison fails is equal to itself alone."""

    class Bad:
        def __eq__(self, other):
            raise ValueError

        __hash__ = object.__hash__

    bad = Bad()
    assert differences(bad, bad) == [] != differences(bad, Bad())


def test_arguments_have_their_names():
    """They are bound as the call binds them; without a signature they have numbers."""
    found = signature(1, 2, mode="x")
    assert {"model", "rest[0]", "options['mode']"} <= set(found)
    assert "args[1]" in describe(max, (1, 2), {})


def test_donated_arrays():
    """All that counts can be told of arrays that are gone."""
    x = jnp.ones(3)
    before = signature(x)
    x.delete()
    assert changes(before, signature(x)) == []
