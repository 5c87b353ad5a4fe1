"""The golden numbers of an artifact against what a device computes for them, for scripts that have numpy.

golden.npz holds 16 inputs, the code of every quantized tensor and the logits. A code right after a float operator is
the one that the session of the build computed, and how far another library's may lie below and above it; what comes
after such a code was computed from that very code, so it is exact again.

Shipped inside the `run.py` of such targets (see `backends.device.standalone`): the standard library and numpy only, and
the syntax of Python 3.8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

GOLDEN = "golden.npz"
INPUT = "input"
LOGITS = "logits"
CODE = "code:"  # prefix of quantized tensors in golden.npz
NEAR = "near:"  # prefix of those right after a float operator
BELOW, ABOVE = "below:", "above:"  # prefixes: by how many codes a device's may be less or more than a `near:` code
FLOAT_OUTPUT = "float_output"  # present where a float operator gives the logits; holds the relative error allowed


def read_golden(folder: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of golden.npz by key, in order.

    Args:
        folder: of the artifact.
        names: quantized tensors of the network: each must be there, and nothing else beside inputs and logits.

    Raises:
        ValueError: the file is not whole.
    """
    with np.load(folder / GOLDEN, allow_pickle=False) as file:
        keys = list(file.files)
        golden = {key: file[key] for key in keys}
    near = boundaries(golden)
    wanted = {INPUT, LOGITS} | {prefix + name for name in near for prefix in (NEAR, BELOW, ABOVE)}
    wanted |= {CODE + name for name in names if name not in near}
    found = [key for key in keys if key != FLOAT_OUTPUT]
    if not names or sorted(found) != sorted(wanted) or not set(near) <= set(names):
        wrong = sorted(set(found) ^ wanted) or sorted(key for key in keys if keys.count(key) > 1) or near
        raise ValueError(f"{GOLDEN} does not hold the quantized tensors of this network: {', '.join(wrong[:3])}")
    samples = golden[INPUT].shape[:1]
    kinds = {INPUT: np.float32, LOGITS: np.float32}
    for key in wanted:
        array = golden[key]
        if samples in ((), (0,)) or array.shape[:1] != samples or array.dtype != kinds.get(key, np.uint8):
            raise ValueError(f"{GOLDEN}: {key} is {array.dtype} {array.shape}, which cannot be")
    return golden


def near_codes(
    name: str, got: np.ndarray, expected: np.ndarray, low: np.ndarray, high: np.ndarray
) -> dict[str, np.ndarray]:
    """The arrays that golden.npz holds of a tensor right after a float operator.

    Args:
        got: the session's codes.
        expected: the codes of the target's arithmetic; nobody may be further from them than one step.
        low, high: what float rounding explains.
    """
    codes, exact = got.astype(np.int64), expected.astype(np.int64)
    below = codes - np.maximum(low, exact - 1)
    above = np.minimum(high, exact + 1) - codes
    room = {BELOW + name: below, ABOVE + name: above}
    return {NEAR + name: got, **{key: steps.clip(0, 2).astype(np.uint8) for key, steps in room.items()}}


def boundaries(golden: Mapping[str, np.ndarray]) -> list[str]:
    """Names of the quantized tensors right after float operators, in execution order."""
    return [key[len(NEAR):] for key in golden if key.startswith(NEAR)]


def compare_golden(golden: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray]) -> list[str]:
    """Compare a device's codes and logits with the golden ones, all of them, and say how much was compared.

    Args:
        golden: see `read_golden`.
        got: codes by name, and `logits`. What lies after a float operator was computed from golden's codes there; the
            code there is the device's own.

    Returns:
        One line for every tensor that is not what it was proven to be.
    """
    lines, compared, moved = [], 0, 0
    for key, wanted in golden.items():
        if not key.startswith((CODE, NEAR)):
            continue
        name = key.split(":", 1)[1]
        steps = code_steps(got.get(name), wanted)
        if steps is None:
            lines.append(f"{name}: missing, or of another shape")
            continue
        below, above = (golden[prefix + name] if key.startswith(NEAR) else 0 for prefix in (BELOW, ABOVE))
        lines += step_problems(name, steps, (steps < np.negative(below, dtype=np.int64)) | (steps > above))
        compared, moved = compared + wanted.size, moved + np.count_nonzero(steps)
    lines += logit_differences(got.get(LOGITS), golden[LOGITS], golden.get(FLOAT_OUTPUT))
    print(f"samples: {len(golden[INPUT])}, codes compared: {compared}")
    if moved and not lines:
        print(f"float operators round otherwise here: {moved} codes, each explained and followed")
    return lines


def code_steps(got: np.ndarray | None, wanted: np.ndarray) -> np.ndarray | None:
    """By how many steps codes differ, int64; None where there are none, or not as many."""
    if got is None or got.shape != wanted.shape or got.dtype != wanted.dtype:
        return None
    return got.astype(np.int64) - wanted.astype(np.int64)


def step_problems(name: str, steps: np.ndarray, wrong: np.ndarray) -> list[str]:
    """A line about the tensor where any of its codes is `wrong`."""
    if not wrong.any():
        return []
    return [f"{name}: {wrong.sum()} of {steps.size} codes differ, by up to {np.abs(steps[wrong]).max()}"]


def logit_differences(got: np.ndarray | None, wanted: np.ndarray, allowed: np.ndarray | None) -> list[str]:
    """Equal bits, or within the error allowed relative to each sample's largest value."""
    if got is None or got.shape != wanted.shape or got.dtype != wanted.dtype:
        return [f"{LOGITS}: missing, or of another shape"]
    if allowed is None:
        wrong = got.view(np.uint32) != wanted.view(np.uint32)
    else:
        axes = tuple(range(1, wanted.ndim))
        wrong = ~(np.abs(got - wanted) <= allowed * np.abs(wanted).max(axis=axes, keepdims=True))
    return [f"{LOGITS}: {wrong.sum()} of {wrong.size} values differ"] if wrong.any() else []
