"""Why a row's figure is what it is, from profiles, and what would have to change."""

_STATISTICS = (
    "Beyond raw there is BatchNorm's second pass over the data, in the branch of a "
    "conditional that runs where the variance would cancel: 70 of the 80 fusions that "
    "10 blocks have more than raw (375 against 295; 306 without it). "
    "`nn/_batch_moments.py` could only do without by being wrong for large means."
)

_REASONS = {
    "call": (
        "Flattening costs what it costs for nested dicts, as a Module knows its own "
        "flat form (`_module/register.py`). What is left: the types of the leaves are "
        "looked at, one comparison of treedefs finds the compiled function "
        "(`_transform/jit.py`), and JAX takes the flat list apart once more. Half of "
        "the nodes are StateIndex; to be fewer, they would have to become metadata."
    ),
    "step": (
        "36 Modules (the model and Adam's two moments of it) are built from their "
        "leaves in 20 µs, raw's dicts in 4; and there is what a call costs. On the "
        "device it is no more than raw: without the conditional of BatchNorm it takes "
        "as long. To move it, `_module/register.py` would build a Module only when "
        "somebody looks into it."
    ),
    "step-donating": "As without donation, from which raw itself gains as little.",
    "returns": "Nothing waits, unless the function has runtime checks in it.",
    "overlap": "The call returns at once, so the host's work goes on beside it.",
    "eager": (
        "The arithmetic of a layer is one compiled function (`nn/_numerics.py` and its "
        "neighbors), where raw runs each operation by itself."
    ),
    "lower": (
        "Layers of one kind and shape share functions that JAX traces, batches, "
        "differentiates and lowers once (`nn/_numerics.py` and its neighbors)."
    ),
    "compile": _STATISTICS,
    "set": (
        "A dict is handed on from State to State; what is left is one check of "
        "structure, shape and dtype (`_state/values.py`)."
    ),
    "first": "It is compilation, nearly all of it. " + _STATISTICS,
    "import": "Names are imported when they are first used (`_lazy.py`).",
    "construct-cold": (
        "Initial values are drawn along one axis, the small ones in three sizes "
        "(`nn/_init.py`): JAX compiles that three times as fast as kernels of four "
        "axes. What is left is a program for each large size, and the splits of keys."
    ),
    "construct-warm": "Numbers along one axis are drawn faster, too (`nn/_init.py`).",
    "construct-abstract": "JAX traces each initial value, of parameters and of state.",
    "resnet-step": (
        "The statistics take one pass over the data, and normalization multiplies by "
        "`rsqrt`; raw one-pass does the same by hand. Why Flax is ahead is not known: "
        "channels last alone is not the reason, as raw channels-last shows."
    ),
    "resnet-compile": _STATISTICS,
    "resnet-memory": "As raw one-pass: raw keeps one more array for each variance.",
    "transformer-compile": "Not profiled yet.",
    "transformer-memory": "Not profiled yet.",
    "transformer-step": (
        "Linear keeps the batch in front, so that XLA need not transpose; with "
        "`weight @ x` it took a fifth longer. Raw is slower as XLA's fusions compute "
        "the gradient of the residual stream again and again; the boundaries of "
        "compiled functions, or `lax.optimization_barrier` in raw, keep it from that."
    ),
}


def reason(row: str) -> str:
    """The text for a row, by its name or by what comes before the number in it."""
    return _REASONS.get(row) or _REASONS.get(row.split("-")[0], "")
