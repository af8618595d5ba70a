"""What a model is made of, and what a call of it costs."""

from .costs import costs as costs
from .spy import watched as watched
from .summary import Summary as Summary, summary as summary

__all__ = ["Summary", "costs", "summary", "watched"]
