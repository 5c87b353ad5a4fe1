"""How long one inference takes at each number of weight bits, measured here; and each layer's part of it.

What is timed is the session that parity uses: it hands out every quantized tensor as well, so it takes longer than what
is deployed, by as much at all bits. A layer's part is its share of the multiply-accumulates: an estimate.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from isobit import passes
from isobit.backends.base import BACKENDS, Backend
from isobit.calib.calibrate import calibrate
from isobit.pipeline.errors import TargetError
from isobit.pipeline.samples.network_inputs import Inputs, part
from isobit.pipeline.stages import Quantized, Reference

SAMPLES = 16  # that ranges are searched on: speed does not depend on them
WARM, RUNS = 3, 25
NOISE = 0.05  # share by which times may differ by chance


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
