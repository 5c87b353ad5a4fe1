"""ONNX Runtime: files in two forms that run in its integer kernels, and the integer arithmetic they must equal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

from torch import fx

from isobit.backends.base import BACKENDS, Derived
from isobit.backends.device.processor import read_cpuinfo, this_machine
from isobit.backends.device.standalone import standalone, write_predictor
from isobit.backends.device.timing import Contender
from isobit.backends.onnx.arithmetic import IntegerArithmetic
from isobit.backends.onnx.device import device_predictor, device_runner
from isobit.backends.onnx.emit import FORMS, Form, check_ports, emit_model, unsupported, without_kernels
from isobit.backends.onnx.metadata import add_metadata
from isobit.backends.onnx.profiles import DEFAULT_PROFILE, why_inexact, why_untimed
from isobit.backends.onnx.readback.read_back import read_back
from isobit.backends.onnx.rederive import rederive
from isobit.backends.onnx.session import LEVELS, OnnxPieces, OnnxSession, integer_ops, one_run
from isobit.backends.onnx.target import NAMES, TARGETS, targets
from isobit.pipeline.artifact.digest import RUNNER
from isobit.pipeline.artifact.manifest import PreprocessingEntry, package_versions
from isobit.pipeline.errors import TargetError
from isobit.pipeline.proof.arithmetic import Arithmetic, Pieces, Runner
from isobit.pipeline.proof.findings import ReadBack
from isobit.pipeline.samples.network_inputs import Inputs
from isobit.pipeline.stages import Reference
from isobit.pipeline.target import Target


class OnnxBackend:
    """`model.onnx` for ONNX Runtime 1.17 and newer, and the `run.py` that proves it on a device.

    Args:
        form: `qdq` (standard operators, integer kernels from level `extended` on) or `qoperator` (ONNX Runtime's own
            operators, integer kernels at every level).
    """

    profiles = tuple(TARGETS)
    levels = tuple(LEVELS)
    model_file = device_runner.MODEL
    device_needs = "numpy and onnxruntime"
    firmware: tuple[str, ...] = ()
    packages = ("onnx", "onnx-ir", "onnxruntime")
    tools: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    probes = True

    def __init__(self, form: Form) -> None:
        self.form: Form = form
        self.name = NAMES[form]
        self.gated_levels = self.levels if form == "qoperator" else ("all", "extended")

    def target(self, profile: str) -> Target:
        """The operator table.

        Raises:
            TargetError: this processor cannot prove the profile; better said before calibration than after it.
        """
        self.check(profile)
        return targets(self.form)[profile]

    def check(self, profile: str) -> None:
        reason = why_inexact(profile, this_machine(), read_cpuinfo())
        if reason:
            raise TargetError(
                f"an artifact for '{profile}' cannot be proven here: {reason}", field="options.profile",
                hint=f"Take `options.profile={DEFAULT_PROFILE}`, or build on a processor that has it.",
            )

    def unsupported(self, graph: fx.GraphModule, target: Target) -> Iterable[tuple[fx.Node, str]]:
        check_ports(graph)
        return [*unsupported(graph), *without_kernels(graph, target)]

    def emit(self, reference: Reference, folder: Path) -> list[Path]:
        model, runner = folder / self.model_file, folder / RUNNER
        emit_model(reference, model, self.form)
        runner.write_text(standalone(Path(device_runner.__file__)), encoding="utf-8")
        return [model, runner]

    def describe(self, folder: Path, preprocessing: PreprocessingEntry) -> None:
        add_metadata(folder / self.model_file, preprocessing.facts)
        write_predictor(folder, Path(device_predictor.__file__))

    def read_back(self, reference: Reference, folder: Path, preprocessing: PreprocessingEntry | None) -> ReadBack:
        facts = {} if preprocessing is None else preprocessing.facts
        return read_back(reference, folder / self.model_file, self.form == "qoperator", facts)

    def derive(self, folder: Path) -> Mapping[str, Derived]:
        return rederive(folder / self.model_file)

    def arithmetic(self, reference: Reference) -> Arithmetic:
        return IntegerArithmetic(reference)

    def open(self, folder: Path, level: str) -> Runner:
        return OnnxSession(folder / self.model_file, level)

    def pieces(self, folder: Path) -> Pieces | None:
        return OnnxPieces(folder / self.model_file)

    def untimed(self, profile: str) -> str:
        return why_untimed(profile, this_machine())

    def timed(self, folder: Path, sample: Inputs) -> Callable[[], object]:
        return one_run((folder / self.model_file).read_bytes(), sample)

    def contender(self, folder: Path, batch: int, threads: int) -> Contender:
        return device_runner.timed(folder, batch, threads)

    def timed_float(self, reference: Reference, sample: Inputs) -> Callable[[], object] | None:
        with TemporaryDirectory() as name:
            path = Path(name) / self.model_file
            emit_model(Reference(reference.quantized.teacher, reference.quantized), path)
            return one_run(path.read_bytes(), sample)

    def proof_samples(self, folder: Path) -> int | None:
        return None

    def finish(self, folder: Path) -> None:
        return

    def integer_ops(self, folder: Path) -> Mapping[str, Any]:
        return integer_ops(folder / self.model_file)

    def sizes(self, folder: Path) -> Mapping[str, int]:
        return {"model": (folder / self.model_file).stat().st_size}

    def versions(self) -> Mapping[str, str]:
        return package_versions("onnxruntime", "onnx", "onnx-ir")


for _form in FORMS:
    BACKENDS.register(NAMES[_form])(OnnxBackend(_form))
