"""The tasks: what each asks, its data, and how a measurement is judged.

An adapter, such as ``in_equinox.py``, measures and never judges: it returns plain
numbers, or lets the library's error through. It needs nothing but NumPy beside its
library, so that each library can run in an environment of its own.
"""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

RIGHT = "right"
REFUSED = "refused"
UNHELPFUL = "unhelpful error"
WRONG = "silently wrong"
NOT_POSSIBLE = "not possible"
NOT_APPLICABLE = "n/a"
VERDICTS = {
    RIGHT: "the result is right",
    REFUSED: "an error that names what is at fault",
    UNHELPFUL: "an error that does not",
    WRONG: "another result, and no error",
    NOT_POSSIBLE: "the library's public API has no way to do it",
    NOT_APPLICABLE: "the question does not arise",
}

CHANNELS = 3
DEPTH = 8  # layers in the stack
STEPS = (1, 10, 100)  # training steps before inference
TOLERANCE = 0.05  # relative; PyTorch's unbiased variance may differ by 1/256


@dataclass(frozen=True)
class Without:
    """Stands for a measurement that a library cannot give: a verdict and its reason."""

    verdict: str
    reason: str


def batch(mean: float, deviation: float, examples: int = 256) -> np.ndarray:
    """Examples of which each channel has exactly this mean and standard deviation."""
    x = np.random.default_rng(0).standard_normal((examples, CHANNELS))
    x = (x - x.mean(0)) / x.std(0)
    return (mean + deviation * x).astype(np.float32)


@contextmanager
def during(what: str) -> Any:
    """Adds to an error what was being done."""
    try:
        yield
    except Exception as error:
        error.add_note(what)
        raise


def outcome(infer: Callable[[], Any]) -> str:
    """What inference says, if what came before it may have made it impossible."""
    try:
        return f"output {'×'.join(map(str, infer().shape))}"
    except Exception as error:
        return describe(error)


def describe(error: Exception) -> str:
    """An error in one line; the long notes that JAX adds are left out."""
    text = " ".join(str(error).split())
    notes = [n for n in getattr(error, "__notes__", []) if n.startswith("in ")]
    return f"{' '.join([type(error).__name__, *notes])}: {text}"


def statements(function: Callable[..., Any]) -> int:
    """Counts the statements of a function, without its docstring and ``return``."""
    import ast
    import inspect
    import textwrap

    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    body = tree.body[0].body
    kinds = [type(node) for node in ast.walk(ast.Module(body[1:], []))]
    return sum(issubclass(k, ast.stmt) and k is not ast.Return for k in kinds)


def difference(a: Any, b: Any) -> float:
    """The largest difference between two arrays."""
    return float(np.max(np.abs(np.asarray(a, float) - np.asarray(b, float))))


# What follows judges: (whether it is right, the figures).
Judged = tuple[bool, str]


def early(outputs: dict[int, np.ndarray]) -> Judged:
    """``outputs``: of inference on ``batch(3, 2)``, after each number of steps."""
    deviations = [float(np.std(outputs[n], axis=0).mean()) for n in STEPS]
    errors = [difference(outputs[n], batch(0, 1)) for n in STEPS]
    figures = " ".join(f"{d:.2f}" for d in deviations)
    return bool(np.max(errors) < TOLERANCE), figures


def shared(counts: list[int]) -> Judged:
    """``counts``: every stored count, after one call that uses the layer twice."""
    return counts == [2], "stored counts: " + ", ".join(map(str, counts))


def transfer(found: dict[str, Any]) -> Judged:
    """``found``: the body's output untrained, before and after; and the statements."""
    error = difference(found["before"], found["after"])
    count = found["statements"]
    text = (
        f"{count} statement{'' if count == 1 else 's'}, output differs by {error:.1g}"
    )
    is_trained = difference(found["before"], found["untrained"]) > TOLERANCE
    return is_trained and error < 1e-5, text


def scan(found: dict[str, Any]) -> Judged:
    """``found``: pairs (scan, loop) of outputs and statistics, and the scans traced."""
    error = np.max([difference(*found[n]) for n in ("outputs", "statistics")])
    scans = found["scans"]
    text = f"{scans} scan{'' if scans == 1 else 's'}, differs by {error:.1g}"
    is_normal = difference(np.std(found["outputs"][0], axis=0), 1) < TOLERANCE
    return bool(scans == 1 and is_normal and error < 1e-4), text


def half(found: dict[str, dict[str, Any]]) -> Judged:
    """``found``: for each dtype the input, stored variance, output and its dtype.

    The running average keeps the last batch only, so that it can be compared with the
    variance of that batch.
    """
    is_right, texts = True, []
    for dtype, one in found.items():
        ratios = np.asarray(one["variance"], float) / np.var(one["x"], axis=0)
        deviations = np.std(np.asarray(one["y"], float), axis=0)
        # For NumPy's argmax and max, NaN is larger than everything.
        ratio, deviation = (x[np.argmax(abs(x - 1))] for x in (ratios, deviations))
        is_right &= bool(np.max([abs(ratio - 1), abs(deviation - 1)]) < TOLERANCE)
        texts.append(
            f"{dtype}: variance ×{ratio:.2f}, output ±{deviation:.2f} {one['dtype']}"
        )
    return is_right, "; ".join(texts)


