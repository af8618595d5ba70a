"""Runtime checks: they fail when they should, under every transformation, in words."""

import io
import logging
import os
import re
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec as P

import vernal as vn
from tests.strategies import refuses
from vernal.errors import CheckError, TransformError

GOOD, BAD = jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, -2.0, 3.0])


def checked(x: Any) -> Any:
    return vn.error_if(x, x < 0, "x must not be negative")


def root(x: Any) -> Any:
    """An example of a function with a check in it."""
    return jnp.sqrt(checked(x))


def plain_root(x: Any) -> Any:
    """The same without the check."""
    return jnp.sqrt(x)


def scanned(function: Any, x: Any) -> Any:
    return jax.lax.scan(lambda c, y: (c + function(y), function(y)), 0.0, x)


def looped(function: Any, x: Any) -> Any:
    return jax.lax.fori_loop(0, 3, lambda i, y: y.at[i].set(function(y[i])), x)


def branched(function: Any, x: Any) -> Any:
    return jax.lax.cond(x.sum() < 100, function, lambda y: y, x)


def sharded(function: Any, x: Any) -> Any:
    mesh = Mesh(np.array(jax.devices()[:3]), "d")
    return jax.shard_map(function, mesh=mesh, in_specs=P("d"), out_specs=P("d"))(x)


