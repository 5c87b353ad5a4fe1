"""How long a build will take, said before it starts: within a factor of two.

What is done is stated by the methods and sources themselves (`cost=` where they are registered); here it is divided by
how fast. The two constants of the CPU solve two measured equations: QDrop's time for a step on ResNet-20 (0.11 s, 32
images, one thread) and on the DS-CNN (0.026 s), docs/results.md. Other machines are as much slower or faster as the two
probes of `calib.machine` are. A GPU's figure is of an H200, which was 35 times as fast as one thread at 300 steps a
unit of ResNet-20, and 470 times at 20,000 of ResNet-18 (`tools/devices.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from isobit.calib.cost import Cost, facts_of, proof_cost
from isobit.calib.machine import Machine
from isobit.calib.methods import find_method
from isobit.calib.mixed_precision.allocation import allocation_cost
from isobit.calib.sources import Maker, find_source
from isobit.calib.training.finish import finish_cost
from isobit.pipeline.recipe.budget import BitBudget
from isobit.pipeline.stages import Quantized

CPU_GMACS = 77.0  # 10^9 multiply-accumulates a second, one thread
CPU_VALUES = 0.30  # 10^9 values a second, one thread
# What the probes measured in CPU time on an AMD EPYC (AVX-512), where these constants hold within a factor of 1.3.
REFERENCE = Machine(gmacs=102.0, gvalues=0.123, threads=1)
THREADS_EXPONENT = 0.75  # two threads are 1.7 times as fast as one
GPU_TIMES = 35.0  # as fast as one thread of that CPU
_GPU = f"{GPU_TIMES:g} times one thread of an AMD EPYC, measured on an H200, others were not"


@dataclass(frozen=True)
class Estimate:
    """Args:
    cost: of making the images, of allocating bits and of calibrating.
    threads: of the CPU.
    cpu_s: seconds.
    gpu_s: the same on a GPU.
    proof_s: of comparing the evaluation samples, on the CPU always; None where their number is not known.
    assumed: how many calibration images the time is for, where nobody counted any.
    """

    cost: Cost
    threads: int
    cpu_s: float
    gpu_s: float
    proof_s: float | None = None
    assumed: int | None = None

    @property
    def text(self) -> str:
        """One line for people."""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        proof = "" if self.proof_s is None else f"; the proof about {spoken(self.proof_s)}"
        images = "" if self.assumed is None else f", {self.assumed:,} calibration images assumed"
        gpu = f"; a GPU about {spoken(self.gpu_s)} ({_GPU})"
        return (f"expected: about {spoken(self.cpu_s)} on this CPU ({threads}{images})"
                f"{gpu if torch.cuda.is_available() else ''}{proof}")

    def to_json(self) -> dict[str, Any]:
        """For a script."""
        return {
            "cpu_seconds": round(self.cpu_s, 1), "threads": self.threads, "gpu_seconds": round(self.gpu_s, 1),
            "gpu": _GPU, "multiply_accumulates": self.cost.macs,
            "proof_seconds": None if self.proof_s is None else round(self.proof_s, 1),
        }


def estimate(
    quantized: Quantized, images: int | None = None, threads: int | None = None, machine: Machine | None = None,
    samples: int | None = None,
) -> Estimate:
    """What the recipe of `quantized` will take.

    Args:
        images: how many calibration images there are; None before any was counted: what the recipe asks for, and
            where it leaves the number to labelled data, one for each class.
        threads: of the CPU; None for those of this process.
        machine: how fast the CPU is; None for the one that the constants were measured on.
        samples: of the evaluation; None where their number is not known.
    assumed: how many calibration images the time is for, where nobody counted any.
    """
    recipe = quantized.recipe
    source, wishes = find_source(recipe.images)
    makes = isinstance(source, Maker)
    assumed = None
    if images is None:
        images = assumed = recipe.images.count or (0 if makes else quantized.captured.num_classes)
    method, parameters = find_method(recipe.method)
    facts = facts_of(quantized, images)
    cost = method.costs(parameters, facts) + finish_cost(recipe.finish, facts)
    cost += source.cost(wishes, facts) if makes else Cost()
    if isinstance(recipe.weights.bits, BitBudget):
        cost += allocation_cost(recipe.weights.bits, facts)
    threads = threads or torch.get_num_threads()
    proof = None if samples is None else seconds(proof_cost(quantized, samples), threads, machine)
    return replace(timed(cost, threads, machine), proof_s=proof, assumed=assumed or None)


def timed(cost: Cost, threads: int | None = None, machine: Machine | None = None) -> Estimate:
    """What work of this cost will take; arguments as of `estimate`."""
    threads = threads or torch.get_num_threads()
    cpu = seconds(cost, threads, machine)
    return Estimate(cost, threads, cpu, seconds(cost, 1, None) / GPU_TIMES)


def seconds(cost: Cost, threads: int, machine: Machine | None = None) -> float:
    """The time that work of this cost takes on the CPU."""
    speed = (machine or REFERENCE).at(threads, THREADS_EXPONENT)
    macs = cost.macs / CPU_GMACS * REFERENCE.gmacs / speed.gmacs
    return (macs + cost.values / CPU_VALUES * REFERENCE.gvalues / speed.gvalues) / 1e9


def spoken(seconds: float) -> str:
    """`40 s`, `12 min`, `5 h`, `3 days`: as exact as the estimate is."""
    for unit, length, most in (("s", 1.0, 90.0), ("min", 60.0, 90.0), ("h", 3600.0, 48.0)):
        if seconds < most * length:
            return f"{max(1, round(seconds / length))} {unit}"
    return f"{round(seconds / 86400)} days"
