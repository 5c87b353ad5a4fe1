"""The common part of every `run.py`: hashes before, the latency after, the verdict last.

Shipped inside each target's script (see `backends.standalone`): the standard library only, and the syntax of
Python 3.8.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path


def broken_files(folder: Path) -> list[str]:
    """Files of the manifest that are missing or have another hash."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    broken = []
    for name, entry in sorted(manifest["files"].items()):
        path = folder / name
        if not path.is_file():
            broken.append(name + ": missing")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
            broken.append(name + ": changed since it was built")
    return broken


def print_latency(infer: Callable[[], object], seconds: float) -> None:
    """Call `infer`, one inference at batch 1, for `seconds`, and say what the median call took."""
    for _ in range(5):
        infer()
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        infer()
        times.append(1000 * (time.perf_counter() - start))
    print(f"latency: {statistics.median(times):.3f} ms (median, one thread, batch 1)")


def verdict(check: Callable[[], list[str]]) -> int:
    """Print what `check` finds wrong, then PASS or FAIL; 0 where it is nothing, else 1. An error is a finding."""
    try:
        problems = check()
    except Exception as error:
        problems = [f"{type(error).__name__}: {error}"]
    for line in problems:
        print(line)
    print("FAIL" if problems else "PASS")
    return 1 if problems else 0
