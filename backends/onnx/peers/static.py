"""`quantize_static` of ONNX Runtime: as it comes, and at its best on the processor at hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from isobit.backends.device.processor import read_cpuinfo, this_machine
from isobit.backends.device.timing import Contender
from isobit.backends.onnx.device.device_runner import open_session, random_feed, timed_model
from isobit.backends.onnx.profiles import why_inexact


def quantize_plainly(source: Path, to: Path, samples: Iterable[Mapping[str, np.ndarray]]) -> Path:
    """Write the float file `source` quantized to `to`, as it comes: S8S8, per tensor."""
    from onnxruntime.quantization import quantize_static

    quantize_static(source, to, _reader(samples))
    return to


def quantize_best(source: Path, to: Path, samples: Iterable[Mapping[str, np.ndarray]], reduce: bool = False) -> Path:
    """The same preprocessed, in U8S8 and per channel.

    Args:
        reduce: weights of 7 bits, where the processor's 8-bit products saturate (`reduce_range`).
    """
    from onnxruntime.quantization import QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = to.with_name(f"{to.stem}-prepared.onnx")
    quant_pre_process(source, prepared)
    quantize_static(prepared, to, _reader(samples), per_channel=True, activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8, reduce_range=reduce)
    return to


def timed_static(source: Path, folder: Path, batch: int, threads: int) -> Contender:
    """What `quantize_best` makes of a float file, for `isobit bench`; numbers of weights do not change its time.

    Args:
        folder: for the files that it writes.
    """
    samples = [random_feed(open_session(str(source)), 1)[0]]
    reduce = bool(why_inexact("vnni", this_machine(), read_cpuinfo()))
    made = quantize_best(source, folder / "static.onnx", samples, reduce)
    about = f"U8S8 per channel{', reduce_range' if reduce else ''}"
    return timed_model(str(made), batch, threads)._replace(note=about)


def _reader(samples: Iterable[Mapping[str, np.ndarray]]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        """Gives one sample after the other: a float file may have a batch of 1."""

        def __init__(self) -> None:
            self.feeds = iter(samples)

        def get_next(self) -> Any:
            return next(self.feeds, None)

    return Reader()
