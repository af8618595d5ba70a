"""Key paths of pytrees as text: ``layers[0].norm``."""

from typing import Any

import jax.tree_util as jtu


def path_text(path: tuple[Any, ...]) -> str:
    """Writes a key path the way a user writes the access: ``blocks[0]['a'].norm``."""
    return "".join(_step(key) for key in path).removeprefix(".")


def _step(key: Any) -> str:
    match key:
        case jtu.GetAttrKey(name=name):
            return f".{name}"
        case jtu.SequenceKey(idx=index) | jtu.FlattenedIndexKey(key=index):
            return f"[{index}]"
        case jtu.DictKey(key=name):
            return f"[{name!r}]"
        case _:
            return f"[{key}]"
