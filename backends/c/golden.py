"""`golden.h`: the golden vectors of an artifact as C constants, for machines that read no files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from isobit.backends.c.constants import INDENT, number_lines
from isobit.backends.c.device_runner import VECTORS
from isobit.backends.c.emit import read_description
from isobit.backends.device.golden import CODE, output_key, port_names
from isobit.backends.device.golden import GOLDEN as NUMBERS

FACTOR = 16777619  # odd, so that no change of a single code leaves the checksum as it is


def checksums(codes: np.ndarray) -> np.ndarray:
    """uint32 [N] of codes [N, ...]: sum = sum * FACTOR + code for each code in order, modulo 2^32."""
    flat = codes.reshape(len(codes), -1).astype(np.uint32)
    factors = np.cumprod(np.full(max(flat.shape[1] - 1, 0), FACTOR, np.uint32), dtype=np.uint32)
    weights = np.concatenate([factors[::-1], np.ones(1, np.uint32)])
    return (flat * weights).sum(1, dtype=np.uint32)


def write_golden_header(folder: Path) -> Path:
    """Write `golden.h` from the golden numbers and the description in `folder`."""
    model = read_description(folder)
    with np.load(folder / NUMBERS, allow_pickle=False) as file:
        rows = [file[output_key(name)] for name in port_names(model)[1]]
        logits = rows[0] if len(rows) == 1 else np.concatenate([row.reshape(len(row), -1) for row in rows], 1)
        codes = [_channels_last(file[CODE + tensor["name"]], tensor["shape"]) if tensor["quantized"] else None
                 for tensor in model["tensors"]]
    path = folder / VECTORS
    path.write_text(_text(model, codes, logits), encoding="utf-8")
    return path


def _channels_last(codes: np.ndarray, shape: list[int]) -> np.ndarray:
    height, width, channels = shape
    return np.ascontiguousarray(codes.reshape(-1, channels, height, width).transpose(0, 2, 3, 1))


def _text(model: dict, codes: list[np.ndarray | None], logits: np.ndarray) -> str:
    samples = len(logits)
    inputs = next(array for array in codes if array is not None)  # of tensor 0, whose codes are the network's input
    bits = logits.reshape(samples, -1).astype(np.float32).view(np.uint32)
    rows = [_tensor(tensor["name"], array) for tensor, array in zip(model["tensors"], codes, strict=True)]
    return "\n".join([
        "/* Golden vectors: input codes, the checksum of every quantized tensor, the bits of the logits. */",
        "#include <stddef.h>",
        "#include <stdint.h>",
        "",
        "#ifndef GOLDEN_SAMPLES",
        f"#define GOLDEN_SAMPLES {samples}",
        "#endif",
        f"#define GOLDEN_RUN {model['name']}_run",
        f"#define GOLDEN_FACTOR UINT32_C({FACTOR})",
        f"#define GOLDEN_QUANTIZED {sum(array is not None for array in codes)}",
        f"#define GOLDEN_LOGITS {bits.shape[1]}",
        "",
        "/* By the number of the tensor; those without a name are no quantized tensors. */",
        f"static const struct {{ const char *name; uint32_t checksums[{samples}]; }} golden_tensors[{len(rows)}] = {{",
        *rows,
        "};",
        "",
        _table("uint8_t", "golden_inputs", inputs.reshape(samples, -1)),
        "",
        _table("uint32_t", "golden_logits", bits),
        "",
    ])


def _tensor(name: str, codes: np.ndarray | None) -> str:
    if codes is None:
        return f"{INDENT}{{NULL, {{0}}}},"
    lines = "\n".join(number_lines([f"{value}u" for value in checksums(codes)], INDENT * 2))
    return f"{INDENT}{{{json.dumps(name)}, {{\n{lines}\n{INDENT}}}}},"


def _table(kind: str, name: str, values: np.ndarray) -> str:
    """One row for each sample; those that are not replayed are left out by the preprocessor."""
    rows = []
    for index, row in enumerate(values):
        lines = "\n".join(number_lines([f"{value}{'u' if kind == 'uint32_t' else ''}" for value in row], INDENT * 2))
        rows += [f"#if GOLDEN_SAMPLES > {index}", f"{INDENT}{{\n{lines}\n{INDENT}}},", "#endif"]
    body = "\n".join(rows)
    return f"static const {kind} {name}[GOLDEN_SAMPLES][{values.shape[1]}] = {{\n{body}\n}};"
