"""Replays this artifact's golden inputs on the device at hand: hashes, every integer code, the logits, the latency.

Needs numpy and onnxruntime (1.17 or newer) and nothing else: copy the folder to the device and run `python run.py`.
Prints PASS or FAIL as its last line and exits with 0 or 1. Runs on Python 3.8 and newer, so keep its syntax old.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from backends.golden import LOGITS, compare_golden, quantized_names, read_golden
from backends.replay import broken_files, print_latency, verdict

MODEL = "model.onnx"
UINT8 = 2  # onnx.TensorProto.UINT8


def with_outputs(model: bytes, names: list[str]) -> bytes:
    """The serialized model with uint8 tensors `names` as further outputs.

    Protocol buffers merge an embedded message that appears twice, so appending a graph that holds nothing but the
    outputs (ModelProto.graph.output) adds them; no onnx package is needed.
    """
    outputs = b""
    for name in names:
        tensor_type = _field(1, b"\x08" + _varint(UINT8))  # TypeProto.tensor_type.elem_type
        outputs += _field(12, _field(1, name.encode()) + _field(2, tensor_type))
    return model + _field(7, outputs)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _field(number: int, content: bytes) -> bytes:
    """One length-delimited protocol buffer field."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def open_session(model: bytes):
    """A session as users deploy it, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def check(folder: Path, seconds: float) -> list[str]:
    """What is not as it was built; the latency is measured for `seconds`."""
    broken = broken_files(folder)
    if broken:
        return broken
    model, golden = (folder / MODEL).read_bytes(), read_golden(folder)
    names = quantized_names(golden)
    codes = open_session(with_outputs(model, names)).run(names, {"input": golden["input"]})
    plain = open_session(model)
    got = dict(zip(names, codes))  # noqa: B905 (Python 3.8)
    problems = compare_golden(golden, {**got, LOGITS: plain.run([LOGITS], {"input": golden["input"]})[0]})
    sample = golden["input"][:1]
    print_latency(lambda: plain.run(None, {"input": sample}), seconds)
    return problems


def main() -> int:
    """Check, replay, time; 0 where everything is as it was built, else 1."""
    parser = argparse.ArgumentParser(description="replay the golden inputs of this artifact")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long to measure the latency")
    seconds = parser.parse_args().seconds
    return verdict(lambda: check(Path(__file__).resolve().parent, seconds))


if __name__ == "__main__":
    sys.exit(main())