TRANSFORMS: dict[str, Any] = {
    "jit": lambda f, x: jax.jit(f)(x),
    "vmap": lambda f, x: jax.vmap(f)(x),
    "vmap of vmap": lambda f, x: jax.vmap(jax.vmap(f))(jnp.stack([x, x])),
    "grad": lambda f, x: jax.grad(lambda y: f(y).sum())(x),
    "jvp": lambda f, x: jax.jvp(f, (x,), (x,)),
    "hessian": lambda f, x: jax.hessian(lambda y: f(y).sum())(x),
    "scan": scanned,
    "grad of scan": lambda f, x: jax.grad(lambda y: scanned(f, y)[0])(x),
    "loop": looped,
    "cond": branched,
    "vmap of cond": lambda f, x: jax.vmap(lambda y: branched(f, y))(x),
    "checkpoint": lambda f, x: jax.grad(lambda y: jax.checkpoint(f)(y).sum())(x),
    "shard_map": sharded,
    "shard_map of vmap": lambda f, x: sharded(jax.vmap(f), x),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_under_transformations(name: str) -> None:
    """A check that holds changes nothing; one that does not is raised by filter_jit."""
    run = vn.filter_jit(lambda x: TRANSFORMS[name](root, x))
    want = TRANSFORMS[name](plain_root, GOOD)
    for a, b in zip(jax.tree.leaves(run(GOOD)), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    with refuses(CheckError, "x must not be negative", "test_checks.py", "in checked"):
        run(BAD)
    run(GOOD)  # and nothing is broken afterwards


def test_eager() -> None:
    """Where the values are known the error is raised at once."""
    assert checked(GOOD) is GOOD
    with refuses(CheckError, "x must not be negative"):
        checked(BAD)
    with refuses(CheckError, "x must not be negative"):
        jax.vmap(checked)(BAD)
    with refuses(CheckError, "x must not be negative"):
        jax.grad(lambda x: checked(x).sum())(BAD)


def test_the_message() -> None:
    """The text: the message, the place, who called, and what was compiled."""

    @vn.filter_jit
    def step(x: Any) -> Any:
        return root(x) * 2

    with pytest.raises(CheckError) as info:
        step(BAD)
    lines = str(info.value).splitlines()
    here = r"\S*test_checks\.py:\d+"
    assert lines[0] == "x must not be negative"
    assert re.fullmatch(rf"  checked at:  {here} in checked", lines[1])
    assert re.fullmatch(rf"  called from: {here} in root", lines[2])
    assert re.fullmatch(rf"  called from: {here} in step", lines[3])
    assert lines[4:] == ["  compiled in: step"]
    assert info.value.__suppress_context__  # the runtime's own text is not shown


def test_a_plain_jit_tells_too() -> None:
    """JAX's own error has the text inside."""
    with pytest.raises(Exception, match="x must not be negative"):
        jax.block_until_ready(jax.jit(root)(BAD))


def test_a_branch_that_does_not_run_does_not_fail() -> None:
    """A condition that is always true marks a branch that must not be reached."""
    run = vn.filter_jit(
        lambda i, x: jax.lax.switch(
            i, [jnp.sin, lambda y: vn.error_if(y, True, "no such branch")], x
        )
    )
    np.testing.assert_allclose(run(0, GOOD), jnp.sin(GOOD), rtol=1e-6)
    with refuses(CheckError, "no such branch"):
        run(1, GOOD)


def test_everything_in_x_is_kept() -> None:
    """Any pytree goes through unchanged: keys, integers, booleans and other leaves."""
    tree = {"a": GOOD, "i": jnp.arange(3), "b": jnp.array(True), "k": jr.key(1)}
    run = vn.filter_jit(lambda t, p: vn.error_if({**t, "s": "text"}, p, "bad"))
    out = run(tree, jnp.array(False))
    assert vn.tree_equal(out, {**tree, "s": "text"}, typematch=True)
    with refuses(CheckError, "bad"):
        run(tree, jnp.array(True))


def test_each_leaf_carries_the_check() -> None:
    """It is made even if only one of the leaves is used, whatever its type."""
    tree = {"a": GOOD, "i": jnp.arange(3), "b": jnp.array(True), "k": jr.key(1)}
    for name in tree:
        run = vn.filter_jit(lambda t, p, name: vn.error_if(t, p, "bad")[name])
        with refuses(CheckError, "bad"):
            run(tree, jnp.array(True), name)


@pytest.mark.parametrize("jit", [lambda f: f, vn.filter_jit])
def test_branches(jit: Any) -> None:
    """The index chooses the message; of several failures the largest index is shown."""
    messages = ["zero", "one", "two"]
    run = jit(lambda x, pred, index: vn.branched_error_if(x, pred, index, messages))
    for i, message in enumerate(messages):
        with refuses(CheckError, message):
            run(GOOD, jnp.array(True), jnp.array(i))
    pred = jnp.array([True, True, False])
    with refuses(CheckError, "one"):
        run(GOOD, pred, jnp.arange(3))
    with refuses(CheckError, "two"):
        run(GOOD, jnp.array(True), jnp.array(7))
    np.testing.assert_array_equal(run(GOOD, jnp.zeros(3, bool), jnp.arange(3)), GOOD)
    np.testing.assert_array_equal(run(GOOD, jnp.zeros(0, bool), 0), GOOD)


def test_branches_under_vmap() -> None:
    """Each example has its own condition and index."""

    def check(x: Any, pred: Any, index: Any) -> Any:
        return vn.branched_error_if(x, pred, index, ["zero", "one", "two"])

    run = vn.filter_jit(jax.vmap(check))
    index = jnp.array([0, 1, 2])
    with refuses(CheckError, "one"):
        run(GOOD, jnp.array([True, True, False]), index)
    with refuses(CheckError, "zero"):
        run(GOOD, jnp.array([True, False, False]), index)


@pytest.mark.parametrize("jit", [lambda f: f, vn.filter_jit])
def test_nan(jit: Any) -> None:
    """Floats become NaN, integers the largest one, booleans True; if it fails only."""
    tree = {"a": GOOD, "i": jnp.arange(3), "b": jnp.array(False), "h": jnp.float16(1)}
    run = jit(lambda t, p: vn.error_if(t, p, "bad", on_error="nan"))
    assert vn.tree_equal(run(tree, jnp.array(False)), tree, typematch=True)
    bad = run(tree, jnp.array(True))
    assert jnp.all(jnp.isnan(bad["a"])) and jnp.isnan(bad["h"]) and bad["b"]
    assert jnp.all(bad["i"] == 2**31 - 1)
    assert [bad[k].dtype for k in tree] == [tree[k].dtype for k in tree]


def test_off() -> None:
    """Nothing is left in the traced program but the condition, which is not used."""
    run = lambda x: vn.error_if(x, x < 0, "bad", on_error="off")  # noqa: E731
    assert [e.primitive.name for e in jax.make_jaxpr(run)(BAD).eqns] == ["lt"]
    np.testing.assert_array_equal(vn.filter_jit(run)(BAD), BAD)


@pytest.mark.parametrize("jit", [lambda f: f, vn.filter_jit])
def test_breakpoint(jit: Any, monkeypatch: Any, capfd: Any) -> None:
    """The message is printed, and JAX's debugger opens; then it goes on."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("c\nc\n"))
    run = jit(lambda x: vn.error_if(x, x < 0, "look here", on_error="breakpoint"))
    np.testing.assert_array_equal(jax.block_until_ready(run(BAD)), BAD)
    jax.effects_barrier()
    printed = capfd.readouterr().out
    assert "look here" in printed and "(jdb)" in printed
    run(GOOD)
    jax.effects_barrier()
    assert "(jdb)" not in capfd.readouterr().out


def test_the_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the default, and is read when the function is traced."""
    monkeypatch.setenv("VERNAL_ON_ERROR", "nan")
    assert jnp.all(jnp.isnan(checked(BAD)))
    with refuses(CheckError, "bad"):
        vn.error_if(BAD, True, "bad", on_error="raise")
    monkeypatch.setenv("VERNAL_ON_ERROR", "off")
    assert checked(BAD) is BAD
    monkeypatch.setenv("VERNAL_ON_ERROR", "explode")
    with refuses(TransformError, "VERNAL_ON_ERROR", "explode", "'raise', 'nan'"):
        checked(GOOD)
    with refuses(TransformError, "on_error", "explode"):
        vn.error_if(GOOD, False, "bad", on_error="explode")  # type: ignore[arg-type]


def test_bad_arguments() -> None:
    """What is no condition is refused, and so is a check that hangs on nothing."""
    with refuses(TransformError, "not boolean", "float32"):
        vn.error_if(GOOD, GOOD, "bad")
    with refuses(TransformError, "no array", "'text'"):
        jax.jit(lambda p: vn.error_if("text", p, "bad"))(jnp.array(True))
    assert vn.error_if("text", False, "bad") == "text"


def test_only_functions_with_checks_wait() -> None:
    """filter_jit waits for the device exactly where a check is in the trace."""
    waited = []
    original = jax.block_until_ready

    def spy(x: Any) -> Any:
        waited.append(x)
        return original(x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "block_until_ready", spy)
        for function, times in ((plain_root, 0), (root, 3)):
            run = vn.filter_jit(function)
            for _ in range(3):
                run(GOOD)
            assert len(waited) == times


def test_a_check_in_a_cached_inner_function() -> None:
    """A check that was traced before, as part of something else, is still found."""
    inner = jax.jit(root)
    inner(GOOD)
    with refuses(CheckError, "x must not be negative", "compiled in: outer"):

        @vn.filter_jit
        def outer(x: Any) -> Any:
            return inner(x) + 1

        outer(BAD)


def test_compiled_ahead_of_time() -> None:
    """A lowered and compiled function raises the same error."""
    compiled = vn.filter_jit(root).lower(GOOD).compile()
    np.testing.assert_allclose(compiled(GOOD), jnp.sqrt(GOOD))
    with refuses(CheckError, "x must not be negative", "compiled in: root"):
        compiled(BAD)


def test_donated_arguments() -> None:
    """Donation and checks go together."""
    run = vn.filter_jit(root, donate="all")
    np.testing.assert_allclose(run(GOOD + 0), jnp.sqrt(GOOD), rtol=1e-6)
    with refuses(CheckError, "x must not be negative"):
        run(BAD + 0)


def test_jax_logs_nothing_of_it(caplog: pytest.LogCaptureFixture) -> None:
    """The error comes once; JAX's log of other callbacks stays."""
    with caplog.at_level(logging.ERROR), refuses(CheckError, "negative"):
        vn.filter_jit(root)(BAD)
    assert not caplog.records

    def broken(x: Any) -> Any:
        raise ValueError("broken")

    with pytest.raises(Exception, match="broken"):
        shape = jax.ShapeDtypeStruct((3,), jnp.float32)
        jax.block_until_ready(
            jax.jit(lambda x: jax.pure_callback(broken, shape, x))(BAD)
        )
    assert any("broken" in str(record.exc_info) for record in caplog.records)


def test_a_program_that_fails_says_little() -> None:
    """What a user sees of an uncaught error is short, without the runtime's text."""
    program = (
        "import vernal as vn, jax.numpy as jnp\n"
        "@vn.filter_jit\n"
        "def step(x):\n"
        "    return vn.error_if(x, x < 0, 'x must not be negative') + 1\n"
        "step(jnp.array([-1.0]))\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    assert done.returncode == 1
    assert "vernal.errors.CheckError: x must not be negative" in done.stderr
    assert len(done.stderr.splitlines()) < 20
    for word in ("CpuCallback", "pure_callback", "INTERNAL"):
        assert word not in done.stderr


def test_arguments_in_another_order() -> None:
    """A message in the place of the condition, and what is no message, are refused."""
    with refuses(TransformError, "not boolean", "no array", "in this order"):
        vn.error_if(GOOD, "bad", "bad")
    with refuses(TransformError, "a message is not a text", "3"):
        vn.error_if(GOOD, GOOD < 0, 3)  # type: ignore[arg-type]
