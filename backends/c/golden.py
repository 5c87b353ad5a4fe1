"""`golden.h`: the golden vectors of an artifact as C constants, for machines that read no files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from isobit.backends.c.constants import INDENT, float_text, integer_text, number_lines, string
from isobit.backends.c.device_runner import VECTORS
from isobit.backends.c.emit import read_description
from isobit.backends.device.golden import ABOVE, BELOW, CODE, NEAR, float_key, input_key, output_key, port_names
from isobit.backends.device.golden import GOLDEN as NUMBERS

_TYPES = {"uint8": "uint8_t", "int32": "int32_t"}
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
        near = {number: _near(file, tensor) for number, tensor in enumerate(model["tensors"])
                if NEAR + tensor["name"] in file.files}
        codes = [near[number][0] if number in near else
                 _in_memory(file[CODE + tensor["name"]], tensor) if tensor["quantized"] else None
                 for number, tensor in enumerate(model["tensors"])]
        inputs = [file[input_key(name)].astype(np.int32) if tensor.get("integers") else array
                  for name, tensor, array in zip(port_names(model)[0], model["tensors"], codes, strict=False)]
        allowed = [float(file[float_key(name)]) if float_key(name) in file.files else 0.0
                   for name in port_names(model)[1]]
    text = _text(model, inputs, codes, logits)
    if any(allowed):
        sizes = [row[0].size for row in rows]
        text += _tolerances(sizes, allowed)
    if near:
        text += _boundaries(near)
    path = folder / VECTORS
    path.write_text(text, encoding="utf-8")
    return path


def _near(file: Mapping[str, np.ndarray], tensor: dict) -> tuple[np.ndarray, np.ndarray]:
    """Codes right after a float operator, and in how far others are right: `below + 4 * above`, both at most 2."""
    codes, below, above = (_in_memory(file[prefix + tensor["name"]], tensor) for prefix in (NEAR, BELOW, ABOVE))
    return codes, below + 4 * above


def _in_memory(codes: np.ndarray, tensor: dict) -> np.ndarray:
    """Codes in the order in which the tensor lies there."""
    height, width, channels = tensor["shape"]
    if tensor.get("in_order"):
        return codes
    return np.ascontiguousarray(codes.reshape(-1, channels, height, width).transpose(0, 2, 3, 1))


def _text(model: dict, inputs: list[Any], codes: list[np.ndarray | None], logits: np.ndarray) -> str:
    samples = len(logits)
    names = ["golden_inputs", *(f"golden_inputs_{place}" for place in range(1, len(inputs)))]
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
        f"#define GOLDEN_ARGUMENTS(sample) {', '.join(f'{name}[sample]' for name in names)}",
        f"#define GOLDEN_FACTOR UINT32_C({FACTOR})",
        f"#define GOLDEN_QUANTIZED {sum(array is not None for array in codes)}",
        f"#define GOLDEN_LOGITS {bits.shape[1]}",
        "",
        "/* By the number of the tensor; those without a name are no quantized tensors. */",
        f"static const struct {{ const char *name; uint32_t checksums[{samples}]; }} golden_tensors[{len(rows)}] = {{",
        *rows,
        "};",
        "",
        *(line for name, array in zip(names, inputs, strict=True)
          for line in (_table(_TYPES[array.dtype.name], name, array.reshape(samples, -1)), "")),
        _table("uint32_t", "golden_logits", bits),
        "",
    ])


def _tolerances(sizes: list[int], allowed: list[float]) -> str:
    """How far each output may be off, by its largest value: float operators differ from library to library."""
    rows = [f"{INDENT}{{{size}, {float_text(error)}}}," for size, error in zip(sizes, allowed, strict=True)]
    return "\n".join([
        "/* Elements of each output, and the error allowed by its largest value; 0 of those that are exact. */",
        f"#define GOLDEN_OUTPUTS {len(sizes)}",
        f"static const struct {{ uint32_t count; float allowed; }} golden_outputs[{len(sizes)}] = {{", *rows, "};", "",
    ])


def _boundaries(near: Mapping[int, tuple[np.ndarray, np.ndarray]]) -> str:
    """Codes right after float operators, whole: a C library may give others, and the replay goes on from these."""
    tables = [_table("uint8_t", f"golden_{kind}_{number}", values.reshape(len(values), -1))
              for number, pair in near.items() for kind, values in zip(("codes", "room"), pair, strict=True)]
    rows = [f"{INDENT}{{{number}, golden_codes_{number}[0], golden_room_{number}[0]}}," for number in near]
    return "\n".join([
        "/* Codes right after float operators, by the number of the tensor; room is how many codes a C library may be",
        "   below (the last two bits) and above. What comes next is computed from the golden codes. */",
        *tables, f"#define GOLDEN_NEAR {len(near)}",
        "static const struct { uint32_t tensor; const uint8_t *codes, *room; } golden_near[GOLDEN_NEAR] = {", *rows,
        "};", "",
    ])


def _tensor(name: str, codes: np.ndarray | None) -> str:
    if codes is None:
        return f"{INDENT}{{NULL, {{0}}}},"
    lines = "\n".join(number_lines([f"{value}u" for value in checksums(codes)], INDENT * 2))
    return f"{INDENT}{{{string(name)}, {{\n{lines}\n{INDENT}}}}},"


def _table(kind: str, name: str, values: np.ndarray) -> str:
    """One row for each sample; those that are not replayed are left out by the preprocessor."""
    rows = []
    for index, row in enumerate(values):
        texts = [f"{value}u" if kind == "uint32_t" else integer_text(value) for value in row.tolist()]
        lines = "\n".join(number_lines(texts, INDENT * 2))
        rows += [f"#if GOLDEN_SAMPLES > {index}", f"{INDENT}{{\n{lines}\n{INDENT}}},", "#endif"]
    body = "\n".join(rows)
    return f"static const {kind} {name}[GOLDEN_SAMPLES][{values.shape[1]}] = {{\n{body}\n}};"
