"""The Python in README.md and below docs/ runs as it is printed.

The ```python blocks of one file run in order and share one namespace. A block after
the line `<!-- not executed -->` is left out.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]

# What the section "What only vernal does" has to show.
SHOWN = [
    *("batched", "vn.nn.Stack", "vn.nn.Ensemble", "join_state", "split_state"),
    *("freeze", "unfreeze", "recalibrate", "merge_states", "reset", "fold_norms"),
    *("bake", "state_diff", "assert_updates_kept", "assert_states_used_once"),
    *("vn.save", "vn.load", "Manager"),
]

BLOCK = re.compile(
    r"(?P<skip><!-- not executed -->\s*\n)?^```python[^\n]*\n(?P<code>.*?)^```",
    re.MULTILINE | re.DOTALL,
)


def blocks(text):
    """The code of each block that runs, padded so that its lines keep their numbers."""
    return [
        "\n" * text.count("\n", 0, match.start("code")) + match["code"]
        for match in BLOCK.finditer(text)
        if not match["skip"]
    ]


def run_page(text, name):
    """Runs the blocks of one page and returns the namespace that they leave."""
    namespace = {"__name__": "__main__"}
    for code in blocks(text):
        exec(compile(code, name, "exec"), namespace)
    return namespace


@pytest.mark.relaxed  # optax adds int counts to floats, as its users do
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_runs(page, tmp_path, monkeypatch):
    """What a page shows works when pasted, block after block."""
    monkeypatch.chdir(tmp_path)
    run_page(page.read_text(encoding="utf-8"), str(page))


SAMPLE = """\
# A page

```python
x = 1
```

<!-- not executed -->
```python
x = 2
```

```sh
x = 3
```

```python
y = x + 1
```
"""


def test_blocks_share_a_namespace_and_marked_ones_are_skipped():
    """A later block sees an earlier one's names; marked and foreign ones don't run."""
    namespace = run_page(SAMPLE, "sample")
    assert (namespace["x"], namespace["y"]) == (1, 2)


def test_a_broken_block_fails_at_its_line():
    """The traceback of a broken block points to its line on the page."""
    text = SAMPLE.replace("y = x + 1", "y = x / 0")
    with pytest.raises(ZeroDivisionError) as info:
        run_page(text, "sample")
    assert info.traceback[-1].lineno + 1 == text.splitlines().index("y = x / 0") + 1


def test_what_only_vernal_does_is_short():
    """Each thing in that section is shown in six lines at most, and all of them run."""
    text = (ROOT / "README.md").read_text()
    section = text.split("## What only vernal does")[1].split("\n## ")[0]
    found = [[x for x in block.split("\n") if x] for block in blocks(section)]
    assert len(found) >= 8 and "not executed" not in section
    assert max(map(len, found)) <= 6
    shown = "\n".join(line for block in found for line in block)
    for name in SHOWN:
        assert re.search(rf"{re.escape(name)}\b", shown), name
