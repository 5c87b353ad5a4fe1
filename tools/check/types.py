"""Checks the types of the whole package: pyright in standard mode, without exceptions.

    python tools/check/types.py

The rooms at the top of the checkout are packages below `isobit` (`isobit.ROOMS`), which no type checker knows of a
checkout. So they are copied to where they will be installed, and what is found is told by the paths of the checkout.
Exit status 1 where anything is found.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from isobit import ROOMS

PLACE = ROOT / "build" / "types"
SETTINGS = {"typeCheckingMode": "standard", "pythonVersion": "3.11", "include": ["isobit"], "failOnWarnings": True}


def lay_out(root: Path, place: Path) -> None:
    """Copies the package of the checkout `root` to `place/isobit`, as an installation has it, and says how to check."""
    shutil.rmtree(place, ignore_errors=True)
    leave_out = shutil.ignore_patterns("__pycache__")
    shutil.copytree(root / "isobit", place / "isobit", ignore=leave_out)
    for room in ROOMS:
        shutil.copytree(root / room, place / "isobit" / room, ignore=leave_out)
    (place / "pyrightconfig.json").write_text(json.dumps(SETTINGS), encoding="utf-8")


def told_by_checkout(text: str, place: Path) -> str:
    """What the checker says, with the paths of the checkout for those of the copy."""
    inside = str(place / "isobit") + "/"
    for room in ROOMS:
        text = text.replace(f"{inside}{room}/", f"{room}/")
    return text.replace(inside, "isobit/")


def main() -> int:
    """Lays out, checks, tells; the checker's exit status."""
    lay_out(ROOT, PLACE)
    command = [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable, "--project", str(PLACE)]
    done = subprocess.run(command, capture_output=True, text=True)
    print(told_by_checkout(done.stdout + done.stderr, PLACE).strip())
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
