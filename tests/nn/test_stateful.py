"""StatefulLayer: the mark by which containers know that a layer takes the state."""

from typing import Any

import pytest

import vernal as vn
from vernal import nn


class Plain(nn.StatefulLayer):
    """Overrides nothing."""


class Maybe(nn.StatefulLayer):
    """Says by a field whether it is stateful."""

    stateful: bool = vn.field(static=True)

    def is_stateful(self) -> bool:
        return self.stateful


def test_it_is_stateful_unless_overridden() -> None:
    """The default is True; a subclass may decide otherwise."""
    assert Plain().is_stateful() is True
    assert [Maybe(x).is_stateful() for x in (True, False)] == [True, False]


def test_it_is_a_module_without_fields() -> None:
    """It adds nothing to the tree."""
    assert issubclass(nn.StatefulLayer, vn.Module)
    assert nn.StatefulLayer.__fields__ == {}


@pytest.mark.parametrize("layer", [nn.BatchNorm, nn.SpectralNorm, nn.Sequential])
def test_layers_that_take_a_state(layer: Any) -> None:
    """The layers with state derive from it."""
    assert issubclass(layer, nn.StatefulLayer)


@pytest.mark.parametrize(
    "layer", [nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.Dropout]
)
def test_layers_that_need_none(layer: Any) -> None:
    """The others do not, even those that pass a state on for compatibility."""
    assert not issubclass(layer, nn.StatefulLayer)
