"""treescope and IPython show models."""

import jax.numpy as jnp
import jax.random as jr
import treescope
from IPython.core.formatters import DisplayFormatter

import vernal as vn


def model_and_state() -> tuple[vn.Module, vn.nn.State]:
    def make(key):
        return vn.nn.Sequential(
            [vn.nn.Linear(3, 4, key=key), vn.nn.BatchNorm(4, "batch"), jnp.tanh]
        )

    return vn.nn.make_with_state(make)(jr.key(0))


def test_treescope() -> None:
    """Text and HTML show classes, fields and arrays; all of it can be opened."""
    model, state = model_and_state()
    text = treescope.render_to_text(model)
    for word in ("Sequential", "Linear", "weight", "BatchNorm", "axis_name='batch'"):
        assert word in text
    assert "batch_counter" in treescope.render_to_text(state)
    page = treescope.render_to_html((model, state))
    assert page.startswith("<") and len(page) > len(treescope.render_to_html(1))
    with treescope.active_autovisualizer.set_scoped(treescope.ArrayAutovisualizer()):
        assert len(treescope.render_to_html(model)) > len(page) / 10


def test_ipython() -> None:
    """A cell that ends in a model shows what repr gives; a state is a table besides."""
    for x in model_and_state():
        data, _ = DisplayFormatter().format(x)
        assert data["text/plain"] == repr(x)
    assert (
        "<table" in data["text/html"] and "layers[1].batch_counter" in data["text/html"]
    )
