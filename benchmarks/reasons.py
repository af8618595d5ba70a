"""Why a row's figure is what it is, from profiles, and what would have to change."""

_STATISTICS = (
    "Beyond raw there is the loop in which BatchNorm passes over the data again where "
    "the variance would cancel. It is seldom entered, and always compiled: without it, "
    "a hundred blocks of the small model take 1.05 of raw's time and not 1.16 (in "
    "processor time, 0.96 and not 1.01: what has grown is XLA's passes over the whole "
    "program, which run on one core), the ResNet 1.0 and not 1.2. "
    "`nn/_batch_moments.py` could only do without by being wrong for large means, or "
    "by a second collective. Why Haiku and Flax take less time than raw is not known."
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
        "There are 36 Modules (the model, and Adam's two moments of it), of which 15 "
        "are StateIndex: JAX takes them apart in 1.4 times the time that raw's dicts "
        "take, and calls Python for each to build it again, 17 µs in place of 4. No "
        "field is filled in until somebody reads it (`_module/instance.py`). Of flat "
        "lists of arrays the same step takes 1.08 of raw's: BatchNorm runs more small "
        "kernels. The steps of all libraries are taken in turn, so that the "
        "processor's caches are cold; ten steps after each other take 1.13 of raw's."
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
        "`rsqrt`, as raw one-pass does by hand. Flax is ahead as it does that and has "
        "its channels last, which XLA's convolutions on CPUs take as they are: raw "
        "one-pass channels-last is as fast. The layers of vernal would need a choice "
        "of layout. PyTorch has faster convolutions: raw without any normalization "
        "(`norm` in `networks/raw_resnet.py`) still takes 0.66 of raw's time, and "
        "PyTorch 0.45 for all."
    ),
    "resnet-compile": _STATISTICS,
    "resnet-memory": "As raw one-pass: raw keeps one more array for each variance.",
    "transformer-compile": (
        "The fusions hold 8,000 operations, raw's 13,800, as XLA computes less of "
        "them again (see the step)."
    ),
    "transformer-memory": "Equal in all libraries; what lies in it was not looked at.",
    "transformer-step": (
        "Linear keeps the batch in front, so that XLA need not transpose; with "
        "`weight @ x` it took a fifth longer. Raw is slower as XLA's fusions compute "
        "the gradient of the residual stream again and again; the boundaries of "
        "compiled functions, or `lax.optimization_barrier` in raw, keep it from that. "
        "PyTorch's kernels are faster: GELU is 8 % of the step here and the softmax "
        "3 %, and its products of matrices run at 256 GFLOP/s, XLA's at 213 to 228."
    ),
}


def reason(row: str) -> str:
    """The text for a row, by its name or by what comes before the number in it."""
    return _REASONS.get(row) or _REASONS.get(row.split("-")[0], "")
