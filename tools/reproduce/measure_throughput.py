"""How fast this machine trains ResNet-20, beside what `calib/estimate.py` assumes of one.

    python tools/reproduce/measure_throughput.py [--threads 1,2] [--data ../shared/data]

A step is a batch of 32 through the float network, forwards and backwards with gradients of the weights, in
channels-last memory as calibration runs. Of several rounds the best counts, because other work on the machine can only
slow one down; on a busy machine the CPU time says more than the clock.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from isobit.calib.cost import TRAINED, Cost, network_cost
from isobit.calib.estimate import CPU_GMACS, CPU_VALUES, THREADS_EXPONENT
from isobit.pipeline.capture.capture import capture
from isobit.pipeline.graph.calls import Calls
from isobit.pipeline.graph.layers import Layers
from isobit.pipeline.graph.nodes import record_shapes
from isobit.pipeline.model.modelfile import load_model
from tools.bench.rows import RESNET
from tools.processor import cpu_name
from tools.reproduce.study import models

BATCH, STEPS, ROUNDS = 32, 3, 4


def step_seconds(model: nn.Module, images: torch.Tensor, threads: int) -> tuple[float, float]:
    """(wall, CPU) seconds of one training step, each the best of `ROUNDS` rounds of `STEPS`."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        wall, cpu = zip(*(_round(model, images) for _ in range(ROUNDS)), strict=True)
        return min(wall), min(cpu)
    finally:
        torch.set_num_threads(before)


def _round(model: nn.Module, images: torch.Tensor) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(STEPS):
        model.zero_grad(set_to_none=True)
        model(images).square().mean().backward()
    return (time.perf_counter() - wall) / STEPS, (time.process_time() - cpu) / STEPS


def step_cost(model: nn.Module, shape: Sequence[int]) -> Cost:
    """What one such step is."""
    graph = capture(model, torch.zeros(1, *shape)).graph
    record_shapes(graph)
    return network_cost(Layers(Calls(graph))) * (BATCH * TRAINED)


def row(cost: Cost, threads: int, wall: float, cpu: float) -> str:
    """A line of the output: what was measured, and what a step of calibration is assumed to take."""
    assumed = (cost.macs / CPU_GMACS + cost.values / CPU_VALUES) / 1e9 / threads**THREADS_EXPONENT
    return (f"{threads} thread(s): {1000 * wall:.0f} ms a step ({1000 * cpu:.0f} ms of CPU time), "
            f"{cost.macs / wall / 1e9:.0f} GMAC/s; a step of calibration is assumed to take {1000 * assumed:.0f} ms")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each number of threads."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", default="1,2", help="separated by commas")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    options = parser.parse_args(arguments)
    network = models(options.data)[RESNET]
    model = load_model(Path(network["file"]), network["arch"]).module
    images = torch.zeros(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    cost = step_cost(model, images.shape[1:])
    model = model.to(memory_format=torch.channels_last).requires_grad_(True)
    print(f"{cpu_name()}, torch {torch.__version__}, ResNet-20, batch {BATCH}: {cost.macs / 1e9:.2f} GMAC a step")
    for threads in map(int, options.threads.split(",")):
        print(row(cost, threads, *step_seconds(model, images, threads)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
