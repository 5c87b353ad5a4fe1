"""What a build is told and what it returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from isobit.backends.placement import PlacementRow
from isobit.calib.ranks import ALONE, Ranks
from isobit.pipeline.artifact.manifest import Manifest
from isobit.pipeline.artifact.timings import Latency
from isobit.pipeline.errors import ParityError
from isobit.pipeline.proof.parity import ParityReport
from isobit.pipeline.samples.batching import BUDGET
from isobit.pipeline.samples.decoder import Decoder
from isobit.pipeline.stages import Calibrated, EpochLog


@dataclass(frozen=True)
class Options:
    """How to build; what does not change numbers.

    Args:
        profile: device profile of the target; None for its default.
        device: where calibration and float evaluation run.
        overwrite: replace an artifact that stands at `out`.
        checkpoints: folder of per-unit checkpoints; None for none.
        resume: continue from them.
        max_drop: most that float -> artifact may lose of the first metric, in its unit; top-1 points where none is
            named; None for no accuracy gate.
        parity_samples: how many samples the levels other than the deployed one see; None for all.
        memory: bytes that batches keep to, beside the model, the samples and one unit's caches.
        outputs: names of the network's outputs to keep; none for all.
        allow_float: operators that the target has no integer kernel for may be computed in float by a target that
            asks for this; others do so, or never do.
        cut: names of places at which integers end, as the plan prints them, or `none` for nowhere; without any, what
            decodes answers at the outputs is found.
        decoder: finds boxes or a text in the outputs; a copy of its file goes with the artifact.
        metrics: names of what is measured of every stage, or `path/to/file.py:function_or_class`.
        latency: measure how long an inference takes beside the float network, for `timings.json`.
        ranks: the processes that calibrate together (`calib.ranks.joined`); on all but the first a build raises
            `Served` when it is calibrated.
        command: words of the command line that repeats the build, for the report; none where there was none.
    """

    profile: str | None = None
    device: str = "cpu"
    overwrite: bool = False
    checkpoints: Path | None = None
    resume: bool = False
    max_drop: float | None = None
    parity_samples: int | None = 1000
    memory: float = BUDGET
    outputs: tuple[str, ...] = ()
    decoder: Decoder | None = None
    allow_float: bool = False
    cut: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    latency: bool = False
    ranks: Ranks = ALONE
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class Build:
    """What a build returns: where the artifact lies and everything that its report says.

    `trainings` holds the epochs of what was trained as a whole, by what that was.
    `folder` is the one asked for, or `<out>-failed` where the gate failed.
    """

    folder: Path
    parity: ParityReport
    manifest: Manifest
    placement: list[PlacementRow]
    calibrated: Calibrated
    notes: list[str] = field(default_factory=list)
    trainings: dict[str, list[EpochLog]] = field(default_factory=dict)
    latency: Latency | None = None

    @property
    def passed(self) -> bool:
        return self.parity.passed


class GateFailed(ParityError):
    """The artifact was built and measured, and a rule of the gate does not hold; `build` says all about it."""

    def __init__(self, build: Build, out: Path) -> None:
        failed = [rule for rule in build.parity.gate if not rule.passed]
        first = build.parity.to_json()["first_divergence"]
        super().__init__(
            "; ".join(rule.text for rule in failed),
            where=f"first differing tensor {first['tensor']} ({first['module']})" if first else "",
            hint=f"nothing was written to {out}; the failed artifact and its parity.json are in {build.folder}",
        )
        self.build = build