def forgotten(found: dict[str, Any]) -> Judged:
    """``found``: the shapes of a slot at first and after each step, and inference."""
    shapes = [tuple(shape) for shape in found["shapes"]]
    text = " → ".join("×".join(map(str, shape)) for shape in shapes)
    return len(set(shapes)) == 1, f"state {text}; inference: {found['inference']}"


def reordered(found: dict[str, Any]) -> Judged:
    """``found``: the running means of two norms, as saved and as loaded, by name."""
    saved, loaded = found["saved"], found["loaded"]
    text = ", ".join(
        f"{name} {np.mean(saved[name]):.0f} → {np.mean(loaded[name]):.0f}"
        for name in saved
    )
    are_apart = difference(saved["first"], saved["second"]) > 1
    return are_apart and all(
        difference(saved[n], loaded[n]) < 1e-6 for n in saved
    ), text


def count(found: int) -> Judged:
    """``found``: the count that is stored after two calls."""
    return found == 2, f"count {found} after 2 calls"


def zero(output: np.ndarray) -> Judged:
    """``output``: of a layer whose weight and bias are zeros."""
    return bool(np.all(output == 0)), f"output {np.ravel(output)[0]:.1f}"


def overwritten(found: dict[str, Any]) -> Judged:
    """``found``: the stored weight before and after three training calls."""
    before, after = (np.asarray(found[name], float) for name in ("before", "after"))
    change = np.linalg.norm(after - before) / np.linalg.norm(before)
    return bool(change == 0), f"stored weight changed by {change:.0%}"


@dataclass(frozen=True)
class Task:
    """A question to every library."""

    title: str
    question: str
    judge: Callable[[Any], Judged]
    # An error with one of these words names what is at fault; so does any without them.
    words: tuple[str, ...] = ()


TASKS = {
    "early": Task(
        "Early inference",
        "Batch norm on data with mean 3 and standard deviation 2: the standard "
        "deviation of the inference output after 1, 10 and 100 training steps. "
        "Right: 1.00, and mean 0, each time. (Averages that start from 0 and 1, as in "
        "Flax and PyTorch, come close with time; what is judged is the output.)",
        early,
    ),
    "shared": Task(
        "One layer at two places",
        "A layer that counts its calls stands at two places of a model, which is "
        "called once. Right: one stored count, of 2.",
        shared,
    ),
    "transfer": Task(
        "A trained part in a new model",
        "A trained body with batch norm goes into a new model, whose head has a batch "
        "norm too, and the new model is trained for a step. Right: the body was put "
        "in with its parameters and statistics. The statements that this took are "
        "counted.",
        transfer,
        ("body",),
    ),
    "scan": Task(
        "Stateful layers in one scan",
        f"{DEPTH} layers with batch norm, each with its own parameters and statistics, "
        "in one `lax.scan`. Right: outputs and statistics as from a Python loop over "
        "the same layers.",
        scan,
    ),
    "half": Task(
        "Half precision",
        "Batch norm on data around 1000 with standard deviation 20, in float16 and "
        "bfloat16: the running variance relative to the true one, the standard "
        "deviation of the output, and its dtype, which is shown and not judged. "
        "Right: 1 and 1.",
        half,
        ("dtype",),
    ),
    "forgotten": Task(
        "`out_axes=None` forgotten",
        "Two training steps under `vmap` in which the axes of the returned state were "
        "forgotten. Right: the state keeps its shape; else an error that names the "
        "axes.",
        forgotten,
        ("axes",),
    ),
    "reordered": Task(
        "Fields reordered between save and load",
        "Two norms of one shape are saved, with running means 1 and 5, and loaded "
        "into the same model with its two fields in another order. Right: each gets "
        "its own statistics.",
        reordered,
    ),
    "stale": Task(
        "An old state used again",
        "A counting layer is called twice, by mistake with the first state both "
        "times. Right: an error, or a count of 2.",
        count,
        ("state", "State"),
    ),
    "lost": Task(
        "A new state thrown away",
        "The jitted step forgets to return the new state of a counting layer; two "
        "steps. Right: an error, or a count of 2.",
        count,
        ("state",),
    ),
    "zero": Task(
        "Spectral norm of zeros",
        "A layer with spectral normalization whose weight and bias are zeros. Right: "
        "zeros.",
        zero,
    ),
    "overwritten": Task(
        "Spectral norm and the stored weight",
        "The stored weight after three training calls without an optimizer. Right: "
        "what it was.",
        overwritten,
    ),
}
