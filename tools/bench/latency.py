"""Latency at batch 1 on one thread: our artifacts, the float file, and ONNX Runtime's own quantizer, in one run.

The float file is what `torch.onnx.export` and onnxsim make of the model: batch norm folded, batch size fixed at 1 (to
its advantage: no shape arithmetic is left). `quantize_static` starts from that file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from isobit.backends.device.timing import interleave, summarize
from isobit.backends.onnx.peers.static import quantize_best, quantize_plainly
from isobit.bench.peers import quiet
from tools.bench.rows import FLOAT, STATIC_BEST, STATIC_DEFAULT
from tools.bench.subjects import Subject

STATIC_IMAGES = 64
BLOCK_SECONDS = 0.06


def measure(
    subject: Subject, ours: Mapping[str, Path], folder: Path, rounds: int, static: bool = True,
    images: int = STATIC_IMAGES,
) -> dict[str, Any]:
    """Median milliseconds and speed ratios of every contender.

    Args:
        ours: model files of our artifacts by title.
        folder: where the float and the statically quantized files are kept.
        static: also measure `quantize_static`.
    """
    sample = subject.evaluation().example
    files = {FLOAT: export_float(subject, folder / f"{subject.name}-float.onnx")}
    if static:
        calibration, _ = subject.calibration(images, 0).materialize()
        files |= quantize_static(files[FLOAT], calibration.numpy(), folder)
    files |= ours
    runs = {title: session_caller(path, sample.numpy()) for title, path in files.items()}
    times = interleave(runs, rounds, BLOCK_SECONDS)
    bytes_ = {title: path.stat().st_size for title, path in files.items()}
    contenders = {title: {**figures, "bytes": bytes_[title]} for title, figures in summarize(times).items()}
    return {"rounds": rounds, "block_s": BLOCK_SECONDS, "contenders": contenders}


def session_caller(path: Path, sample: np.ndarray) -> Callable[[], object]:
    """One inference of a session as users deploy it, on the calling thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: sample}
    return lambda: session.run(None, feed)


def export_float(subject: Subject, path: Path) -> Path:
    """The float model as a user would deploy it, simplified."""
    import onnx
    import onnxsim

    model = subject.load().module
    with quiet():
        program = torch.onnx.export(model, (subject.evaluation().example,), dynamo=True, input_names=["input"])
        simplified, _ = onnxsim.simplify(program.model_proto)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(simplified, path)
    return path


def quantize_static(source: Path, images: np.ndarray, folder: Path) -> dict[str, Path]:
    """ONNX Runtime's quantizer: as it comes (S8S8), and at its best (preprocessed, U8S8, per channel)."""
    stem = source.stem.removesuffix("-float")
    plain, best = (folder / f"{stem}-{kind}.onnx" for kind in ("static", "static-best"))
    samples = [{"input": images[i:i + 1]} for i in range(len(images))]  # the float file has a batch of 1
    with quiet():
        return {STATIC_DEFAULT: quantize_plainly(source, plain, samples),
                STATIC_BEST: quantize_best(source, best, samples)}
