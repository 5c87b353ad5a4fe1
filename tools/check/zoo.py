"""Every network that must go through without per-model code: build each with random weights and prove its artifact.

    python tools/check/zoo.py [--size N] [--recipe minmax_w8a8] [--target onnx] [--allow-float] [--through-onnx]
        [--write-docs] [NAME]

The networks of `networks.py`: random weights with refreshed batch-norm statistics, min-max ranges and nearest rounding
(weights that nobody trained need no search and no reconstruction). What is shown is structure, parity and the distance
of the first output from float, not accuracy: how many regions run in integers, which stay in float and why, how many
codes differ at each gated optimisation level. Beside the distance stands what the float network itself makes of inputs
that are disturbed by 40 dB: random weights and batch norm make small errors large. `--through-onnx` exports each with
torch.onnx and compiles that file.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from isobit.build import Build, Options, compile_model
from isobit.pipeline.errors import CompileError, ParityError
from isobit.pipeline.model.modelfile import LoadedModel, load_model
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.samples.data import open_data
from isobit.pipeline.samples.inputs import wanted_inputs
from tools.check.networks import NETWORKS, Network
from tools.documents import command_text, markdown
from tools.publish import publish

IMAGES, CALIBRATION = 16, 8
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "models.md"
COLUMNS = (
    "network", "recipe", "units", "integer", "layout", "float", "codes compared", "differing", "dB", "float at 40 dB",
)


def through_onnx(network: Network, size: int | None, path: Path) -> LoadedModel:
    """The network as torch.onnx writes it with a free batch, opened from the file again."""
    arrays = network.samples(2, size)
    names = [name or "input" for name in arrays]
    axes = {name: {0: "N"} for name in names}
    example = tuple(torch.from_numpy(x) for x in arrays.values())
    torch.onnx.export(network.lively(size), example, str(path), input_names=names, dynamic_axes=axes, dynamo=False)
    return load_model(path)


def build(
    name: str, recipe_name: str, target: str, size: int | None, onnx: bool = False, allow_float: bool = False,
) -> Build:
    """Build and prove one network on `IMAGES` random samples.

    Raises:
        ParityError: a code differs; the build is in `.build`.
        CompileError: the network cannot be built.
    """
    network = NETWORKS[name]
    ranges = ["weights.range=minmax", "activations.range=minmax"]
    recipe = load_recipe(recipe_name, ["method={name: nearest}", f"images.batch_size={CALIBRATION}", *ranges])
    with tempfile.TemporaryDirectory() as folder:
        if onnx:
            loaded = through_onnx(network, size, Path(folder) / "network.onnx")
        else:
            loaded = LoadedModel(network.lively(size), None, name, "", name)
        images = Path(folder) / "images.npz"
        arrays: dict[str, Any] = {key or "x": array for key, array in network.samples(IMAGES, size).items()}
        np.savez(images, **arrays)
        wanted = wanted_inputs(loaded)
        calibration = open_data(
            images, batch_size=CALIBRATION, purpose="calib", count=CALIBRATION, wanted=wanted
        )
        evaluation = open_data(images, batch_size=CALIBRATION, purpose="eval", wanted=wanted)
        options = Options(allow_float=allow_float)
        return compile_model(loaded, recipe, target, calibration, evaluation, Path(folder) / "out", options)


def row(
    name: str, recipe: str, target: str, size: int | None, onnx: bool = False, allow_float: bool = False,
) -> dict[str, Any]:
    """What is known of one network: regions by where they run, codes, bytes of the model; an error is a row too."""
    about, start = {"network": name, "recipe": recipe}, time.monotonic()
    try:
        made, passed = build(name, recipe, target, size, onnx, allow_float), True
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
        "decibel": None if made.parity.answers is None else made.parity.answers.signal_to_noise["artifact"],
        "steadiness": NETWORKS[name].steadiness(size), "bytes": made.manifest.sizes["model"],
        "seconds": round(time.monotonic() - start, 1),
    }


def cells(found: Mapping[str, Any]) -> tuple[str, ...]:
    """A row as words."""
    if "error" in found:
        return (found["network"], found["recipe"], *[""] * 7, f"not built: {found['error']}")
    kinds = Counter(note.partition(":")[0] for note in found["float"])
    floats = "; ".join(f"{count} {op}" for op, count in kinds.items())
    differing = ", ".join(str(count) for count in dict.fromkeys(found["differing"].values()))
    return (
        found["network"], found["recipe"], *(str(found[key]) for key in ("units", "integer", "layout")),
        floats or "0", f"{found['compared']:,}", differing + ("" if found["passed"] else " (gate FAILED)"),
        *(f"{found[key]:.1f}" if found.get(key) is not None else "" for key in ("decibel", "steadiness")),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table line by line; exit status 1 where a network was not built or a gate failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: {', '.join(NETWORKS)}")
    parser.add_argument("--size", type=int, help="of images; default: the network's own")
    parser.add_argument("--recipe", action="append", help="whose bits are taken; default: minmax_w8a8")
    parser.add_argument("--through-onnx", action="store_true", help="export each network and compile that file")
    parser.add_argument("--target", default="onnx")
    parser.add_argument("--allow-float", action="store_true", help="operators without an integer kernel run in float")
    parser.add_argument("--write-docs", action="store_true")
    options = parser.parse_args(arguments)
    rows = []
    for recipe in options.recipe or ["minmax_w8a8"]:
        for name in options.names or NETWORKS:
            rows.append(row(
                name, recipe, options.target, options.size, options.through_onnx, options.allow_float))
            print("  ".join(cells(rows[-1])), f"{rows[-1].get('seconds', '')} s", flush=True)
    if options.write_docs:
        command = command_text("tools/check/zoo.py", list(arguments if arguments is not None else sys.argv[1:]))
        content = numbers(command, rows)
        publish(DOCUMENT, content, tables(content), "zoo")
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
