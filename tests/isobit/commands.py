"""What the tests of the command share: how it is called, what it leaves behind, and how a refusal looks."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
ARCH = f"{ROOT / 'tests' / 'examples' / 'tiny.py'}:Residual"
CLASSES, SAMPLES = 5, 12
SMALL = ("--set", "images.batch_size=4", "--set", "images.count=12")
FAST = ("--recipe", "minmax_w8a8", *SMALL)
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}  # of real processes
LEARN = ("--recipe", "qdrop_w4a4", *SMALL, "--set", "method.steps=400")
DISTILLED = ("images.source=distilled", "images.count=8", "images.batch=4", "images.iterations=20",
             "images.batch_size=4")


def setting(*texts):
    return tuple(part for text in texts for part in ("--set", text))


DATA_FREE = ("--recipe", "zeroq_w8a8", *setting(*DISTILLED))


def left_after(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refused(result, *texts, code=2):
    """The exit code, every text in the message, no traceback, nothing at --out."""
    assert result.exit_code == code, result.stderr + result.stdout + repr(result.exception)
    for text in texts:
        assert text in result.stderr, result.stderr
    assert "Traceback" not in result.stderr
    assert not [name for name in left_after(Path.cwd()) if name.startswith((".out", "out"))]
    return result.stderr


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the timings."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*")
            if path.is_file() and path.name != "timings.json"}
