"""Checks calibration on a device: how fast, how near the device's peak, in how much memory, and as good as on the CPU.

    python tools/devices.py --device cuda
    torchrun --nproc-per-node 4 tools/devices.py --device cuda

ResNet-18 at 224 with random weights under `qdrop_w4a4`, 32 images a step, ours and the plain loop of
`tools/bench/literal_qdrop.py`. Both run the whole network at two numbers of steps a unit; the difference is what steps
take, and gives the time at 20,000, which is extrapolated. The peak is what a large product of matrices attains. Under
torchrun our processes share the steps and the plain loop is left out. Writes JSON; prints what it measured.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT)]

import torch
from torchvision import models

from isobit import build as story
from isobit.backends.base import BACKENDS
from isobit.calib.calibrate import calibrate
from isobit.calib.cost import TRAINED, network_cost
from isobit.calib.methods.qdrop import PAPER_STEPS, QDropParameters
from isobit.calib.ranks import ALONE, Ranks, joined
from isobit.pipeline.graph.layers import Layers
from isobit.pipeline.model.modelfile import LoadedModel
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.stages import Quantized, UnitLog
from tools.bench.literal_qdrop import literal_qdrop
from tools.processor import cpu_name

RECIPE, TARGET, SEED = "qdrop_w4a4", "reference", 1005
OPERATIONS = 2  # a multiply-accumulate is two
PRODUCTS = {"cpu": 1024, "cuda": 8192}  # rows of the matrices whose product gives the peak
PRODUCT_SECONDS = 1.0
Loop = Callable[[Quantized, torch.Tensor], object]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = parse(arguments)
    with joined(options.device) as (ranks, device):
        found = measure(options, ranks, device)
    if ranks.leads:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print("\n".join(lines(found)))
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--arch", default="resnet18", help="torchvision's name")
    parser.add_argument("--size", type=int, default=224, help="height and width")
    parser.add_argument("--images", type=int, default=256, help="for calibration")
    parser.add_argument("--batch", type=int, default=32, help="images of a step")
    parser.add_argument("--steps", type=int, nargs=2, default=(50, 250), help="two numbers of steps a unit")
    parser.add_argument("--only-ours", action="store_true", help="no plain loop, and no CPU beside the device")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "devices.json")
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace, ranks: Ranks, device: str) -> dict[str, Any]:
    """Everything, by name."""
    torch.manual_seed(SEED)
    network = LoadedModel(models.get_model(options.arch, weights=None).eval(), None, options.arch, "", None)
    images = torch.randn(options.images, 3, options.size, options.size)
    plans = [plan(network, images[:1], options.batch, steps) for steps in options.steps]
    own: Loop = lambda quantized, images: calibrate(quantized, images, device=device, ranks=ranks)  # noqa: E731
    found: dict[str, Any] = {
        "device": name_of(device), "processes": ranks.world, "torch": torch.__version__, "network": options.arch,
        "size": options.size, "images": options.images, "batch": options.batch, "recipe": RECIPE,
        "units": len(plans[0].units), "threads": torch.get_num_threads(), "ours": timed(own, plans, images, device),
    }
    if ranks is ALONE and not options.only_ours:
        plain: Loop = lambda quantized, images: literal_qdrop(  # noqa: E731
            quantized, images, QDropParameters(**quantized.recipe.method.parameters), device)
        found["literal"] = timed(plain, plans, images, device)
        found["times_faster"] = found["literal"]["ms_per_step"] / found["ours"]["ms_per_step"]
    macs = network_cost(Layers(plans[0].calls)).macs * options.batch * TRAINED / len(plans[0].units) / ranks.world
    found["peak_tflops"] = peak(device) / 1e12
    found["share_of_peak"] = OPERATIONS * macs / (found["ours"]["ms_per_step"] / 1e3) / (found["peak_tflops"] * 1e12)
    if not options.only_ours:
        found["loss"] = beside_the_cpu(plans[0], images, device, ranks)
    return found


def plan(network: LoadedModel, example: torch.Tensor, batch: int, steps: int) -> Quantized:
    """The network under the recipe, rates as the paper's whatever the number of steps."""
    edits = [f"images.batch_size={batch}", f"method.steps={steps}", "method.schedule=paper", f"seed={SEED}"]
    return story.plan(network, load_recipe(RECIPE, edits), BACKENDS.get(TARGET), example)


