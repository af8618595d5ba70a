"""Nodes of a tree that are one and the same."""

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import jax
import jax.tree_util as jtu

from .._module.by_value import by_value
from .._module.fields import field
from .._module.module import Module
from .._state.index import is_index
from .._transform.trace import filter_eval_shape
from .._tree.paths import path_text
from .._tree.surgery import tree_at
from ..errors import HyperparameterError, report, short
from ..typing import PyTree
from ._checks import require

_Tree = TypeVar("_Tree")


class Tied(Module):
    # Stands in a Shared for a node that is somewhere else; has no leaves.
    pass


class Shared(Module, Generic[_Tree]):
    r"""Ties nodes of a tree to others, so that there is one copy of them.

    The nodes at ``where`` are taken out of the tree, and calling the Shared puts what
    ``get`` gives in their place. So gradients of both uses add up, an optimizer sees
    one parameter, and a file stores one. (A layer that merely stands at two places of
    a model is two copies for JAX, which are trained apart.) A tied layer with a
    StateIndex has one state for all its places.

    Reference for tied embeddings: Press and Wolf, *Using the Output Embedding to
    Improve Language Models*, 2017, arXiv:1608.05859. In PyTorch one assigns the same
    Parameter twice.

    Arguments:
        pytree: any tree, such as a tuple of layers.
        where: from the tree to the node, or the sequence of nodes, to take out; as for
            ``vernal.tree_at``.
        get: from the tree to what stands there instead; as many, and of the same
            structures, shapes and dtypes. It may compute, such as transpose; it must
            not use what is taken out.

    Attributes:
        pytree: the tree without the nodes that were taken out.
        where: as given. Like ``get`` it is static metadata if it is a function; a local
            function is equal to another one of the same code and values.
        get: as given.

    Raises:
        TreeError: ``where`` does not give nodes of the tree.
        HyperparameterError: what ``get`` gives does not fit.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> class Autoencoder(vn.Module):
    ...     layers: vn.nn.Shared
    ...
    ...     def __init__(self, size, code, key):
    ...         down = vn.nn.Linear(size, code, use_bias=False, key=key)
    ...         up = vn.nn.Linear(code, size, use_bias=False, key=key)
    ...         where = lambda pair: pair[1].weight
    ...         get = lambda pair: pair[0].weight.T
    ...         self.layers = vn.nn.Shared((down, up), where, get)
    ...
    ...     def __call__(self, x):
    ...         down, up = self.layers()
    ...         return up(down(x))
    >>> model = Autoencoder(4, 2, jax.random.key(0))
    >>> model(jnp.ones(4)).shape
    (4,)
    >>> jax.tree.map(jnp.shape, jax.tree.leaves(model))
    [(2, 4)]
    """

    pytree: PyTree
    where: Callable[[_Tree], Any | Sequence[Any]] = field(
        static="if_function", converter=by_value
    )
    get: Callable[[_Tree], Any | Sequence[Any]] = field(
        static="if_function", converter=by_value
    )

    def __init__(
        self,
        pytree: _Tree,
        where: Callable[[_Tree], Any | Sequence[Any]],
        get: Callable[[_Tree], Any | Sequence[Any]],
    ) -> None:
        for name, value in {"where": where, "get": get}.items():
            require(callable(value), "Shared", name, "a function of the tree", value)
        stripped = tree_at(where, pytree, replace_fn=lambda _: Tied())
        _check_fit(pytree, stripped, where, get)
        self.pytree = stripped
        self.where = where
        self.get = get

    def __call__(self) -> _Tree:
        """Returns the whole tree, with ``get(pytree)`` at ``where(pytree)``."""
        return _restore(self.pytree, self.where, self.get)


def _restore(stripped: Any, where: Any, get: Any) -> Any:
    return tree_at(where, stripped, get(stripped))


def _check_fit(tree: Any, stripped: Any, where: Any, get: Any) -> None:
    """Refuses a ``get`` that does not restore a tree of the same form."""
    try:
        restored = filter_eval_shape(lambda t: _restore(t, where, get), stripped)
    except Exception as error:
        expected = "as many nodes as `where` gives, made of those that stay"
        raise _misfit(expected, short(str(error), 120)) from error
    old, new = _form(tree), _form(restored)
    for path, form in old.items():
        if new.get(path) != form:
            got = f"{new.get(path, 'something else')} from `get`"
            raise _misfit(f"{form}, as `where` has at `{path}`", got)
    if _structure(tree) != _structure(restored):
        raise _misfit("nodes with the configuration of those at `where`", "another one")


def _misfit(expected: str, got: str) -> HyperparameterError:
    title = "Shared: what `get` gives cannot stand at `where`."
    return HyperparameterError(report(title, expected=expected, got=got))


def _form(tree: PyTree) -> dict[str, str]:
    """Shape and dtype of each array, and the types of other leaves, by their paths."""
    return {
        path_text(path): f"{x.shape}, {x.dtype}"
        if hasattr(x, "shape") and hasattr(x, "dtype")
        else type(x).__name__
        for path, x in jtu.tree_leaves_with_path(_stateless(tree))
    }


def _structure(tree: PyTree) -> Any:
    return jax.tree.structure(_stateless(tree))


def _stateless(tree: PyTree) -> PyTree:
    """The initial values in place of indices, which are all different."""
    return jax.tree.map(lambda x: x.init if is_index(x) else x, tree, is_leaf=is_index)
