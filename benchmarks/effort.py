"""How much time is spent on a figure."""

from typing import Any, NamedTuple


class Effort(NamedTuple):
    """How long, how often."""

    seconds: float
    """For all libraries together, in one row."""

    least: int
    """Runs of each library, even if they take longer than that."""

    limit: float
    """Seconds; a library that takes longer for one run is given up."""

    fresh: int
    """Processes for what is measured once in each."""

    quick: bool = False

    def options(self) -> dict[str, Any]:
        """As :func:`timing.interleaved` takes them."""
        return {"seconds": self.seconds, "least": self.least, "limit": self.limit}


FULL = Effort(seconds=5, least=2, limit=25, fresh=2)
QUICK = Effort(seconds=1, least=2, limit=10, fresh=1, quick=True)
