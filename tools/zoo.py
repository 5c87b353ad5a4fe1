"""Every network that must go through without per-model code: build each with random weights and prove its artifact.

    python tools/zoo.py [--size 96] [--recipe qdrop_w4a4] [--target onnx] [--write-docs] [NAME ...]

Torchvision networks with random weights and refreshed batch-norm statistics, min-max ranges and nearest rounding
(weights that nobody trained need no search and no reconstruction). What is shown is structure and parity, not accuracy:
how many regions run in integers, which stay in float and why, how many codes differ at each gated optimisation level.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torchvision

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench_docs import command_text, markdown
from bench_subjects import lively

from compile import Build, Options, compile_model
from pipeline.data import open_data
from pipeline.errors import CompileError, ParityError
from pipeline.modelfile import LoadedModel
from pipeline.recipe import load_recipe

NETWORKS = (
    "resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "mnasnet1_0", "efficientnet_b0",
    "shufflenet_v2_x0_5", "squeezenet1_1",
)
IMAGES, CALIBRATION = 16, 8
DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "models.md"
COLUMNS = ("network", "recipe", "units", "integer", "layout", "float", "codes compared", "differing", "bytes")


def build(name: str, recipe_name: str, target: str, size: int) -> Build:
    """Build and prove one torchvision network on random images [IMAGES, 3, size, size].

    Raises:
        ParityError: a code differs; the build is in `.build`.
        CompileError: the network cannot be built.
    """
    loaded = LoadedModel(lively(lambda: getattr(torchvision.models, name)(weights=None), size), None, name, "", name)
    ranges = ["weights.range=minmax", "activations.range=minmax"]
    recipe = load_recipe(recipe_name, ["method={name: nearest}", f"images.batch_size={CALIBRATION}", *ranges])
    with tempfile.TemporaryDirectory() as folder:
        images = np.random.default_rng(1).standard_normal((IMAGES, 3, size, size), dtype=np.float32)
        np.savez(Path(folder) / "images.npz", x=images)
        calibration = open_data(Path(folder) / "images.npz", batch_size=CALIBRATION, purpose="calib", count=CALIBRATION)
        evaluation = open_data(Path(folder) / "images.npz", batch_size=CALIBRATION, purpose="eval")
        return compile_model(loaded, recipe, target, calibration, evaluation, Path(folder) / "out", Options())


def row(name: str, recipe: str, target: str, size: int) -> tuple[str, ...]:
    """One line of the table; an error is a line too."""
    try:
        made, verdict = build(name, recipe, target, size), ""
    except ParityError as error:
        made, verdict = error.build, " (gate FAILED)"
    except CompileError as error:
        return (name, recipe, "", "", "", "", "", f"not built: {error.what}", "")
    runs = [entry.runs for entry in made.placement]
    floats = [f"{entry.op}: {entry.note}" for entry in made.placement if entry.runs == "float"]
    gated = [level for level in made.parity.levels if level.gated]
    differing = ", ".join(f"{level.level} {level.codes.differing}" for level in gated)
    return (
        name, recipe, str(len(made.calibrated.quantized.units)), str(runs.count("integer")), str(runs.count("layout")),
        "; ".join(floats) or "0", f"{made.parity.deployed.codes.compared:,}", differing + verdict,
        f"{made.manifest.sizes['model']:,}",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table line by line; exit status 1 where a network was not built or a gate failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: {', '.join(NETWORKS)}")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--recipe", action="append", help="default: qdrop_w8a8 and qdrop_w4a4 (their bits)")
    parser.add_argument("--target", default="onnx")
    parser.add_argument("--write-docs", action="store_true")
    options = parser.parse_args(arguments)
    rows = []
    for recipe in options.recipe or ["qdrop_w8a8", "qdrop_w4a4"]:
        for name in options.names or NETWORKS:
            rows.append(row(name, recipe, options.target, options.size))
            print("  ".join(rows[-1]), flush=True)
    if options.write_docs:
        command = command_text("tools/zoo.py", list(arguments if arguments is not None else sys.argv[1:]))
        _, mark, rest = DOCUMENT.read_text(encoding="utf-8").partition("\n## ")  # what follows is written by hand
        DOCUMENT.write_text(_document(command, rows) + mark + rest, encoding="utf-8")
    return int(any("FAILED" in line[7] or "not built" in line[7] for line in rows))


def _document(command: str, rows: Sequence[tuple[str, ...]]) -> str:
    return (
        f"# Networks that go through without per-model code\n\n{__doc__.split(chr(10) * 2, 2)[2].strip()}\n\n"
        f"Output of `{command}`:\n\n{markdown(COLUMNS, rows)}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
