"""Other tools that make a network fast, where they are installed: what a user would take in our place.

Each starts from a float ONNX file and calibrates on random inputs: codes do not change its time.
"""

from __future__ import annotations

import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from isobit.backends.device.inputs import random_inputs, runs_of
from isobit.backends.device.replay import CannotCheck
from isobit.backends.device.timing import Contender, repeated
from isobit.backends.onnx.peers.static import timed_static
from isobit.pipeline.artifact.manifest import package_versions

OPENVINO, NNCF, LITERT = "openvino", "nncf", "ai-edge-litert"
PACKAGES = (OPENVINO, NNCF, LITERT)
REPORTS_CALLS = "openvino_telemetry"  # what NNCF tells its makers of each call with


@dataclass(frozen=True)
class Peer:
    """One tool.

    Args:
        packages: distributions that it takes beside ours.
        open: from float file, a folder for its files, batch and threads, what is timed.
    """

    packages: tuple[str, ...]
    open: Callable[[Path, Path, int, int], Contender]

    @property
    def is_installed(self) -> bool:
        """All its packages are."""
        return not _lacking(self.packages)

    def check(self) -> None:
        """Raises CannotCheck where a package is not installed."""
        need(*self.packages)


def need(*packages: str) -> None:
    """Raises CannotCheck where one of the packages is not installed."""
    if missing := _lacking(packages):
        raise CannotCheck(f"not installed: {', '.join(missing)} (pip install 'isobit[peers]')")


def _lacking(packages: Sequence[str]) -> list[str]:
    found = package_versions(*packages)
    return [name for name in packages if found.get(name) is None]


def open_openvino(source: Path, folder: Path, batch: int, threads: int) -> Contender:
    """OpenVINO with the float file, held to float32: on some processors it would compute in bfloat16."""
    core, model, values, runs = _read(source, batch)
    return _compiled(core, model, values, runs, threads, {"INFERENCE_PRECISION_HINT": "f32"})


def open_openvino_int8(source: Path, folder: Path, batch: int, threads: int) -> Contender:
    """OpenVINO with what NNCF's post-training quantization makes of the file by its default settings."""
    nncf = _nncf()
    core, model, values, runs = _read(source, batch)
    feed = {port.get_any_name(): value for port, value in zip(model.inputs, values, strict=True)}
    quantized = nncf.quantize(model, nncf.Dataset([feed]), subset_size=1)
    note = f"NNCF {nncf.__version__}"
    return _compiled(core, quantized, values, runs, threads, {})._replace(note=note)


def _nncf() -> Any:
    """The package, imported so that it reports nothing to its makers."""
    silenced: dict[str, Any] = sys.modules  # None makes the import of what would report fail, which NNCF takes
    silenced[REPORTS_CALLS] = None
    return import_module("nncf")


def _read(source: Path, batch: int) -> tuple[Any, Any, list[Any], int]:
    """(core, model with fixed sizes, random inputs, runs of a batch)."""
    core = import_module("openvino").Core()
    model = core.read_model(source)
    declared = [[size.get_length() if size.is_static else None for size in port.partial_shape] for port in model.inputs]
    shapes, runs = runs_of(declared, batch)
    model.reshape(dict(zip(model.inputs, shapes, strict=True)))
    kinds = [port.element_type.to_dtype() for port in model.inputs]
    return core, model, random_inputs(zip(shapes, kinds, strict=True)), runs


def _compiled(core: Any, model: Any, values: list[Any], runs: int, threads: int, settings: dict[str, Any]) -> Contender:
    openvino = import_module("openvino")
    request = core.compile_model(model, "CPU", {
        "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY", **settings,
    }).create_infer_request()
    for place, value in enumerate(values):
        request.set_input_tensor(place, openvino.Tensor(value))
    return Contender(f"openvino {openvino.__version__.partition('-')[0]}", repeated(request.infer, runs))


def open_litert(path: Path, batch: int, threads: int) -> Contender:
    """A .tflite file in LiteRT, with its kernels for CPUs (XNNPACK)."""
    need(LITERT)
    interpreter = import_module("ai_edge_litert.interpreter").Interpreter(str(path), num_threads=threads)
    interpreter.allocate_tensors()
    inputs = interpreter.get_input_details()
    shapes, runs = runs_of([[int(size) for size in entry["shape"]] for entry in inputs], batch)
    values = random_inputs((shape, entry["dtype"]) for shape, entry in zip(shapes, inputs, strict=True))
    for entry, value in zip(inputs, values, strict=True):
        interpreter.set_tensor(entry["index"], value)
    return Contender(f"{LITERT} {package_versions(LITERT)[LITERT]}", repeated(interpreter.invoke, runs))


@contextmanager
def quiet() -> Iterator[None]:
    """Exporters and quantizers talk a lot, and none of it is a result."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


PEERS = {
    "quantize_static": Peer((), timed_static),
    "openvino": Peer((OPENVINO,), open_openvino),
    "openvino-int8": Peer((OPENVINO, NNCF), open_openvino_int8),
}
