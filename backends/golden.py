"""The golden numbers of an artifact against what a device computes for them, for scripts that have numpy.

Shipped inside the `run.py` of such targets (see `backends.standalone`): the standard library and numpy only, and the
syntax of Python 3.8.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

CODE = "code:"  # prefix of quantized tensors in golden.npz
NEAR = "near:"  # prefix of those right behind a float operator: another library may round one step apart
LOGITS = "logits"
FLOAT_OUTPUT = "float_output"  # present where a float operator gives the logits; holds the relative error allowed


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
