"""Neural networks on JAX as immutable pytrees, with explicit state."""

from typing import TYPE_CHECKING

from ._lazy import lazy_names

if TYPE_CHECKING:
    from . import (
        checkpoint as checkpoint,
        debug as debug,
        errors as errors,
        metrics as metrics,
        nn as nn,
        typing as typing,
    )
    from ._module.abstract import (
        AbstractClassVar as AbstractClassVar,
        AbstractVar as AbstractVar,
    )
    from ._module.callables import (
        Partial as Partial,
        module_update_wrapper as module_update_wrapper,
    )
    from ._module.fields import field as field
    from ._module.module import Module as Module
    from ._runtime.checks import (
        branched_error_if as branched_error_if,
        error_if as error_if,
    )
    from ._runtime.enumeration import Enumeration as Enumeration
    from ._serialisation.records import (
        default_deserialise_filter_spec as default_deserialise_filter_spec,
        default_serialise_filter_spec as default_serialise_filter_spec,
    )
    from ._serialisation.trees import (
        tree_deserialise_leaves as tree_deserialise_leaves,
        tree_serialise_leaves as tree_serialise_leaves,
    )
    from ._transform.axes import if_array as if_array
    from ._transform.boundary import (
        filter_pure_callback as filter_pure_callback,
        filter_shard as filter_shard,
    )
    from ._transform.custom import (
        filter_custom_jvp as filter_custom_jvp,
        filter_custom_vjp as filter_custom_vjp,
    )
    from ._transform.grad import (
        filter_grad as filter_grad,
        filter_value_and_grad as filter_value_and_grad,
    )
    from ._transform.jacobian import (
        filter_hessian as filter_hessian,
        filter_jacfwd as filter_jacfwd,
        filter_jacrev as filter_jacrev,
    )
    from ._transform.jit import clear_caches as clear_caches, filter_jit as filter_jit
    from ._transform.pmap import filter_pmap as filter_pmap
    from ._transform.products import filter_jvp as filter_jvp, filter_vjp as filter_vjp
    from ._transform.remat import filter_checkpoint as filter_checkpoint
    from ._transform.trace import (
        filter_closure_convert as filter_closure_convert,
        filter_eval_shape as filter_eval_shape,
        filter_make_jaxpr as filter_make_jaxpr,
    )
    from ._transform.vmap import filter_vmap as filter_vmap
    from ._tree.check import (
        tree_check as tree_check,
        tree_flatten_one_level as tree_flatten_one_level,
    )
    from ._tree.compare import tree_equal as tree_equal
    from ._tree.filters import (
        combine as combine,
        filter as filter,
        is_array as is_array,
        is_array_like as is_array_like,
        is_inexact_array as is_inexact_array,
        is_inexact_array_like as is_inexact_array_like,
        partition as partition,
    )
    from ._tree.format import tree_pformat as tree_pformat, tree_pprint as tree_pprint
    from ._tree.surgery import apply_updates as apply_updates, tree_at as tree_at
    from .checkpoint._load import load as load
    from .checkpoint._save import save as save
    from .errors import (
        EquinoxRuntimeError as EquinoxRuntimeError,
        EquinoxTracetimeError as EquinoxTracetimeError,
    )
    from .nn._mode import tree_inference as tree_inference
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = [
    "AbstractClassVar",
    "AbstractVar",
    "Enumeration",
    "EquinoxRuntimeError",
    "EquinoxTracetimeError",
    "Module",
    "Partial",
    "apply_updates",
    "branched_error_if",
    "checkpoint",
    "clear_caches",
    "combine",
    "debug",
    "default_deserialise_filter_spec",
    "default_serialise_filter_spec",
    "error_if",
    "errors",
    "field",
    "filter",
    "filter_checkpoint",
    "filter_closure_convert",
    "filter_custom_jvp",
    "filter_custom_vjp",
    "filter_eval_shape",
    "filter_grad",
    "filter_hessian",
    "filter_jacfwd",
    "filter_jacrev",
    "filter_jit",
    "filter_jvp",
    "filter_make_jaxpr",
    "filter_pmap",
    "filter_pure_callback",
    "filter_shard",
    "filter_value_and_grad",
    "filter_vjp",
    "filter_vmap",
    "if_array",
    "is_array",
    "is_array_like",
    "is_inexact_array",
    "is_inexact_array_like",
    "load",
    "metrics",
    "module_update_wrapper",
    "nn",
    "partition",
    "save",
    "tree_at",
    "tree_check",
    "tree_deserialise_leaves",
    "tree_equal",
    "tree_flatten_one_level",
    "tree_inference",
    "tree_pformat",
    "tree_pprint",
    "tree_serialise_leaves",
    "typing",
]
