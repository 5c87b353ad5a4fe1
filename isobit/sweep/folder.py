"""What a sweep keeps on disk: `cells/` holds artifacts alone, `work/` what each cell's builds left beside them.

    runs/cells/<cell>/          the artifact; the cell is done iff it stands
    runs/work/<cell>/           lease, log.txt, summary.json, attempts.jsonl, failed.json
    runs/index.jsonl, ...       made of the above, any number of times
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from isobit.pipeline.artifact.digest import MANIFEST
from isobit.pipeline.errors import InputError

FAILED, ATTEMPTS, LOG, SUMMARY = "failed.json", "attempts.jsonl", "log.txt", "summary.json"


@dataclass(frozen=True)
class Runs:
    """The folder of a sweep; several drivers may share it."""

    root: Path

    def make(self) -> None:
        """Raises InputError where it cannot be made, or not be written."""
        try:
            for folder in (self.root / "cells", self.root / "work"):
                folder.mkdir(parents=True, exist_ok=True)
                with TemporaryDirectory(dir=folder, prefix=".writable-"):
                    pass
        except OSError as error:
            raise InputError(f"the folder of the sweep cannot be written: {error.strerror}", where=str(self.root),
                             field="out") from error

    def artifact(self, cell: str) -> Path:
        """Where a cell's artifact goes."""
        return self.root / "cells" / cell

    def work(self, cell: str) -> Path:
        """Where a cell's builds leave everything else."""
        return self.root / "work" / cell

    def is_done(self, cell: str) -> bool:
        """Whether its artifact stands: a build puts it there whole, or not at all."""
        return (self.artifact(cell) / MANIFEST).is_file()

    def failure(self, cell: str) -> dict[str, Any] | None:
        """What went wrong in the last build that failed; None where none did, or the cell was built since."""
        try:
            found = json.loads((self.work(cell) / FAILED).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def failed_at(self, cell: str) -> int | None:
        """Tells one failure from the next; None where there is none."""
        try:
            return (self.work(cell) / FAILED).stat().st_mtime_ns
        except OSError:
            return None

    def fail(self, cell: str, stage: str, message: str, **more: Any) -> None:
        """Record a failure."""
        write_whole(self.work(cell) / FAILED, json.dumps({"stage": stage, "message": message, **more}, indent=1) + "\n")

    def forgive(self, cell: str) -> None:
        """The cell was built: what went wrong before is no result."""
        (self.work(cell) / FAILED).unlink(missing_ok=True)

    def note(self, cell: str, event: str, **facts: Any) -> None:
        """Append a line to the cell's `attempts.jsonl`; only who holds its lease writes there."""
        line = json.dumps({"event": event, "time": round(time.time(), 3), "pid": os.getpid(), **facts}) + "\n"
        with (self.work(cell) / ATTEMPTS).open("ab", buffering=0) as file:
            file.write(line.encode())

    def attempts(self, cell: str) -> list[Mapping[str, Any]]:
        """The lines of `attempts.jsonl`; half a line of a killed process is none."""
        try:
            lines = (self.work(cell) / ATTEMPTS).read_text(encoding="utf-8").splitlines()
        except OSError:
            return []
        found = []
        for line in lines:
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found


def write_whole(path: Path, text: str) -> None:
    """The text as that file, whole or not at all, whoever else writes it at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
