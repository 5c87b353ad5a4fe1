"""Measured documents: all numbers as JSON, and tables in Markdown that show a part of them.

A table stands between `<!-- bench:NAME -->` and `<!-- /bench:NAME -->`; only what is between the marks is replaced. It
is made of the JSON file beside the document alone, so that the same numbers give the same page.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from isobit.pipeline.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 480  # of a line of JSON
LONG = 10  # rows of a table


def command_text(script: str, arguments: Sequence[str]) -> str:
    """A command line as a document may show it: paths are relative to the checkout, whosever machine it was."""
    shown = [os.path.relpath(argument, ROOT) if os.path.isabs(argument) else argument for argument in arguments]
    return shlex.join([script, *shown])


def read_json(path: Path) -> dict[str, Any]:
    """What a document's JSON holds; empty where there is none yet."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """The same numbers give the same file."""
    path.write_text(readable(content) + "\n", encoding="utf-8")


def readable(content: Any, indent: int = 0) -> str:
    """JSON with a line for whatever fits into one, so that a table has a line for each row."""
    line = json.dumps(content, ensure_ascii=False)
    if len(line) + indent <= WIDTH or not isinstance(content, Mapping | list | tuple):
        return line
    mapping = isinstance(content, Mapping)
    entries = [f"{json.dumps(key)}: {readable(value, indent + 1)}" for key, value in content.items()] if mapping else [
        readable(value, indent + 1) for value in content]
    inner = " " * (indent + 1)
    text = f",\n{inner}".join(entries)
    first, last = "{}" if mapping else "[]"
    return f"{first}\n{inner}{text}\n{' ' * indent}{last}"


def fill(text: str, tables: Mapping[str, str], mark: str = "bench", document: str = "docs/performance.md") -> str:
    """`text` with every table put between its marks.

    Args:
        mark: what the marks of the document begin with.
        document: for messages.

    Raises:
        InputError: the text has no marks for a table, or marks for a table that does not exist.
    """
    marks, known = set(re.findall(rf"<!-- {mark}:(\w+) -->", text)), set(tables)
    if marks != known:
        odd = ", ".join(sorted(marks ^ known))
        raise InputError(f"the document and the benches do not agree on: {odd}", where=document,
                         allowed=f"marks for {', '.join(sorted(known))}")
    for name, table in tables.items():
        pattern = rf"(<!-- {mark}:{name} -->\n).*?(<!-- /{mark}:{name} -->)"
        text, count = re.subn(pattern, lambda found, t=table: f"{found[1]}{t}\n{found[2]}", text, flags=re.DOTALL)
        if count != 1:
            raise InputError(f"the mark '{name}' is not closed, or stands twice", where=document)
    return text


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]], tight: bool | None = None) -> str:
    """A Markdown table; a bar in a cell is escaped. Tight: without spaces around the bars, as long tables are."""
    tight = len(rows) > LONG if tight is None else tight
    escaped = ((str(cell).replace("|", "\\|") for cell in row) for row in (columns, *rows))
    start, between, end = ("|", "|", "|") if tight else ("| ", " | ", " |")
    first, *others = (f"{start}{between.join(cells)}{end}" for cells in escaped)
    return "\n".join([first, "|" + "---|" * len(columns), *others])
