"""Metrics that run along: what they have counted is state, like that of a layer."""

from ._accuracy import Accuracy as Accuracy
from ._auroc import AUROC as AUROC
from ._average import Average as Average
from ._confusion import ConfusionMatrix as ConfusionMatrix
from ._metric import Metric as Metric

__all__ = ["AUROC", "Accuracy", "Average", "ConfusionMatrix", "Metric"]
