"""Write probe.npz: chosen samples, packed small, with digests of what every layer must give for them."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from isobit.backends.device import probe
from isobit.backends.device.chosen import SAMPLES
from isobit.backends.execution.directed import ChosenCodes, piece_digests
from isobit.pipeline.proof.arithmetic import Arithmetic, Chosen
from isobit.pipeline.quant.pattern import Pattern
from isobit.pipeline.samples.network_inputs import tensors

LIMIT = 200_000  # bytes of the file


def write_probe(
    path: Path, arithmetic: Arithmetic, inputs: Sequence[str], chosen: Chosen, digests: Mapping[str, np.ndarray],
    batch: int = SAMPLES, limit: int = LIMIT,
) -> bool:
    """Write what `run.py --probe` compares; the same bytes for the same network.

    Where a layer's sum is largest is told by a bit for each code. Of a file that would be too large the tensors with
    most of them go without: chance chooses their codes, and the layers are worked out again for these.

    Args:
        arithmetic: that `digests` are of.
        inputs: names of the network's.
        digests: of what every layer must give for the codes of `chosen`; see `piece_digests`.
        batch: samples that are run at once.
        limit: bytes of the file.

    Returns:
        whether the file is written: the digests alone of more than some 1,500 tensors are too many bytes, and where
        all that is computed comes from float operators there are none.
    """
    if not _compared(arithmetic, chosen):
        return False
    patterns = chosen.patterns
    content = _content(arithmetic, inputs, chosen, digests)
    while len(content) > limit and any(pattern.up is not None for pattern in patterns):
        patterns = _without_largest(patterns, len(content) - limit)
        again = replace(chosen, patterns=patterns, codes=ChosenCodes(patterns))
        content = _content(arithmetic, inputs, again, piece_digests(arithmetic, again, batch))
    if len(content) > limit:
        return False
    path.write_bytes(content)
    return True


def _without_largest(patterns: Sequence[Pattern], over: int) -> tuple[Pattern, ...]:
    """The patterns without the bits that take most bytes, of as many tensors as are `over` the limit together."""
    sizes = {pattern.name: len(zlib.compress(_bits(pattern.up))) for pattern in patterns if pattern.up is not None}
    dropped = set[str]()
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        if sum(sizes[other] for other in dropped) < over:
            dropped.add(name)
    return tuple(replace(pattern, up=None) if pattern.name in dropped else pattern for pattern in patterns)


def _bits(up: np.ndarray) -> bytes:
    return np.packbits(up).tobytes()


def _compared(arithmetic: Arithmetic, chosen: Chosen) -> list[str]:
    """Names of the tensors and outputs that have one answer, in execution order."""
    uncertain = {*arithmetic.float_boundaries, *arithmetic.float_outputs}
    names = [*(pattern.name for pattern in chosen.patterns), *arithmetic.outputs]
    return [name for name in names if name not in uncertain]


def _content(
    arithmetic: Arithmetic, inputs: Sequence[str], chosen: Chosen, digests: Mapping[str, np.ndarray]
) -> bytes:
    """The file."""
    entries, arrays = list[dict[str, object]](), dict[str, np.ndarray]()
    for name, pattern, values in zip(inputs, chosen.given, tensors(chosen.inputs), strict=True):
        if pattern is None:
            arrays[probe.GIVEN + name] = values.numpy()
        entries.append({probe.NAME: name, **({} if pattern is None else {probe.PATTERN: pattern.facts()})})
    facts = {
        probe.TAKEN: entries,
        probe.TENSORS: [
            {probe.PATTERN: pattern.facts(), probe.OPERATOR: chosen.operators[pattern.name],
             probe.HAS_UP: pattern.up is not None} for pattern in chosen.patterns
        ],
        probe.RETURNED: [{probe.NAME: name, probe.OPERATOR: chosen.operators[name]} for name in arithmetic.outputs],
        probe.UNCERTAIN: [*arithmetic.float_boundaries, *arithmetic.float_outputs],
    }
    arrays[probe.FACTS] = np.frombuffer(json.dumps(facts, separators=(",", ":")).encode(), np.uint8)
    arrays[probe.UP] = np.frombuffer(
        b"".join(_bits(pattern.up) for pattern in chosen.patterns if pattern.up is not None), np.uint8)
    arrays[probe.DIGESTS] = np.stack([digests[name] for name in _compared(arithmetic, chosen)])
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)  # pyright: ignore[reportArgumentType] - no array is called `allow_pickle`
    return stream.getvalue()
