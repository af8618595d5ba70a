"""Tables: columns that line up, in plain text, HTML and rich."""

import io

from rich.console import Console

from vernal._tree.table import Table, Tabular, sized

TABLE = Table(
    title="Fruit",
    columns=("name", "count"),
    rows=[("apple", "12"), ("[b]<i>fig", "1,000")],
    right=frozenset({1}),
    total=("all", "1,012"),
    notes=["as of today"],
    loud=frozenset({0}),
    dim=frozenset({1}),
)
TEXT = """\
Fruit
  name       count
  ────────────────
  apple         12
  [b]<i>fig  1,000
  ────────────────
  all        1,012
  as of today"""


def test_text():
    """Columns are as wide as their widest text, aligned to the left or right."""
    assert str(TABLE) == TEXT


def test_no_headings():
    """Without headings, rows follow the title; of nothing there is a title only."""
    assert str(Table("T", ("", ""), [("a", "b")])) == "T\n  a  b"
    assert str(Table("T", ("", ""), [])) == "T"
    assert str(Table("T", ("a",), [])) == "T\n  a\n  ─"


def test_html():
    """Every text is in a cell, what could be markup is escaped, rows have styles."""
    page = TABLE._repr_html_()
    for word in ("<b>Fruit</b>", ">apple</td>", "[b]&lt;i&gt;fig", "as of today"):
        assert word in page
    assert page.count("<tr>") == 4 and page.count("text-align:right") == 4
    assert page.count("font-weight:bold") == 2 == page.count("opacity")
    assert "<thead></thead>" in Table("T", ("",), [("a",)])._repr_html_()


def test_rich():
    """Rich draws the same texts, takes none for markup, and marks what is loud."""
    output = io.StringIO()
    Console(file=output, force_terminal=True, width=80).print(TABLE)
    text = output.getvalue()
    for word in (
        "Fruit",
        "name",
        "apple",
        "[b]<i>fig",
        "1,000",
        "1,012",
        "as of today",
    ):
        assert word in text
    (line,) = (line for line in text.splitlines() if "apple" in line)
    assert "\x1b[1;31m" in line


def test_tabular():
    """What makes a table is shown as that table, everywhere."""

    class Fruit(Tabular):
        def table(self):
            return TABLE

    assert str(Fruit()) == TEXT
    assert Fruit()._repr_html_() == TABLE._repr_html_()
    output = io.StringIO()
    Console(file=output, width=80).print(Fruit())
    assert "apple" in output.getvalue()


def test_sized():
    """Numbers are exact up to four digits, and have three from then on."""
    bytes_ = (" B", " kB", " MB")
    texts = [sized(n) for n in (0, 9999, 10_000, 99_950, 999_499, 999_500, 4.2e9)]
    assert texts == ["0", "9,999", "10.0k", "100.0k", "999k", "1.00M", "4.20G"]
    assert sized(10**9, bytes_) == "1000 MB" and sized(512, bytes_) == "512 B"
