"""Whether code that changed still writes the same artifacts: small builds by two checkouts, compared byte by byte.

    python tools/figures/canary.py OLDER_CHECKOUT

A change that moves no number (another name, another order of functions) leaves every figure true, but not the hash of
the code. Where all files of all builds are equal, docs/code.json gets a line that says so for each area that changed,
and figures that the older code measured count as those of the present one, unless they are times. Methods, ranges and
targets all take part; how a network is judged, and sweeps, do not.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT)]

import numpy as np
import torch

from isobit.pipeline.errors import InputError
from tools.code_state import AREAS, area_sha256, note_same
from tools.digits_model import DigitsNet

FEW = ("images.count=32", "images.batch_size=16")
STEPS = (*FEW, "method.steps=6")
# recipe, its edits, target; every family of methods, both ways to round, and every target.
BUILDS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("minmax_w8a8", FEW, "onnx"), ("mse_w4a8", FEW, "onnx-qoperator"), ("nearest_w2a2", FEW, "c"),
    ("mse_w8a8", FEW, "tvm"), ("mse_w4a4", FEW, "tvm"), ("mse_w8a8", FEW, "c"),
    ("adaround_w4a8", STEPS, "onnx"), ("qdrop_w4a4", STEPS, "onnx"), ("brecq_w2a4", STEPS, "onnx"),
    ("qdrop_w3a3", (*STEPS, "method.rounding={name: signsgd}"), "onnx"),
    ("pdquant_w2a2", (*STEPS, "method.correction_steps=6"), "onnx"), ("lsq_w4a4", STEPS, "onnx"),
    ("nearest-finish_w4a4", (*FEW, "finish.steps=6"), "onnx"),
    ("zeroq_w8a8", (*FEW, "images.batch=16", "images.iterations=4"), "onnx"),
    ("nearest_w4a8", (*FEW, "weights.bits={average: 3}"), "onnx"),
)
SHOWN = tuple(area for area in AREAS if area not in ("evaluation", "sweep"))  # what a build runs through
COMPARED = ("model.onnx", "model.c", "model.so", "golden.npz")
SEED = 7


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 1 where a file differs, 2 where a build fails."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("older", type=Path, metavar="OLDER_CHECKOUT")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where code.json is")
    options = parser.parse_args(arguments)
    changed = [area for area in SHOWN if area_sha256(area, options.older) != area_sha256(area)]
    if not changed:
        print("no area that builds run through changed")
        return 0
    try:
        differing = list(compare(options.older.resolve(), ROOT))
    except InputError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)
    for line in differing:
        print(line)
    if differing:
        return 1
    note_same(options.older, changed, options.docs)
    print(f"{len(BUILDS)} builds give the same files; noted for {', '.join(changed)}")
    return 0


def compare(older: Path, newer: Path) -> Iterator[str]:
    """A line for each build whose files are not the same by both checkouts."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_network(folder)
        for recipe, edits, target in BUILDS:
            before, after = (built(checkout, recipe, edits, target, folder) for checkout in (older, newer))
            if before != after:
                files = sorted(file for file in {*before, *after} if before.get(file) != after.get(file))
                yield f"{recipe} {' '.join(edits)} on {target}: {', '.join(files)} differ"


def write_network(folder: Path) -> None:
    """The digits' network with weights by chance, and samples by chance: what is learned does not matter here."""
    torch.manual_seed(SEED)
    torch.save(DigitsNet().state_dict(), folder / "model.pth")
    draw = np.random.default_rng(SEED)
    x = draw.standard_normal((48, 1, 8, 8)).astype(np.float32)
    np.savez(folder / "samples.npz", x=x, y=draw.integers(0, 10, 48))


def built(checkout: Path, recipe: str, edits: Sequence[str], target: str, folder: Path) -> Mapping[str, str]:
    """Hashes of the compared files of one build.

    Raises:
        InputError: it failed: two checkouts that fail alike have shown nothing.
    """
    out = folder / f"{recipe}-{target}-{hashlib.sha256(str((checkout, edits)).encode()).hexdigest()[:8]}"
    command = [
        sys.executable, str(checkout / "compile.py"), str(folder / "model.pth"),
        "--arch", f"{ROOT / 'tools' / 'digits_model.py'}:DigitsNet", "--recipe", recipe, "--target", target,
        *(part for edit in edits for part in ("--set", edit)), "--eval-data", str(folder / "samples.npz"),
        *(() if recipe.startswith("zeroq") else ("--calib-data", str(folder / "samples.npz"))), "--out", str(out),
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env={
        **os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(checkout)})
    if done.returncode != 0:
        raise InputError(f"the build of {recipe} on {target} failed: {done.stderr.strip()[-500:]}", where=str(checkout))
    return {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in COMPARED if (out / name).is_file()}


if __name__ == "__main__":
    sys.exit(main())
