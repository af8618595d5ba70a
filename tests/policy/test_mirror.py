"""The tests mirror the package: vernal/nn/_linear.py has tests/nn/test_linear.py."""

from pathlib import PurePosixPath

from tests.policy.source import PACKAGE, ROOT, source_files

# Source files that need no test file of their own, with the reason.
EXCUSED: dict[str, str] = {}


def mirror(source):
    """Where the tests of a source file belong; leading underscores are dropped."""
    path = PurePosixPath(source)
    folders = [part.lstrip("_") for part in path.parent.parts]
    return PurePosixPath(
        "tests", *folders, f"test_{path.stem.lstrip('_')}.py"
    ).as_posix()


def untested(sources, tests):
    """Source files whose test file is missing."""
    return {x: mirror(x) for x in sources if mirror(x) not in tests}


def all_sources():
    """The package's files but for __init__ files, relative to the package."""
    paths = (x for x in source_files() if x.name != "__init__.py")
    return [path.relative_to(PACKAGE).as_posix() for path in paths]


def all_tests():
    paths = (ROOT / "tests").rglob("test_*.py")
    return {path.relative_to(ROOT).as_posix() for path in paths}


def test_every_source_file_has_its_test_file():
    """No source file is without tests, unless it is listed with its reason."""
    missing = untested(all_sources(), all_tests())
    assert {k: v for k, v in missing.items() if k not in EXCUSED} == {}


def test_the_allow_list_is_not_stale():
    """A file that has its tests, or is gone, is no longer excused."""
    assert set(EXCUSED) - set(untested(all_sources(), all_tests())) == set()


def test_a_missing_test_file_is_seen():
    """A source file without its mirror image is found, and told where it belongs."""
    found = untested(["nn/_linear.py", "_tree/filters.py"], {"tests/nn/test_linear.py"})
    assert found == {"_tree/filters.py": "tests/tree/test_filters.py"}
