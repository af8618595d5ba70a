"""Keeping one warning of JAX quiet while a function is compiled."""

import threading
import warnings

import pytest

from vernal._transform.silence import restoring, silence_donation

TEXT = "Some donated buffers were not usable: float32[4]"


def filters():
    return list(warnings.filters)


def warn(text=TEXT):
    warnings.warn(text, UserWarning, stacklevel=2)


def silenced():
    silence_donation()
    warn()
    return "result"


def test_the_warning_is_silenced_until_the_end():
    """Within the call the warning is quiet, after it warnings are as before."""
    before = filters()
    assert restoring(silenced) == "result"
    assert filters() == before
    with pytest.warns(UserWarning, match="donated buffers"):
        warn()


def test_without_a_trace_nothing_is_touched():
    """A call that silences nothing does not even look at the filters."""
    before = warnings.filters
    assert restoring(filters) == list(before)
    assert warnings.filters is before
    with pytest.warns(UserWarning, match="donated buffers"):
        restoring(warn)


def test_other_warnings_are_heard():
    """Only the one text is silenced."""

    def other():
        silence_donation()
        warn("Some donated buffers are fine")

    with pytest.warns(UserWarning, match="are fine"):
        restoring(other)


def test_arguments_are_passed_on():
    """The function is called with the arguments that follow it."""
    assert restoring(divmod, 7, 2) == (3, 1)


def test_an_exception_restores():
    """What the call raises comes out, and the filters are as before."""

    def fail():
        silence_donation()
        raise KeyError("mine")

    before = filters()
    with pytest.raises(KeyError, match="mine"):
        restoring(fail)
    assert filters() == before


def test_nested_calls():
    """An inner call that ends does not switch the outer one's silence off."""

    def outer():
        silence_donation()
        restoring(silenced)
        warn()
        restoring(warn)  # compiled before: silences nothing itself

    before = filters()
    restoring(outer)
    assert filters() == before


def test_several_traces_in_one_call():
    """However often one call traces, all is undone at its end."""

    def twice():
        silence_donation()
        silence_donation()
        warn()

    before = filters()
    restoring(twice)
    assert filters() == before


@pytest.mark.parametrize("first_to_end", [0, 1])
def test_overlapping_threads(first_to_end):
    """Silence lasts until the last of two overlapping calls has ended."""
    before, done, errors = filters(), threading.Event(), []
    inside = threading.Barrier(2, timeout=30)

    def work(i):
        silence_donation()
        inside.wait()
        if i != first_to_end:
            done.wait(timeout=30)
        try:
            warn()
        except UserWarning as error:
            errors.append(error)

    def run(i):
        restoring(work, i)
        if i == first_to_end:
            done.set()

    threads = [threading.Thread(target=run, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and filters() == before


def test_filters_that_were_changed_meanwhile():
    """A filter that someone adds within stays, and one that is gone is no error."""
    with warnings.catch_warnings():

        def add():
            silence_donation()
            warnings.filterwarnings("ignore", message="added")

        restoring(add)
        assert any(f[1] and f[1].match("added") for f in warnings.filters)

        def reset():
            silence_donation()
            warnings.resetwarnings()

        restoring(reset)
        assert warnings.filters == []
