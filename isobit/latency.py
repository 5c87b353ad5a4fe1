"""How long one inference takes: of an artifact beside the float network, and at each number of weight bits.

For a search what is deployed is timed, at all bits in turns. A layer's part is its share of the multiply-accumulates:
an estimate.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from isobit import passes
from isobit.backends.base import BACKENDS, Backend
from isobit.backends.device.processor import processor, read_cpuinfo, this_machine
from isobit.backends.device.replay import ON_DEVICE, CannotCheck
from isobit.backends.device.timing import interleave, milliseconds, ratios
from isobit.calib.calibrate import calibrate
from isobit.pipeline.artifact.timings import Latency
from isobit.pipeline.errors import TargetError
from isobit.pipeline.samples.network_inputs import Inputs, part
from isobit.pipeline.stages import Quantized, Reference

SAMPLES = 16  # that ranges are searched on: speed does not depend on them
NOISE = 0.05  # share by which times may differ by chance
FLOAT_RUNTIME = "onnx"  # the target whose runtime the float network runs in: every installation has it
ROUNDS, BLOCK = 15, 0.004  # of taking turns, and seconds of a turn at least
LONGEST = 0.2  # seconds of an inference that is timed


def beside_float(backend: Backend, folder: Path, reference: Reference, sample: Inputs) -> Latency:
    """The artifact and the float network in turns, a block of inferences each, `ROUNDS` times; both on one thread.

    Args:
        sample: [1, ...] of every input.

    Raises:
        CannotCheck: why a time that is measured here says nothing of the device, or takes too long.
    """
    if reason := backend.untimed(reference.quantized.target.profile):
        raise CannotCheck(reason)
    ours, before = backend.timed(folder, sample), BACKENDS.get(FLOAT_RUNTIME)
    given = before.timed_float(reference, sample)
    if given is None:
        raise CannotCheck(f"the target '{before.name}' does not run the network in float")
    for run in (given, ours):
        run()
        began = time.perf_counter()
        run()
        if time.perf_counter() - began > LONGEST:
            raise CannotCheck(f"an inference takes longer than {LONGEST} s; {ON_DEVICE}")
    times = interleave({"float": given, "ours": ours}, ROUNDS, BLOCK, time.thread_time)
    low, ratio, high = ratios(times["float"], times["ours"])
    versions = [next((f"{name} {number}" for name, number in each.versions().items() if name != "python"), each.name)
                for each in (backend, before)]
    return Latency(
        processor=processor_name(), runtime=versions[0], float_runtime=versions[1],
        artifact_ms=_rounded(times["ours"]), float_ms=_rounded(times["float"]),
        ratio=round(ratio, 3), low=round(low, 3), high=round(high, 3), rounds=ROUNDS,
    )


def processor_name() -> str:
    """What this machine calls its processor, for people."""
    return processor(read_cpuinfo()) or this_machine()


def _rounded(seconds: Sequence[float]) -> float:
    return float(f"{milliseconds(seconds)[1]:.4g}")


def measure_latencies(at_bits: Mapping[int, Quantized], images: Inputs) -> dict[int, float]:
    """Milliseconds of one sample by bits, measured in turns; the same number where they differ by no more than chance.

    Args:
        at_bits: the network with every open layer at these bits.
        images: [N, ...] of every input.

    Raises:
        TargetError: this machine does not run what the target builds, or cannot say how long it takes.
    """
    runs: dict[str, Callable[[], object]] = {}
    with ExitStack() as stack:
        for bits, quantized in at_bits.items():
            calibrated = calibrate(quantized, part(images, slice(SAMPLES)))
            backend = BACKENDS.get(quantized.target.name)
            backend.check(quantized.target.profile)
            folder = Path(stack.enter_context(TemporaryDirectory()))
            runs[str(bits)] = _run_of(backend, passes.legalize(calibrated)[0], folder, part(images, slice(1)))
        times = interleave(runs, ROUNDS, BLOCK, time.thread_time)
    return alike({bits: milliseconds(times[str(bits)])[1] for bits in at_bits})


def alike(found: Mapping[int, float]) -> dict[int, float]:
    """The times, with one number for those that lie within `NOISE` of the fastest of them."""
    groups: list[list[int]] = []
    for bits in sorted(found, key=lambda bits: found[bits]):
        if groups and found[bits] <= (1 + NOISE) * found[groups[-1][0]]:
            groups[-1].append(bits)
        else:
            groups.append([bits])
    of = {bits: statistics.median(found[each] for each in group) for group in groups for bits in group}
    return {bits: of[bits] for bits in found}


def _run_of(backend: Backend, reference: Reference, folder: Path, sample: Inputs) -> Callable[[], object]:
    """One inference of what is deployed."""
    if reason := backend.untimed(reference.quantized.target.profile):
        raise TargetError(f"this machine cannot say how long an artifact takes on the device: {reason}",
                          field="minimize", allowed="`minimize=size`, or a profile of this machine's processor")
    backend.emit(reference, folder)
    return backend.timed(folder, sample)