def timed(loop: Loop, plans: Sequence[Quantized], images: torch.Tensor, device: str) -> dict[str, float]:
    """Seconds at both numbers of steps, milliseconds of a unit's step, hours at the paper's number, peak memory.

    The first run, of few steps, is not kept: it alone pays for what libraries prepare on their first call.
    """
    loop(plans[0], images)
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for quantized in plans:
        wait(device)
        begin = time.perf_counter()
        loop(quantized, images)
        wait(device)
        seconds.append(time.perf_counter() - begin)
    few, many = (quantized.recipe.method.parameters["steps"] for quantized in plans)
    per_step = max(seconds[1] - seconds[0], 1e-9) / (many - few)  # of all units
    return {
        "seconds": seconds[1], "ms_per_step": per_step / len(plans[0].units) * 1e3,
        "hours_at_paper_steps": (seconds[1] + per_step * (PAPER_STEPS - many)) / 3600,
        "peak_gb": (torch.cuda.max_memory_allocated() if device.startswith("cuda") else process_bytes()) / 1e9,
    }


def process_bytes() -> int:
    """The most that this process had in memory so far, model and images included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def wait(device: str) -> None:
    """Until the device has done what it was told."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def peak(device: str) -> float:
    """Operations a second of a product of large float32 matrices, whose factors may be TF32 as in convolutions."""
    rows = PRODUCTS[torch.device(device).type]
    left, right = torch.randn(2, rows, rows, device=device)
    best, end = float("inf"), time.perf_counter() + PRODUCT_SECONDS
    before, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, True
    while time.perf_counter() < end:
        wait(device)
        begin = time.perf_counter()
        torch.mm(left, right)
        wait(device)
        best = min(best, time.perf_counter() - begin)
    torch.backends.cuda.matmul.allow_tf32 = before
    return OPERATIONS * rows**3 / best


def beside_the_cpu(quantized: Quantized, images: torch.Tensor, device: str, ranks: Ranks) -> dict[str, float]:
    """Losses of all units added up, on the device and on the CPU: random masks differ, so learned ones are alike only.

    With nearest rounding the first unit knows of no mask and must agree.
    """
    there = calibrate(quantized, images, device=device, ranks=ranks).log
    here = ranks.first(lambda: calibrate(quantized, images).log)
    return {
        "device": total(there), "cpu": total(here), "ratio": total(there) / total(here),
        "first_unit_nearest_ratio": there[0].loss_nearest / here[0].loss_nearest,
    }


def total(log: Sequence[UnitLog]) -> float:
    """Losses after hardening, relative to those with nearest rounding, the mean over units."""
    return sum(unit.loss_hard / unit.loss_nearest for unit in log) / len(log)


def name_of(device: str) -> str:
    """What the GPU or the processor calls itself."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else cpu_name()


def lines(found: dict[str, Any]) -> list[str]:
    """What a person reads."""
    said = [f"{found['processes']} x {found['device']}: {found['network']} at {found['size']}, {found['batch']} images "
            f"a step, {found['units']} units"]
    for name in ("ours", "literal"):
        if name in found:
            row = found[name]
            said.append(f"{name}: {row['ms_per_step']:.3g} ms a step of a unit, {row['hours_at_paper_steps']:.3g} h at "
                        f"{PAPER_STEPS:,} steps (extrapolated), {row['peak_gb']:.3g} GB")
    if "times_faster" in found:
        said.append(f"ours is {found['times_faster']:.2f} times as fast a step")
    said.append(
        f"{100 * found['share_of_peak']:.1f} % of the {found['peak_tflops']:.3g} TFLOP/s of a product of matrices")
    if "loss" in found:
        loss = found["loss"]
        said.append(
            f"hardened / nearest loss, mean of units: {loss['device']:.4f}, on the CPU {loss['cpu']:.4f}; first unit's "
            f"nearest loss {loss['first_unit_nearest_ratio']:.6f} times the CPU's")
    return said


if __name__ == "__main__":
    sys.exit(main())
