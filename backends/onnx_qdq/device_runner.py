"""Replays this artifact's golden inputs on the device at hand: hashes, every integer code, the logits, the latency.

Needs numpy and onnxruntime (1.17 or newer) and nothing else: copy the folder to the device and run `python run.py`.
Prints PASS or FAIL as its last line and exits with 0 or 1. Runs on Python 3.8 and newer, so keep its syntax old.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np

MODEL = "model.onnx"
CODE = "code:"  # prefix of quantized tensors in golden.npz
NEAR = "near:"  # prefix of those right behind a float operator: another library may round one step apart
LOGITS = "logits"
FLOAT_OUTPUT = "float_output"  # present where a float operator gives the logits; holds the relative error allowed
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


def broken_files(folder: Path) -> list[str]:
    """Files of the manifest that are missing or have another hash."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    broken = []
    for name, entry in sorted(manifest["files"].items()):
        path = folder / name
        if not path.is_file():
            broken.append(name + ": missing")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
            broken.append(name + ": changed since it was built")
    return broken


def open_session(model: bytes):
    """A session as users deploy it, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def differences(model: bytes, golden: dict[str, np.ndarray]) -> tuple[list[str], int]:
    """One line for every tensor that is not what it was proven to be, and how many samples were compared throughout.

    A code right behind a float operator may be one step off. What depends on it cannot be known from golden numbers,
    so a sample with such a code is compared up to there.
    """
    keys = [key for key in golden if key.startswith((CODE, NEAR))]
    names = [key.split(":", 1)[1] for key in keys]
    codes = open_session(with_outputs(model, names)).run(names, {"input": golden["input"]})
    plain = open_session(model).run([LOGITS], {"input": golden["input"]})[0]
    lines, whole = [], np.ones(len(plain), bool)
    for key, name, got in zip(keys, names, codes):  # noqa: B905 (Python 3.8)
        steps = np.abs(got.astype(np.int64) - golden[key].astype(np.int64)).reshape(len(whole), -1)
        wrong = (steps > (1 if key.startswith(NEAR) else 0)) & whole[:, None]
        if wrong.any():
            lines.append(f"{name}: {wrong.sum()} of {steps.size} codes differ, by up to {steps[whole].max()}")
        if key.startswith(NEAR):
            whole &= ~steps.any(axis=1)
    lines += logit_differences(plain[whole], golden[LOGITS].astype(np.float32)[whole], golden.get(FLOAT_OUTPUT))
    return lines, int(whole.sum())


def logit_differences(got: np.ndarray, wanted: np.ndarray, allowed: np.ndarray | None) -> list[str]:
    """Equal bits, or within the error allowed relative to each sample's largest value."""
    if allowed is None:
        wrong = got.view(np.uint32) != wanted.view(np.uint32)
    else:
        axes = tuple(range(1, wanted.ndim))
        wrong = ~(np.abs(got - wanted) <= allowed * np.abs(wanted).max(axis=axes, keepdims=True))
    return [f"{LOGITS}: {wrong.sum()} of {wrong.size} values differ"] if wrong.any() else []


def latency(model: bytes, sample: np.ndarray, seconds: float) -> float:
    """Median milliseconds of one inference at batch 1, on one thread."""
    session = open_session(model)
    for _ in range(5):
        session.run(None, {"input": sample})
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        session.run(None, {"input": sample})
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def main() -> int:
    """Check, replay, time; 0 where everything is as it was built, else 1."""
    parser = argparse.ArgumentParser(description="replay the golden inputs of this artifact")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long to measure the latency")
    arguments = parser.parse_args()
    folder = Path(__file__).resolve().parent
    try:
        problems = broken_files(folder)
        if not problems:
            model = (folder / MODEL).read_bytes()
            with np.load(folder / "golden.npz", allow_pickle=False) as file:
                golden = {key: file[key] for key in file.files}
            problems, whole = differences(model, golden)
            compared = sum(value.size for key, value in golden.items() if key.startswith((CODE, NEAR)))
            print(f"samples: {len(golden['input'])}, codes compared: {compared}")
            if whole < len(golden["input"]):
                print(f"float operators round otherwise here: {whole} samples could be compared behind them")
            milliseconds = latency(model, golden["input"][:1], arguments.seconds)
            print(f"latency: {milliseconds:.3f} ms (median, one thread, batch 1)")
    except Exception as error:
        problems = [f"{type(error).__name__}: {error}"]
    for line in problems:
        print(line)
    print("FAIL" if problems else "PASS")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
