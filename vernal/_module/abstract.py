"""Attributes that a class promises and its subclasses must provide."""

from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeAlias, TypeVar

from ..errors import ModuleError, report

# Makes the name that type checkers import under another name a public one.
__all__ = [
    "AbstractClassVar",
    "AbstractVar",
    "check_concrete",
    "still_abstract",
    "take_abstract",
]

_T = TypeVar("_T")

if TYPE_CHECKING:
    AbstractVar: TypeAlias = Annotated[_T, "AbstractVar"]
    from typing import ClassVar as AbstractClassVar
else:

    class AbstractVar(Generic[_T]):
        """Marks an attribute that every concrete subclass must have.

        A subclass provides it as a field, a property or a class attribute. A class
        that still lacks one cannot be instantiated.

        >>> import vernal as vn
        >>> class AbstractNorm(vn.Module):
        ...     eps: vn.AbstractVar[float]
        >>> class Norm(AbstractNorm):
        ...     eps: float = 1e-5
        >>> Norm().eps
        1e-05
        """

    class AbstractClassVar(Generic[_T]):
        """Marks a class attribute that every concrete subclass must have.

        As :class:`AbstractVar`, but a field of the instances does not do.

        >>> import vernal as vn
        >>> class AbstractConv(vn.Module):
        ...     num_dims: vn.AbstractClassVar[int]
        >>> class Conv(AbstractConv):
        ...     num_dims = 2
        >>> Conv().num_dims
        2
        """


def take_abstract(annotations: dict[str, Any]) -> dict[str, str]:
    """Removes abstract attributes from annotations; returns their names and kinds."""
    found = {}
    for name, annotation in list(annotations.items()):
        if kind := _kind(annotation):
            found[name] = kind
            del annotations[name]
    return found


def _kind(annotation: Any) -> str | None:
    """Tells AbstractVar from AbstractClassVar, also where annotations are strings."""
    if isinstance(annotation, str):
        head = annotation.partition("[")[0].rpartition(".")[2]
        return head if head in ("AbstractVar", "AbstractClassVar") else None
    origin = getattr(annotation, "__origin__", annotation)
    is_ours = origin is AbstractVar or origin is AbstractClassVar
    return origin.__name__ if is_ours else None


def still_abstract(
    cls: type, own: dict[str, str], annotations: dict[str, Any]
) -> dict[str, str]:
    """The abstract attributes of a class that neither it nor a base provides."""
    left: dict[str, str] = {}
    for base in reversed(cls.__mro__[1:]):
        left |= base.__dict__.get("__abstract_fields__", {})
    left |= own
    fields = {n for n in getattr(cls, "__dataclass_fields__", {}) if n not in own}

    def provided(name: str) -> bool:
        is_field = left[name] == "AbstractVar" and (
            name in annotations or name in fields
        )
        return is_field or _has_value(cls, name)

    return {name: kind for name, kind in left.items() if not provided(name)}


def _has_value(cls: type, name: str) -> bool:
    owner = next((c for c in cls.__mro__ if name in c.__dict__), None)
    if owner is None or not hasattr(cls, name):
        return False
    return not getattr(owner.__dict__[name], "__isabstractmethod__", False)


def check_concrete(cls: Any) -> None:
    """Refuses to instantiate a class with abstract attributes."""
    if cls.__abstract_fields__:
        names = ", ".join(sorted(cls.__abstract_fields__))
        raise ModuleError(
            report(
                f"cannot instantiate {cls.__name__}: it has abstract attributes.",
                expected=f"a subclass that provides: {names}",
                got=f"{cls.__name__} itself",
                fix=f"declare them in the subclass, such as `{names.split(',')[0]}: …`",
            )
        )
