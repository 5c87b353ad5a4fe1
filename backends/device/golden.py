"""The golden numbers of an artifact against what a device computes for them, for scripts that have numpy.

golden.npz holds 16 samples of every input, the code of every quantized tensor and every output. A code right after a
float operator is the one that the session of the build computed, and how far another library's may lie below and above
it; what comes after such a code was computed from that very code, so it is exact again.

Shipped inside the `run.py` of such targets (see `backends.device.standalone`): the standard library and numpy only, and
the syntax of Python 3.8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = "golden.npz"
INPUT = "input"
LOGITS = "logits"
CODE = "code:"  # prefix of quantized tensors in golden.npz
NEAR = "near:"  # prefix of those right after a float operator
BELOW, ABOVE = "below:", "above:"  # prefixes: by how many codes a device's may be less or more than a `near:` code
INPUT_TYPES = (np.float32, np.int64, np.int32, np.int16, np.int8, np.uint8)
INPUTS, OUTPUTS = "input.", "output."  # prefixes of inputs and outputs that are not called `input` and `logits`
FLOAT_OUTPUT = "float_output"  # present where a float operator gives an output; holds the relative error allowed


def input_key(name: str) -> str:
    """Key of an input in golden.npz."""
    return name if name == INPUT else INPUTS + name


def output_key(name: str) -> str:
    """Key of an output in golden.npz."""
    return name if name == LOGITS else OUTPUTS + name


def float_key(name: str) -> str:
    """Key of the error that an output computed in float may have."""
    return FLOAT_OUTPUT if name == LOGITS else FLOAT_OUTPUT + "." + name


def split_outputs(values: np.ndarray, described: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Each output by its name, of what a program wrote for N samples: one output, or the elements of all in a row.

    Args:
        described: of the artifact; `outputs` states names and shapes where they are not one that is called `logits`.
    """
    if "outputs" not in described:
        return {LOGITS: values}
    rows, found, start = values.reshape(len(values), -1), {}, 0
    for entry in described["outputs"]:
        count = int(np.prod(entry["shape"], dtype=np.int64))
        found[entry["name"]] = np.ascontiguousarray(rows[:, start:start + count]).reshape([len(rows)] + entry["shape"])
        start += count
    return found


def port_names(described: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Names of the inputs and of the outputs of a described artifact."""
    outputs = [entry["name"] for entry in described["outputs"]] if "outputs" in described else [LOGITS]
    return list(described.get("input_names", [described.get("input_name", INPUT)])), outputs


def golden_inputs(golden: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The samples of every input, by its name."""
    return {key[len(INPUTS):] if key.startswith(INPUTS) else key: array for key, array in golden.items()
            if key == INPUT or key.startswith(INPUTS)}


def golden_outputs(golden: Mapping[str, np.ndarray]) -> list[str]:
    """Names of the outputs."""
    return [key[len(OUTPUTS):] if key.startswith(OUTPUTS) else key for key in golden
            if key == LOGITS or key.startswith(OUTPUTS)]


def read_golden(
    folder: Path, names: Sequence[str], inputs: Sequence[str] = (INPUT,), outputs: Sequence[str] = (LOGITS,)
) -> dict[str, np.ndarray]:
    """The arrays of golden.npz by key, in order.

    Args:
        folder: of the artifact.
        names: quantized tensors of the network: each must be there, and nothing else beside inputs and outputs.
        inputs, outputs: names of the network's.

    Raises:
        ValueError: the file is not whole.
    """
    with np.load(folder / GOLDEN, allow_pickle=False) as file:
        keys = list(file.files)
        golden = {key: file[key] for key in keys}
    near = boundaries(golden)
    given, returned = [input_key(name) for name in inputs], [output_key(name) for name in outputs]
    wanted = {*given, *returned} | {prefix + name for name in near for prefix in (NEAR, BELOW, ABOVE)}
    wanted |= {CODE + name for name in names if name not in near}
    found = [key for key in keys if key not in [float_key(name) for name in outputs]]
    if not names or sorted(found) != sorted(wanted) or not set(near) <= set(names):
        wrong = sorted(set(found) ^ wanted) or sorted(key for key in keys if keys.count(key) > 1) or near
        raise ValueError(f"{GOLDEN} does not hold the quantized tensors of this network: {', '.join(wrong[:3])}")
    samples = golden[given[0]].shape[:1]
    for key in wanted:
        array = golden[key]
        kinds = INPUT_TYPES if key in given else (np.float32,) if key in returned else (np.uint8,)
        if samples in ((), (0,)) or array.shape[:1] != samples or array.dtype not in kinds:
            raise ValueError(f"{GOLDEN}: {key} is {array.dtype} {array.shape}, which cannot be")
    return golden


def near_codes(name: str, got: np.ndarray, low: np.ndarray, high: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays that golden.npz holds of a tensor right after a float operator.

    Args:
        got: the session's codes.
        low, high: what float rounding explains.
    """
    codes = got.astype(np.int64)
    room = {BELOW + name: codes - low, ABOVE + name: high - codes}
    return {NEAR + name: got, **{key: steps.clip(0, 255).astype(np.uint8) for key, steps in room.items()}}


def boundaries(golden: Mapping[str, np.ndarray]) -> list[str]:
    """Names of the quantized tensors right after float operators, in execution order."""
    return [key[len(NEAR):] for key in golden if key.startswith(NEAR)]


def compare_golden(golden: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray]) -> list[str]:
    """Compare a device's codes and outputs with the golden ones, all of them, and say how much was compared.

    Args:
        golden: see `read_golden`.
        got: codes and outputs by name. What lies after a float operator was computed from golden's codes there; the
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
    lines += output_differences(got, golden)
    samples = next(iter(golden_inputs(golden).values()))
    print(f"samples: {len(samples)}, codes compared: {compared}")
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


def output_differences(got: Mapping[str, np.ndarray], golden: Mapping[str, np.ndarray]) -> list[str]:
    """Every output as `logit_differences`."""
    return [line for name in golden_outputs(golden) for line in logit_differences(
        got.get(name), golden[output_key(name)], golden.get(float_key(name)), name)]


def logit_differences(
    got: np.ndarray | None, wanted: np.ndarray, allowed: np.ndarray | None, name: str = LOGITS
) -> list[str]:
    """Equal bits, or within the error allowed relative to each sample's largest value; infinities are equal."""
    if got is None or got.shape != wanted.shape or got.dtype != wanted.dtype:
        return [f"{name}: missing, or of another shape"]
    if allowed is None:
        wrong = got.view(np.uint32) != wanted.view(np.uint32)
    else:
        axes, ends = tuple(range(1, wanted.ndim)), np.isinf(wanted)
        finite, given = np.where(ends, 0, wanted), np.where(ends, 0, got)
        near = np.abs(given - finite) <= allowed * np.abs(finite).max(axis=axes, keepdims=True)
        wrong = np.where(ends, got != wanted, ~near)
    return [f"{name}: {wrong.sum()} of {wrong.size} values differ"] if wrong.any() else []
