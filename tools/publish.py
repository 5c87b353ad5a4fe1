"""Writes what a tool measured: the numbers beside a document, by which code, and the document's tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.code_state import note_state
from tools.documents import fill, write_json


def publish(document: Path, content: Mapping[str, Any], tables: Mapping[str, str], mark: str = "bench",
            parts: bool = False, numbers: Path | None = None) -> None:
    """Write `content` as JSON, and the tables that were made of it between the marks of `document`.

    The hash of the code that measured goes into the JSON, and what it stands for into docs/code.json. The sentence
    about the age of figures is written by `tools/figures/figures.py --write`.

    Args:
        parts: `content` was not measured as a whole; its parts name their code themselves.
        numbers: the JSON file; the one with the document's name beside it where nothing is said.

    Raises:
        InputError: as of `tools.documents.fill`; nothing was written.
    """
    text = fill(document.read_text(encoding="utf-8"), tables, mark, f"docs/{document.name}")
    code = note_state(document.parent)
    write_json(numbers or document.with_suffix(".json"), content if parts else {**content, "code": code})
    document.write_text(text, encoding="utf-8")
