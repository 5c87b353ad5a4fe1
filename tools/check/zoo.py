"""Every network that must go through without per-model code: build each with random weights and prove its artifact.

    python tools/check/zoo.py [--size 96] [--recipe qdrop_w4a4] [--target onnx] [--write-docs] [NAME ...]

Torchvision networks with random weights and refreshed batch-norm statistics, min-max ranges and nearest rounding
(weights that nobody trained need no search and no reconstruction). What is shown is structure and parity, not accuracy:
how many regions run in integers, which stay in float and why, how many codes differ at each gated optimisation level.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torchvision

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from isobit.build import Build, Options, compile_model
from isobit.pipeline.errors import CompileError, ParityError
from isobit.pipeline.model.modelfile import LoadedModel
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.samples.data import open_data
from tools.bench.subjects import lively
from tools.documents import command_text, fill, markdown, write_json

NETWORKS = (
    "resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "mnasnet1_0", "efficientnet_b0",
    "shufflenet_v2_x0_5", "squeezenet1_1",
)
IMAGES, CALIBRATION = 16, 8
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "models.md"
COLUMNS = ("network", "recipe", "units", "integer", "layout", "float", "codes compared", "differing")


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


def row(name: str, recipe: str, target: str, size: int) -> dict[str, Any]:
    """What is known of one network: regions by where they run, codes, bytes of the model; an error is a row too."""
    about = {"network": name, "recipe": recipe}
    try:
        made, passed = build(name, recipe, target, size), True
    except ParityError as error:
        made, passed = error.build, False
    except CompileError as error:
        return {**about, "error": error.what}
    runs = [entry.runs for entry in made.placement]
    floats = [f"{entry.op}: {entry.note}" for entry in made.placement if entry.runs == "float"]
    gated = [level for level in made.parity.levels if level.gated]
    return {
        **about, "units": len(made.calibrated.quantized.units), "integer": runs.count("integer"),
        "layout": runs.count("layout"), "float": floats, "compared": made.parity.deployed.codes.compared,
        "differing": {level.level: level.codes.differing for level in gated}, "passed": passed,
        "bytes": made.manifest.sizes["model"],
    }


def cells(found: Mapping[str, Any]) -> tuple[str, ...]:
    """A row as words."""
    if "error" in found:
        return (found["network"], found["recipe"], *[""] * 5, f"not built: {found['error']}")
    differing = ", ".join(str(count) for count in dict.fromkeys(found["differing"].values()))
    return (
        found["network"], found["recipe"], *(str(found[key]) for key in ("units", "integer", "layout")),
        "; ".join(found["float"]) or "0", f"{found['compared']:,}",
        differing + ("" if found["passed"] else " (gate FAILED)"),
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
            print("  ".join(cells(rows[-1])), flush=True)
    if options.write_docs:
        command = command_text("tools/check/zoo.py", list(arguments if arguments is not None else sys.argv[1:]))
        content = numbers(command, rows)
        text = fill(DOCUMENT.read_text(encoding="utf-8"), tables(content), "zoo", "docs/models.md")
        write_json(DOCUMENT.with_suffix(".json"), content)
        DOCUMENT.write_text(text, encoding="utf-8")
    return int(not all(found.get("passed") for found in rows))


def numbers(command: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What docs/models.json holds: a network in a line."""
    about = "Every network of tools/check/zoo.py: regions by where they run, codes, those that differ by level, bytes."
    return {"about": about, "command": command, "networks": list(rows)}


def tables(content: Mapping[str, Any]) -> dict[str, str]:
    """The table of docs/models.md by the name of its mark; a recipe that all rows share is in the command alone."""
    rows = [COLUMNS, *(cells(found) for found in content["networks"])]
    if len({found["recipe"] for found in content["networks"]}) == 1:
        rows = [(name, *others) for name, _, *others in rows]
    return {"networks": f"`{content['command']}`:\n\n{markdown(rows[0], rows[1:])}"}


if __name__ == "__main__":
    sys.exit(main())
