"""Methods of Modules: accessed on an instance, they are pytrees that hold it."""

import types
from collections.abc import Callable
from typing import Any


class Method:
    """Replaces a function in a class body, and binds it as a :class:`BoundMethod`.

    Python's own bound methods are opaque to JAX. This descriptor costs one Python
    call per access, and nothing where methods are not used.
    """

    # Set by module.py: BoundMethod is a Module itself, so it comes later.
    bind: Callable[[Any, Any], Any]

    def __init__(self, function: types.FunctionType) -> None:
        self.__wrapped__ = function
        self.__doc__ = function.__doc__
        abstract = getattr(function, "__isabstractmethod__", False)
        self.__isabstractmethod__ = abstract

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self.__wrapped__
        return Method.bind(self.__wrapped__, instance)
