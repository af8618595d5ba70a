"""The networks in plain JAX.

Three of the ResNet: "raw" as it is usually written; "raw one-pass" with the variance
from a sum of squares, and one multiplication and one addition to normalize; and "raw
channels-last".
"""

import functools

import jax

from .raw_resnet import LAST, abstract_resnet, one_pass, resnet, resnet_model
from .raw_transformer import transformer
from .tasks import Case
from .tools import last

__all__ = ["abstract_resnet", "resnet", "resnet_model", "transformer"]


RESNETS = {
    "raw": Case(resnet, jax.device_put),
    "raw one-pass": Case(functools.partial(resnet, norm=one_pass), jax.device_put),
    "raw channels-last": Case(functools.partial(resnet, layout=LAST), last),
    "raw one-pass channels-last": Case(
        functools.partial(resnet, norm=one_pass, layout=LAST), last
    ),
}
TRANSFORMERS = {"raw": Case(transformer, jax.device_put)}
