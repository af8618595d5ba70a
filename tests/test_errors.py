"""The errors: their tree, their builtin bases, and the form of their texts."""

import inspect
import pickle

import pytest

import vernal as vn
from vernal import errors

PUBLIC = [
    x
    for name, x in vars(errors).items()
    if isinstance(x, type)
    and issubclass(x, errors.VernalError)
    and not name.startswith("Equinox")  # other names of the same class
]


def drawn_tree(text):
    """Reads the tree of a module docstring: name -> (parent, builtin base or None)."""
    found, path = {}, []
    for line in text.splitlines():
        name, _, rest = line.lstrip("│├└─ ").partition("(")
        depth = (len(line) - len(line.lstrip("│├└─ "))) // 4
        name = name.split()[0] if name.strip() else ""
        if name.endswith("Error") and hasattr(errors, name):
            path = [*path[:depth], name]
            base = rest.partition(")")[0] or None
            found[name] = (path[-2] if depth else None, base)
    return found


def test_the_drawn_tree_is_the_real_one():
    """The tree in the module docstring shows each class below its parent."""
    drawn = drawn_tree(errors.__doc__)
    assert set(drawn) == {cls.__name__ for cls in PUBLIC}
    for cls in PUBLIC:
        parent = cls.__bases__[0].__name__
        assert drawn[cls.__name__][0] == (None if parent == "Exception" else parent)


@pytest.mark.parametrize("cls", PUBLIC, ids=lambda cls: cls.__name__)
def test_the_drawn_builtin_is_a_base(cls):
    """Each class is also the builtin exception that the tree names."""
    base = drawn_tree(errors.__doc__)[cls.__name__][1]
    assert base is None or base in {x.__name__ for x in cls.__mro__}


def test_one_except_catches_them_all():
    """Every error of the package derives from VernalError."""
    assert all(issubclass(cls, vn.errors.VernalError) for cls in PUBLIC)
    assert len(PUBLIC) == 18


@pytest.mark.parametrize("cls", PUBLIC, ids=lambda cls: cls.__name__)
def test_each_class_says_its_cure(cls):
    """A docstring gives the cause, and for what is raised itself the cure."""
    doc = inspect.getdoc(cls)
    assert doc
    is_root = "root of" in doc
    assert is_root or "Cure:" in doc


@pytest.mark.parametrize("cls", PUBLIC, ids=lambda cls: cls.__name__)
def test_errors_survive_pickling(cls):
    """An error that comes out of a worker process keeps class and text."""
    back = pickle.loads(pickle.dumps(cls("what is wrong")))
    assert type(back) is cls
    assert str(back) == "what is wrong"


def test_a_report_is_aligned():
    """Title, expected, got and fix stand on a line each, in this order."""
    text = errors.report("title", fix="f", got="g", expected="e")
    assert text == "title\n  expected: e\n  got:      g\n  fix:      f"


def test_a_report_leaves_out_what_is_empty():
    """What was not given takes no line."""
    assert errors.report("title") == "title"
    assert errors.report("title", got="g") == "title\n  got:      g"


def test_short_texts():
    """Any value becomes one line of limited length."""
    assert errors.short("a\n  b\tc") == "a b c"
    assert errors.short([1, 2]) == "[1, 2]"
    assert errors.short("x" * 60) == "x" * 60
    assert errors.short("x" * 61) == "x" * 57 + "..."
    assert errors.short(range(10**6), 10) == "range(0..."


def test_a_drawn_tree_that_lies_is_seen():
    """A class drawn under the wrong parent is read as such."""
    text = "VernalError\n└── StateError(ValueError)   text\n    └── TreeError   text"
    assert drawn_tree(text) == {
        "VernalError": (None, None),
        "StateError": ("VernalError", "ValueError"),
        "TreeError": ("StateError", None),
    }
