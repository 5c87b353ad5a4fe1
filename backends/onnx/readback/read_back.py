"""Whether an ONNX file says what the reference says must stand there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from isobit.backends.onnx.readback.reader import NoModel, Reader
from isobit.backends.onnx.readback.wanted import Wanted
from isobit.backends.readback.compare import Comparison
from isobit.backends.readback.description import Terms, Undescribed
from isobit.pipeline.proof.findings import Difference, ReadBack
from isobit.pipeline.stages import Reference


def read_back(
    reference: Reference, path: Path, integer_operators: bool, facts: Mapping[str, str] | None = None
) -> ReadBack:
    """Read the file at `path` and compare it with what must stand there.

    Args:
        integer_operators: it has operators of integer kernels (`onnx-qoperator`).
        facts: texts for programs by name, that it holds as well.
    """
    terms = Terms()
    try:
        wanted = Wanted(reference, terms, integer_operators, facts or {}).network
    except Undescribed as error:  # a correct artifact is not refused, and the report says that nothing was compared
        return ReadBack(reason=f"the reference holds what has no description ({error})")
    try:
        found = Reader(path, wanted.layers.keys() - {port.name for port in wanted.outputs}, terms)
    except NoModel as error:
        return ReadBack(differences=(Difference("", "the file", f"no ONNX model ({error})", "one"),))
    compared = Comparison(found.network, wanted)
    differences, unread = [*found.problems, *compared.differences], list(compared.unread)
    if not unread:
        differences += found.idle
    elif found.idle:  # the library that writes such operators leaves parts that nobody reads
        unread.append(f"{len(found.idle)} values that nobody reads")
    return ReadBack(found.operators, found.constants, tuple(differences), tuple(unread))
