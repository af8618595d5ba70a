"""Switching between training and inference."""

from typing import Any, TypeVar

import jax

from .._tree._handles import rewrite, visit

_T = TypeVar("_T")


def inference_mode(pytree: _T, value: bool = True) -> _T:
    """Returns a copy of a model with every flag ``inference`` set.

    It reaches every Module in the tree that has a field of this name, also one of your
    own: :class:`Dropout`, :class:`BatchNorm`, :class:`SpectralNorm` …

    Arguments:
        pytree: the model.
        value: True for inference, False for training.

    Returns:
        The copy; arrays are shared with the original.

    >>> import vernal as vn
    >>> model = vn.nn.Sequential([vn.nn.Identity(), vn.nn.Dropout(0.5)])
    >>> vn.nn.inference_mode(model).layers[1].inference
    True
    """
    copy = jax.tree.map(lambda x: x, pytree)  # all Modules in it are new objects

    def switch(node: Any) -> None:
        if "inference" in getattr(type(node), "__fields__", {}):
            rewrite(node, {"inference": value})

    visit(copy, switch)
    return copy


tree_inference = inference_mode  # an older name, which programs still use
