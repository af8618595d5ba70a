"""Which running statistics look sick: on series whose nature is known."""

import numpy as np
import pytest

from vernal._state.health import LEAST, History, verdict

N = 200
T = np.arange(N)
NOISE = np.random.default_rng(0).normal(size=(20, N))


def history(mean, std=1.0, moved=0.01):
    """A history with this mean; everything may be a number or a series."""
    mean, std, moved = (np.broadcast_to(x, N).astype(float) for x in (mean, std, moved))
    return History(mean, std, mean - std, mean + std, moved)


def approach(rate):
    """A running average from 0 towards 1, as of batch norm's first steps."""
    return 1 - rate**T


HEALTHY = {
    "constant": history(5.0),
    "all zero": history(0.0, 0.0, 0.0),
    "settled": history(approach(0.9), moved=0.1 * 0.9**T),
    "noise around a value": history(3 + 0.2 * NOISE[0]),
    "large jumps, long ago": history(np.where(T < 50, 100.0, 1.0)),
    "slow drift": history(1 + 0.0005 * T),
    "decay that ended": history(100 * 0.9**T),
    "growth that ended": history(1.0, np.minimum(1.1**T, 1e3)),
}
SICK = {
    # 49 steps of 0.02 are 0.98, of 1 + 0.02 * 174.5.
    "drifting: by 22% in the last quarter": history(0, 1 + 0.02 * T, 0.02),
    "drifting": history(np.linspace(0, 3, N)),
    "jumping: by 50% from record to record": history(0.0, 1.0, 0.5),
    # 1.05 to the power of 50.
    "exploding: ×11.5": history(1.05**T, 0.0),
    "exploding": history(0.0, 1.1**T),
    "vanishing: ×0.0": history(0.0, 0.9**T),
    "vanishing": history(0.0, np.where(T < 140, 1.0, 0.0)),
    "not finite": history(np.where(T == N - 1, np.nan, 1.0)),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy(name):
    """What has settled is left alone, whatever it went through before."""
    assert verdict(HEALTHY[name]) == ""


@pytest.mark.parametrize("start", SICK)
def test_sick(start):
    """Each disease is found, and called by its name."""
    assert verdict(SICK[start]).startswith(start), verdict(SICK[start])


def test_infinite_entries():
    """One infinite entry makes the maximum infinite, and is found."""
    bad = history(1.0)
    bad.max[-1] = np.inf
    assert verdict(bad) == "not finite"


def test_noise_is_no_drift():
    """Of twenty noisy series without a trend none is taken for drifting."""
    assert [verdict(history(1 + 0.3 * noise)) for noise in NOISE] == [""] * 20


def test_too_short_to_tell():
    """Under sixteen records only what is not finite is told."""

    def first(n):
        return History(*[x[:n] for x in SICK["exploding"]])

    assert verdict(first(LEAST - 1)) == "" != verdict(first(LEAST + 40))
    assert verdict(History(*[x[-3:] for x in SICK["not finite"]])) == "not finite"


def test_scale_does_not_matter():
    """A verdict is the same in other units."""
    for series in (*HEALTHY.values(), *SICK.values()):
        tiny = History(*[1e-6 * x for x in series])
        assert verdict(tiny).split(":")[0] == verdict(series).split(":")[0]
