"""A distribution that is not there: an entry point of any group, and a module on disk that it names."""

from __future__ import annotations

import importlib
import sys
from importlib import metadata
from pathlib import Path

import pytest

from isobit.pipeline import registry


def install(
    monkeypatch: pytest.MonkeyPatch, folder: Path, group: str, name: str, text: str, entries: registry.Registry,
) -> None:
    """Fake an installed distribution `throw-away` that adds one entry; all is as before when the test ends.

    Args:
        folder: for its module.
        group, name: of the entry point.
        text: of the module that registers `name`.
        entries: where it does so.
    """
    module = f"throw_away_{name}"
    info = folder / "throw_away-1.2.dist-info"
    info.mkdir(exist_ok=True)
    (folder / f"{module}.py").write_text(text, encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: throw-away\nVersion: 1.2\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    importlib.invalidate_caches()
    assert name in {point.name for point in metadata.entry_points(group=group)}
    # Set for monkeypatch, which takes both out when the test ends; taken out now, so that the module can be imported.
    for table, key in ((sys.modules, module), (entries._entries, name)):
        if key not in table:
            monkeypatch.setitem(table, key, None)
            del table[key]
