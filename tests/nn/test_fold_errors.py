"""What fold_norms leaves alone, and what it refuses, with which words."""

from typing import Any

import jax.numpy as jnp
import jax.random as jr
import pytest

import vernal as vn
from tests.nn.test_fold import (
    KEY,
    Twins,
    assert_close,
    build,
    infer,
    linear,
    norm,
    normal,
    slots,
)
from tests.strategies import refuses
from vernal import nn
from vernal.errors import ForeignStateError, StateError, TreeError
from vernal.nn import fold_norms, make_with_state


class Doubled(nn.Linear):
    """A Linear with another call."""

    def __call__(self, x: Any, **_: Any) -> Any:
        return 2 * super().__call__(x)


class Named(nn.Linear):
    """A Linear with the same call."""


class Reversed(nn.Sequential):
    """A Sequential with another order."""

    def __call__(self, x: Any, state: Any) -> Any:
        return nn.Sequential(self.layers[::-1])(x, state)


def test_subclasses() -> None:
    """What has a call of its own is left alone; other subclasses are folded."""
    other = Doubled(4, 4, key=KEY)
    layers = [Named(4, 4, key=KEY), norm(), other, norm(), Reversed([linear(), norm()])]
    model, state = build(lambda: nn.Sequential(layers))
    folded, rest = fold_norms(model, state)
    assert isinstance(folded[0], Named) and isinstance(folded[1], nn.Identity)
    assert slots(rest) == 6
    x = jnp.asarray(normal(4), jnp.float32)
    assert_close(infer(folded, rest, x), infer(model, state, x))


def wrapped() -> nn.Sequential:
    spectral = nn.SpectralNorm(linear(), "weight", key=KEY)
    return nn.Sequential([nn.WeightNorm(linear()), norm(), spectral, norm()])


def test_normalized_layers() -> None:
    """They are left alone, as the norm would not survive; after baking they go in."""
    model, state = build(wrapped)
    with refuses(TreeError, "nothing to fold", "bake(model, state)"):
        fold_norms(model, state)
    for i in (0, 2):
        for where in (lambda m, i=i: m[i], lambda m, i=i: m[i].layer):
            with refuses(TreeError, "`pairs` gives a normalized layer", "bake("):
                fold_norms(model, state, lambda m, f=where, i=i: [(f(m), m[i + 1])])
    folded, rest = fold_norms(*nn.bake(model, state))
    assert slots(rest) == 0
    x = jnp.asarray(normal(4), jnp.float32)
    assert_close(folded(x), infer(model, state, x))


def message(*args: Any) -> str:
    with pytest.raises(TreeError) as caught:
        fold_norms(*args)
    assert len(str(caught.value).splitlines()) <= 6
    return str(caught.value)


def test_nothing_to_fold() -> None:
    """The message says what was looked for, and how else to name it."""
    assert message(*make_with_state(Twins)()) == (
        "fold_norms: there is nothing to fold.\n"
        "  expected: a Linear, Conv or ConvTranspose directly in front of a "
        "BatchNorm, in a Sequential\n"
        "  got:      Twins with 0 Sequential(s), none with such a pair\n"
        "  fix:      bake(model, state) before; or name layers of other Modules, "
        "pairs=lambda m: [(m.conv, m.norm)]"
    )


def test_sizes_that_do_not_match() -> None:
    """The message names both places, and what was expected."""
    model = nn.Sequential([jnp.sin, linear(4, 3), norm(2)])
    assert message(*nn.split_state({"body": model})) == (
        "fold_norms: `['body'].layers[2]` does not fit `['body'].layers[1]`.\n"
        "  expected: statistics of shape (3,), one for each output\n"
        "  got:      (2,)"
    )
    # Parameters that are stacked, before a norm that is not.
    make = vn.filter_vmap(lambda key: nn.Linear(4, 4, key=key))
    model = nn.Sequential([make(jr.split(KEY, 3)), norm()])
    assert "(3, 4), one for each output" in message(*nn.split_state(model))


def test_shared_layers() -> None:
    """Parameters that another place uses, too, are not changed for one of them."""
    where, get = lambda t: t[1].weight, lambda t: t[0][0].weight.T
    model = nn.Shared((nn.Sequential([linear(), norm()]), linear()), where, get)
    model, state = nn.split_state([model, nn.Sequential([linear(), norm()])])
    assert message(model, state) == (
        "fold_norms: `[0].pytree[0].layers[0]` is inside of a Shared.\n"
        "  expected: layers whose parameters no other place uses\n"
        "  got:      Linear, which may be tied to another place\n"
        "  fix:      use it on parts of the model outside of the Shared"
    )
    folded, rest = fold_norms(model, state, lambda m: [m[1].layers])
    assert slots(rest) == 3 and isinstance(folded[1][1], nn.Identity)
    folded, rest = fold_norms(model[1], state)
    assert slots(rest) == 0 and isinstance(folded[1], nn.Identity)


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        (lambda m: [], ["something else than pairs", "(layer, norm)", "[]"]),
        (lambda m: (m.a, m.norm), ["something else than pairs"]),
        (lambda m: [(m.a, m.b, m.norm)], ["something else than pairs"]),
        (lambda m: m.a, ["something else than pairs", "Linear"]),
        (lambda m: [(m.norm, m.a)], ["cannot be folded", "BatchNorm norm, Linear a"]),
        (lambda m: [(m, m.norm)], ["cannot be folded", "Twins"]),
        (lambda m: [(linear(), m.norm)], ["not in the model", "Linear, BatchNorm n"]),
        (lambda m: [(m.a, norm())], ["not in the model", "Linear a, BatchNorm"]),
        (lambda m: [(m.a, m.norm)] * 2, ["a layer twice", "at most one"]),
    ],
)  # fmt: skip
def test_bad_pairs(pairs: Any, words: list[str]) -> None:
    """What is not a list of pairs of such layers of the model is refused, by name."""
    with refuses(TreeError, "fold_norms: `pairs` gives", *words):
        fold_norms(*build(Twins), pairs)


def test_wrong_states() -> None:
    """What is no State, or that of another model, is refused, and nothing happens."""
    model, state = build(lambda: nn.Sequential([linear(), norm()]))
    with refuses(StateError, "fold_norms: `state` is not a State", "NoneType"):
        fold_norms(model, None)
    with pytest.raises(ForeignStateError, match="Sequential"):
        fold_norms(model, build(Twins)[1])
    assert slots(state) == 3
