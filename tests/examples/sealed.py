"""Manifests that vouch for what lies in a folder, and golden numbers that a test changes under them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from isobit.pipeline.artifact.digest import DIGEST, MANIFEST, content_digest
from isobit.pipeline.artifact.manifest import file_table

DOCUMENTS = {
    "report.md": "# Report\n", "report.html": "<title>Report</title>", "facts.json": "{}", "frontier.svg": "<svg/>",
    "calibration.png": "no picture",
}


def seal(folder: Path, **facts: Any) -> None:
    """A manifest for the files as they are; of the rest it keeps what the folder's manifest said, or says `facts`."""
    known = {"target": {"name": "none", "profile": "generic"}, "tensors": []}
    if (folder / MANIFEST).is_file():
        known = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    files = {name: entry.model_dump() for name, entry in file_table(folder).items()}
    content = {**known, **facts, "files": files}
    (folder / MANIFEST).write_text(json.dumps({**content, DIGEST: content_digest(content)}), encoding="utf-8")


def change_golden(folder: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    """`change` the arrays of golden.npz in place, and seal the folder again."""
    with np.load(folder / "golden.npz", allow_pickle=False) as file:
        golden = dict(file)
    change(golden)
    np.savez(folder / "golden.npz", **golden)
    seal(folder)


def write_documents(folder: Path) -> None:
    """What people read, beside the rest."""
    for name, text in DOCUMENTS.items():
        (folder / name).write_text(text, encoding="utf-8")
