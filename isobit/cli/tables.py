"""Tables on stdout: boxed and folded to the width of a terminal, aligned plain text elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from isobit.backends.device.timing import aligned

MARKED = "magenta"  # readable on light and on dark backgrounds: yellow and cyan are not


@dataclass(frozen=True)
class Row:
    """The cells of one row, printable text; a marked row stands out."""

    cells: tuple[str, ...]
    marked: bool = False


def show_table(console: Console, rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Print the rows below the names of their columns."""
    if console.is_terminal:
        table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for header in columns:
            table.add_column(header, overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row.cells), style=MARKED if row.marked else "")
        console.print(table)
        return
    for line in aligned([tuple(columns), *(row.cells for row in rows)]):
        console.print(Text(line), soft_wrap=True)
