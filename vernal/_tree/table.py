"""Tables for people: as plain text, as HTML in notebooks, and for rich."""

import dataclasses
import html
from collections.abc import Callable, Sequence
from typing import Any

_LOUD = "color:#c00;font-weight:bold"
_DIM = "opacity:0.6"


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of texts under a title; ``str`` lays them out in columns.

    ``rich.print(table)`` draws it with colors, and a notebook shows it as HTML. The
    plain text is the same whether rich is installed or not.

    Arguments:
        title: the line above.
        columns: the headings; none are drawn where all are empty.
        rows: a text for each column.
        right: which columns are aligned to the right.
        total: a last row, below a line.
        notes: lines below the table.
        loud: the rows that call for attention.
        dim: the rows that are of less interest.
        wrap: the column whose texts rich may break where the table is too wide.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: frozenset[int] = frozenset()
    total: Sequence[str] | None = None
    notes: Sequence[str] = ()
    loud: frozenset[int] = frozenset()
    dim: frozenset[int] = frozenset()
    wrap: int = 1

    def __str__(self) -> str:
        heading = [self.columns] if any(self.columns) else []
        total = [] if self.total is None else [self.total]
        every = [*heading, *self.rows, *total]
        widths = [max(map(len, column)) for column in zip(*every, strict=True)]

        def line(row: Sequence[str]) -> str:
            cells = [
                f"{text:>{width}}" if i in self.right else f"{text:<{width}}"
                for i, (text, width) in enumerate(zip(row, widths, strict=True))
            ]
            return "  " + "  ".join(cells).rstrip()

        rule = ["  " + "─" * (sum(widths) + 2 * (len(widths) - 1))]
        lines = [*map(line, heading), *(rule if heading else [])]
        lines += map(line, self.rows)
        lines += [*rule, line(total[0])] if total else []
        return "\n".join([self.title, *lines, *[f"  {note}" for note in self.notes]])

    def __rich__(self) -> Any:
        """The table as rich draws it."""
        from rich import box
        from rich.console import Group
        from rich.table import Table as Rich
        from rich.text import Text

        table = Rich(
            title=Text(self.title, "bold"),
            title_justify="left",
            box=box.SIMPLE,
            show_header=any(self.columns),
            show_footer=self.total is not None,
            pad_edge=False,
        )
        footers = self.total or [""] * len(self.columns)
        for i, (name, footer) in enumerate(zip(self.columns, footers, strict=True)):
            side: Any = "right" if i in self.right else "left"
            table.add_column(name, footer, justify=side, no_wrap=i != self.wrap)
        for i, row in enumerate(self.rows):
            style = "bold red" if i in self.loud else "dim" if i in self.dim else None
            table.add_row(*map(Text, row), style=style)
        return Group(table, *[Text(f"  {note}", "dim") for note in self.notes])

    def _repr_html_(self) -> str:
        def cells(row: Sequence[str], tag: str, style: str = "") -> str:
            texts = [
                f'<{tag} style="text-align:{"right" if i in self.right else "left"};'
                f'white-space:pre;{style}">{html.escape(text)}</{tag}>'
                for i, text in enumerate(row)
            ]
            return f"<tr>{''.join(texts)}</tr>"

        def style(i: int) -> str:
            return _LOUD if i in self.loud else _DIM if i in self.dim else ""

        heading = cells(self.columns, "th") if any(self.columns) else ""
        body = [cells(row, "td", style(i)) for i, row in enumerate(self.rows)]
        body += [] if self.total is None else [cells(self.total, "th")]
        notes = "".join(f"<div>{html.escape(note)}</div>" for note in self.notes)
        return (
            f"<div><b>{html.escape(self.title)}</b>"
            f'<table style="font-family:monospace;font-size:90%">'
            f"<thead>{heading}</thead><tbody>{''.join(body)}</tbody></table>"
            f"<small>{notes}</small></div>"
        )


class Tabular:
    """Base class of what is shown as the table that its method ``table`` makes."""

    table: Callable[[], Table]

    def __repr__(self) -> str:
        return str(self.table())

    def __rich__(self) -> Any:
        return self.table().__rich__()

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def sized(n: float, units: Sequence[str] = ("", "k", "M", "G", "T", "P")) -> str:
    """A number to three digits: ``1.23M``; exact up to four.

    >>> sized(1234), sized(12345), sized(2**20, ("B", "KB", "MB"))
    ('1,234', '12.3k', '1.05MB')
    """
    if n < 10_000 and n == int(n):
        return f"{int(n):,}{units[0]}"
    i = 0
    while n >= 999.5 and i < len(units) - 1:
        n, i = n / 1000, i + 1
    return f"{n:.{max(0, 2 - len(str(int(n))) + 1)}f}{units[i]}"
