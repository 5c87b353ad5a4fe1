"""Where an artifact stops computing what it was proven to compute: the first region that differs on the same inputs.

Every region of the integer arithmetic is given the codes that the runtime itself computed before it, so a
difference is reported where it arises and not in everything after it. Networks whose float weights or biases the
recipe changed (`mse_*`) cannot be restored from model and manifest, and are refused.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from isobit.backends.base import BACKENDS
from isobit.backends.regions import Region
from isobit.pipeline.errors import CompileError, ExitCode
from isobit.pipeline.model.modelfile import load_model
from isobit.pipeline.proof.arithmetic import Runner
from isobit.pipeline.proof.counts import CodeCount
from isobit.pipeline.proof.parity import LOGITS
from tools.check.restore import restore


@dataclass(frozen=True)
class Finding:
    """One quantized tensor: `own` counts against the arithmetic on the runtime's own inputs, `travelled` end to end."""

    name: str
    region: Region | None
    own: CodeCount
    travelled: CodeCount


def per_region(arithmetic: Runner, session: Runner, x: Tensor) -> list[Finding]:
    """Every quantized tensor in execution order, then the logits: how many differ in any bit, without a size.

    Args:
        arithmetic: the ONNX backend's, which can start each region from observed codes.
        session: of the artifact.
        x: float32 [N, C, H, W].
    """
    got = session.run(x)
    observed = {name: torch.from_numpy(np.asarray(codes)) for name, codes in got.items() if name != LOGITS}
    own = {name: value.numpy() for name, value in arithmetic.execution.run(x, observed).items()}
    end_to_end = arithmetic.run(x)
    regions = {r.quantizer.name: r for r in arithmetic.execution.regions if r.quantizer is not None}
    return [
        Finding(name, regions.get(name), _count(own[name], got[name]), _count(end_to_end[name], got[name]))
        for name in end_to_end
    ]


def _count(expected: np.ndarray, got: np.ndarray) -> CodeCount:
    if expected.dtype == np.float32:
        return CodeCount(expected.size, int(np.count_nonzero(expected.view(np.int32) != got.view(np.int32))))
    count = CodeCount()
    count.add(expected, got)
    return count


def show(findings: Sequence[Finding], level: str, console: Console) -> bool:
    """Print what differs; True where nothing does."""
    differing = [finding for finding in findings if finding.own.differing or finding.travelled.differing]
    if not differing:
        console.print(f"level '{level}': no code differs, in {len(findings)} tensors")
        return True
    first = next((finding for finding in differing if finding.own.differing), differing[0])
    place = f" ({first.region.kind} of {first.region.module or 'the input'})" if first.region else ""
    console.print(f"level '{level}': the first region that differs on the same inputs is {first.name}{place}: "
                  f"{first.own.differing} of {first.own.compared}, by up to {first.own.max_lsb} codes")
    table = Table("tensor", "operator", "module", "on the same inputs", "by up to", "end to end", "by up to")
    for finding in differing:
        kind, module = (finding.region.kind, finding.region.module) if finding.region else ("", "")
        table.add_row(finding.name, kind, module, str(finding.own.differing), str(finding.own.max_lsb),
                      str(finding.travelled.differing), str(finding.travelled.max_lsb))
    console.print(table)
    return False


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 where nothing differs, 1 where something does, 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("model", type=Path, help="the model file that it was built from")
    parser.add_argument("--arch", help="as for compile.py")
    parser.add_argument("--data", type=Path, help=".npz with x; default: the artifact's golden inputs")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--level", action="append", help="of optimisation, repeatable; default: the deployed one")
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160)
    try:
        reference = restore(options.artifact, load_model(options.model, options.arch))
        backend = BACKENDS.get(reference.quantized.target.name)
        x = _samples(options.data or options.artifact / "golden.npz", options.samples)
        arithmetic = backend.arithmetic(reference)
        levels = options.level or backend.levels[:1]
        same = [show(per_region(arithmetic, backend.open(options.artifact, level), x), level, console)
                for level in levels]
    except CompileError as error:
        console.print(str(error), markup=False)
        return error.exit_code
    return ExitCode.OK if all(same) else ExitCode.GATE_FAILED


def _samples(path: Path, count: int) -> Tensor:
    with np.load(path, allow_pickle=False) as file:
        arrays: Mapping[str, np.ndarray] = {key: file[key] for key in ("x", "input") if key in file}
    return torch.from_numpy(next(iter(arrays.values()))[:count].astype(np.float32))


if __name__ == "__main__":
    sys.exit(main())
