"""The common part of every `run.py`: hashes, golden codes and logits against what the device computes, the latency.

Shipped inside each runtime's script (see `backends.standalone`): the standard library and numpy only, and the syntax
of Python 3.8.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

CODE = "code:"  # prefix of quantized tensors in golden.npz
NEAR = "near:"  # prefix of those right behind a float operator: another library may round one step apart
LOGITS = "logits"
FLOAT_OUTPUT = "float_output"  # present where a float operator gives the logits; holds the relative error allowed


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


def read_golden(folder: Path) -> dict[str, np.ndarray]:
    """`input`, `logits` and the codes of golden.npz."""
    with np.load(folder / "golden.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def quantized_names(golden: Mapping[str, np.ndarray]) -> list[str]:
    """Names of the quantized tensors in golden.npz, in execution order."""
    return [key.split(":", 1)[1] for key in golden if key.startswith((CODE, NEAR))]


def compare_golden(golden: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray]) -> list[str]:
    """Compare a device's codes and logits with the golden ones and say how much was compared.

    A code right behind a float operator may be one step off. What depends on it cannot be known from golden numbers,
    so a sample with such a code is compared up to there.

    Args:
        golden: see `read_golden`.
        got: codes by name, and `logits`.

    Returns:
        One line for every tensor that is not what it was proven to be.
    """
    lines, compared, whole = [], 0, np.ones(len(golden["input"]), bool)
    for key in golden:
        if not key.startswith((CODE, NEAR)):
            continue
        name = key.split(":", 1)[1]
        wanted = golden[key]
        steps = np.abs(got[name].astype(np.int64) - wanted.astype(np.int64)).reshape(len(whole), -1)
        wrong = (steps > (1 if key.startswith(NEAR) else 0)) & whole[:, None]
        compared += wanted.size
        if wrong.any():
            lines.append(f"{name}: {wrong.sum()} of {steps.size} codes differ, by up to {steps[whole].max()}")
        if key.startswith(NEAR):
            whole &= ~steps.any(axis=1)
    logits = golden[LOGITS].astype(np.float32)
    print(f"samples: {len(whole)}, codes compared: {compared}")
    if not whole.all():
        print(f"float operators round otherwise here: {whole.sum()} samples could be compared behind them")
    return lines + logit_differences(got[LOGITS][whole], logits[whole], golden.get(FLOAT_OUTPUT))


def logit_differences(got: np.ndarray, wanted: np.ndarray, allowed: np.ndarray | None) -> list[str]:
    """Equal bits, or within the error allowed relative to each sample's largest value."""
    if allowed is None:
        wrong = got.view(np.uint32) != wanted.view(np.uint32)
    else:
        axes = tuple(range(1, wanted.ndim))
        wrong = ~(np.abs(got - wanted) <= allowed * np.abs(wanted).max(axis=axes, keepdims=True))
    return [f"{LOGITS}: {wrong.sum()} of {wrong.size} values differ"] if wrong.any() else []


def print_latency(infer: Callable[[], object], seconds: float) -> None:
    """Call `infer`, one inference at batch 1, for `seconds`, and say what the median call took."""
    for _ in range(5):
        infer()
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        infer()
        times.append(1000 * (time.perf_counter() - start))
    print(f"latency: {statistics.median(times):.3f} ms (median, one thread, batch 1)")


def verdict(check: Callable[[], list[str]]) -> int:
    """Print what `check` finds wrong, then PASS or FAIL; 0 where it is nothing, else 1. An error is a finding."""
    try:
        problems = check()
    except Exception as error:
        problems = [f"{type(error).__name__}: {error}"]
    for line in problems:
        print(line)
    print("FAIL" if problems else "PASS")
    return 1 if problems else 0
