"""Prints a model's graph at a stage: captured from PyTorch, prepared (canonical, batch norm folded), or quantized.

For every node: operator, inputs, shape, module; once quantized also bits, grid and unit, as annotate decided them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

import torch
from rich.console import Console
from rich.table import Table
from torch import fx

from isobit import build as story
from isobit.backends.base import BACKENDS
from isobit.pipeline.errors import CompileError, ExitCode
from isobit.pipeline.graph.calls import Call, Calls
from isobit.pipeline.graph.nodes import source_line
from isobit.pipeline.model.modelfile import load_model
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.stages import Quantized, Unit

STAGES = ("captured", "prepared", "quantized")


def graph_at(quantized: Quantized, stage: str) -> fx.GraphModule:
    """The graph as it stands at one of `STAGES`."""
    return {"captured": quantized.captured.graph, "prepared": quantized.teacher, "quantized": quantized.graph}[stage]


def rows(graph: fx.GraphModule, units: Sequence[Unit] = ()) -> list[tuple[str, ...]]:
    """A line per node: name, operator, inputs, shape, grid, unit, module, source; parameters are left out."""
    unit_of = {name: unit.name for unit in units for name in unit.nodes}
    return [
        (call.name, call.op or call.node.op, ", ".join(source.name for source in call.sources),
         "x".join("N" if size is None else str(size) for size in call.shape), grid_text(call),
         unit_of.get(call.name, ""), call.module, source_line(call.node))
        for call in Calls(graph) if call.node.op not in ("get_attr", "output")
    ]


def grid_text(call: Call) -> str:
    """`4 bits 0..15, asymmetric` for a quantizer, empty for other nodes."""
    if call.bias_quantizer is not None:
        return "int32"
    quantizer = call.quantizer
    if quantizer is None:
        return ""
    grid, spec = quantizer.spec.grid, quantizer.spec
    channels = ", per channel" if spec.axis is not None else ""
    fixed = f", fixed scale {float(quantizer.scale):.6g}" if quantizer.fixed else ""
    kind = "symmetric" if spec.symmetric else "asymmetric"
    return f"{grid.bits} bits {grid.qmin}..{grid.qmax}, {kind}{channels}{fixed}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code of `compile.py` for the same fault."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--arch", help="as for compile.py")
    parser.add_argument("--recipe", default="qdrop_w4a4")
    parser.add_argument("--target", default="onnx")
    parser.add_argument("--device-profile")
    parser.add_argument("--stage", choices=STAGES, default="quantized")
    parser.add_argument("--input-shape", type=lambda text: [int(size) for size in text.split(",")],
                        default=[3, 224, 224], help="channels,height,width; default 3,224,224")
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 200)
    try:
        loaded, recipe = load_model(options.model, options.arch), load_recipe(options.recipe)
        example = torch.zeros(1, *options.input_shape)
        quantized = story.plan(loaded, recipe, BACKENDS.get(options.target), example, options.device_profile)
    except CompileError as error:
        console.print(str(error), markup=False)
        return error.exit_code
    table = Table("node", "operator", "inputs", "shape", "grid", "unit", "module", "source")
    for row in rows(graph_at(quantized, options.stage), quantized.units if options.stage == "quantized" else ()):
        table.add_row(*row)
    console.print(table)
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
