"""Metrics that run along: what they have counted is state, like that of a layer."""

from typing import TYPE_CHECKING

from .._lazy import lazy_names

if TYPE_CHECKING:
    from ._accuracy import Accuracy as Accuracy
    from ._auroc import AUROC as AUROC
    from ._average import Average as Average
    from ._confusion import ConfusionMatrix as ConfusionMatrix
    from ._metric import Metric as Metric
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = ["AUROC", "Accuracy", "Average", "ConfusionMatrix", "Metric"]
