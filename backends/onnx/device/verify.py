"""Checks what a build certified of an artifact, on a machine without Isobit: `python verify.py FOLDER`.

Needs numpy and onnx (1.16 or newer). Hashes of all files, the rules that the build was held to, and of ONNX files the
sums and thresholds of layers between integers, worked out from the file anew. Prints PASS or FAIL as its last line and
exits with 0 or 1. It says nothing of who wrote the folder: that takes a signature.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isobit.backends.onnx.rederive import rederive
from isobit.pipeline.artifact.certificate import verify


def derive(folder: Path) -> Mapping[str, Any]:
    """What an ONNX file says of its layers; another target's files say nothing here."""
    path = folder / "model.onnx"
    return rederive(path) if path.is_file() else {}


def main() -> int:
    """0 where all that is certified holds, else 1."""
    if len(sys.argv) != 2:
        print((__doc__ or "").splitlines()[0])
        return 1
    try:
        said, problems = verify(Path(sys.argv[1]), derive)
    except ValueError as error:
        said, problems = [], [str(error)]
    for line in [*said, *problems]:
        print(line)
    print("FAIL" if problems else "PASS")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
