"""How long one inference takes: of an artifact beside the float network, and at each number of weight bits.

For a search, what is timed is the session that parity uses: it hands out every quantized tensor as well, so it takes
longer than what is deployed, by as much at all bits. A layer's part is its share of the multiply-accumulates: an
estimate.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from isobit import passes
from isobit.backends.base import BACKENDS, Backend
from isobit.backends.device.processor import processor, read_cpuinfo, this_machine
from isobit.calib.calibrate import calibrate
from isobit.pipeline.artifact.timings import Latency
from isobit.pipeline.errors import TargetError
from isobit.pipeline.samples.network_inputs import Inputs, part
from isobit.pipeline.stages import Quantized, Reference

SAMPLES = 16  # that ranges are searched on: speed does not depend on them
WARM, RUNS = 3, 25
NOISE = 0.05  # share by which times may differ by chance
FLOAT_RUNTIME = "onnx"  # the target whose runtime the float network runs in: every installation has it
ROUNDS, BLOCK = 15, 0.004  # of taking turns, and seconds of a turn at least
LONGEST = 0.2  # seconds of an inference that is timed


def beside_float(backend: Backend, folder: Path, reference: Reference, sample: Inputs) -> Latency | None:
    """The artifact and the float network in turns, a block of inferences each, `ROUNDS` times.

    Args:
        sample: [1, ...] of every input.

    Returns:
        None where this machine cannot say how long the artifact takes, or an inference takes longer than `LONGEST`.
    """
    ours, before = backend.timed(folder, sample), BACKENDS.get(FLOAT_RUNTIME)
    given = None if ours is None else before.timed_float(reference, sample)
    if ours is None or given is None:
        return None
    counts = []
    for run in (given, ours):
        run()
        took = max(_seconds(run, 2), 1e-9)
        if took > LONGEST:
            return None
        counts.append(max(1, round(BLOCK / took)))
    rounds = [(_seconds(given, counts[0]), _seconds(ours, counts[1])) for _ in range(ROUNDS)]
    low, ratio, high = statistics.quantiles([one / other for one, other in rounds], n=4)
    versions = [next((f"{name} {number}" for name, number in each.versions().items() if name != "python"), each.name)
                for each in (backend, before)]
    return Latency(
        processor=processor_name(), runtime=versions[0], float_runtime=versions[1],
        artifact_ms=_milliseconds(other for _, other in rounds), float_ms=_milliseconds(one for one, _ in rounds),
        ratio=round(ratio, 3), low=round(low, 3), high=round(high, 3), rounds=ROUNDS,
    )


def processor_name() -> str:
    """What this machine calls its processor, for people."""
    return processor(read_cpuinfo()) or this_machine()


def _milliseconds(seconds: Iterable[float]) -> float:
    return float(f"{1000 * statistics.median(seconds):.4g}")


def _seconds(run: Callable[[], object], count: int) -> float:
    """How long one run takes, the median of `count`: another program's turn within them does not count."""
    times = []
    for _ in range(count):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def measure_latencies(at_bits: Mapping[int, Quantized], images: Inputs) -> dict[int, float]:
    """Milliseconds of one sample by bits; the same number for all where they differ by no more than chance.

    Args:
        at_bits: the network with every open layer at these bits.
        images: [N, ...] of every input.

    Raises:
        TargetError: this machine does not run what the target builds.
    """
    found: dict[int, float] = {}
    for bits, quantized in at_bits.items():
        calibrated = calibrate(quantized, part(images, slice(SAMPLES)))
        backend = BACKENDS.get(quantized.target.name)
        backend.check(quantized.target.profile)
        found[bits] = _latency(backend, passes.legalize(calibrated)[0], part(images, slice(1)))
    if max(found.values()) <= (1 + NOISE) * min(found.values()):
        return dict.fromkeys(found, statistics.median(found.values()))
    return found


def _latency(backend: Backend, reference: Reference, sample: Inputs) -> float:
    """Median milliseconds of one sample."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        backend.emit(reference, folder)
        if backend.proof_samples(folder) is not None:
            raise TargetError("the artifact's processor is emulated on this machine: times say nothing of the device",
                              field="minimize", allowed="`minimize=size`, or a profile of this machine's processor")
        session, times = backend.open(folder, backend.levels[0]), []
        for _ in range(WARM + RUNS):
            began = time.perf_counter()
            session.run(sample)
            times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times[WARM:])
