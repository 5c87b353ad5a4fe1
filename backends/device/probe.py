"""Every layer of an artifact by itself, on codes that a device makes again, against digests of what it must give.

probe.npz says what the codes of each tensor are made of (`pipeline.quant.pattern`), and of each sample the first
bytes of SHA-256 of what each layer must give for them. A tensor right after a float operator, and an output that one
gives, has no one answer: it is named, and not compared.

Shipped inside the `run.py` of such targets (see `backends.device.standalone`): the standard library and numpy only, and
the syntax of Python 3.8.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isobit.backends.device.chosen import SAMPLES, chosen_codes, chosen_numbers
from isobit.pipeline.quant.pattern import Pattern, pattern_of

PROBE = "probe.npz"
DIGEST_BYTES = 8  # of the 32: what a wrong kernel gives meets them by chance once in 2^64
FACTS, UP, DIGESTS, GIVEN = "facts", "up", "digests", "given:"  # keys of probe.npz; a prefix of integer inputs
TENSORS, TAKEN, RETURNED, UNCERTAIN = "tensors", "inputs", "outputs", "uncertain"  # of the facts, which are JSON
NAME, PATTERN, OPERATOR, HAS_UP = "name", "pattern", "operator", "up"  # of one entry of the facts

Pieces = Callable[[Mapping[str, np.ndarray], Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Probe:
    """What probe.npz holds.

    Args:
        inputs: by name, of each sample.
        patterns: of every quantized tensor, in execution order.
        digests: uint8 [SAMPLES, DIGEST_BYTES] of what each must be, by the name of a tensor or an output.
        operators: what computes it.
        uncertain: names of those that have no one answer.
    """

    inputs: Mapping[str, np.ndarray]
    patterns: Sequence[Pattern]
    digests: Mapping[str, np.ndarray]
    operators: Mapping[str, str]
    uncertain: Sequence[str]


def digests_of(values: np.ndarray) -> np.ndarray:
    """uint8 [N, DIGEST_BYTES] of codes or numbers [N, ...]."""
    rows = [hashlib.sha256(np.ascontiguousarray(sample).tobytes()).digest()[:DIGEST_BYTES] for sample in values]
    return np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), DIGEST_BYTES)


def read_probe(folder: Path, names: Sequence[str], inputs: Sequence[str], outputs: Sequence[str]) -> Probe:
    """The content of probe.npz.

    Args:
        folder: of the artifact.
        names: quantized tensors of the network: each must be there, and nothing else.
        inputs, outputs: names of the network's.

    Raises:
        ValueError: the file is not whole, or of another network.
    """
    with np.load(folder / PROBE, allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    facts = json.loads(arrays[FACTS].tobytes().decode())
    patterns, place = [], 0
    for entry in facts[TENSORS]:
        pattern = pattern_of(entry[PATTERN])
        if entry[HAS_UP]:
            count = int(np.prod(pattern.shape, dtype=np.int64))
            packed, place = arrays[UP][place:place + (count + 7) // 8], place + (count + 7) // 8
            pattern = pattern_of(entry[PATTERN], np.unpackbits(packed)[:count].reshape(pattern.shape) == 1)
        patterns.append(pattern)
    given = {entry[NAME]: chosen_numbers(pattern_of(entry[PATTERN])) if PATTERN in entry
             else arrays[GIVEN + entry[NAME]] for entry in facts[TAKEN]}
    returned = [entry[NAME] for entry in facts[RETURNED]]
    compared = [name for name in [*(pattern.name for pattern in patterns), *returned] if name not in facts[UNCERTAIN]]
    held = (sorted(pattern.name for pattern in patterns), sorted(given), sorted(returned))
    if held != (sorted(names), sorted(inputs), sorted(outputs)):
        raise ValueError(PROBE + " does not hold the quantized tensors of this network")
    if not compared or arrays[DIGESTS].shape != (len(compared), SAMPLES, DIGEST_BYTES):
        raise ValueError(PROBE + " does not hold a digest for every tensor")
    return Probe(
        given, patterns, dict(zip(compared, arrays[DIGESTS])),  # noqa: B905 (Python 3.8)
        {name: entry[OPERATOR] for name, entry in zip(  # noqa: B905 (Python 3.8)
            [*(pattern.name for pattern in patterns), *returned], [*facts[TENSORS], *facts[RETURNED]])},
        facts[UNCERTAIN],
    )


def probe_problems(probe: Probe, pieces: Pieces, manifest: Mapping[str, Any]) -> list[str]:
    """Run every layer by itself, one sample after the other, and name those that are wrong, in execution order.

    Args:
        pieces: from inputs and codes [1, ...] by name, what every layer gives for them, by the name of its tensor, and
            every output.
        manifest: says which module a tensor is of.
    """
    wrong = dict.fromkeys(probe.digests, 0)
    for sample in range(SAMPLES):
        rows = slice(sample, sample + 1)
        found = pieces({name: values[rows] for name, values in probe.inputs.items()},
                       {pattern.name: chosen_codes(pattern, [sample]) for pattern in probe.patterns})
        for name, wanted in probe.digests.items():
            right = name in found and np.array_equal(digests_of(found[name]), wanted[rows])
            wrong[name] += 0 if right else 1
    modules = {entry["name"]: entry["module"] for entry in manifest["tensors"]}
    print(f"layers run by themselves: {len(wrong)}, chosen samples of each: {SAMPLES}")
    if probe.uncertain:
        names = ", ".join(probe.uncertain).encode("ascii", "backslashreplace").decode()  # any terminal shows that
        print("not compared, float operators have no one answer: " + names)
    return [f"{name}: wrong on {count} of {SAMPLES} chosen samples: "
            + " of ".join(filter(None, [probe.operators[name], modules.get(name)]))
            for name, count in wrong.items() if count]
