"""Whether an ONNX file says what the reference says must stand there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from isobit.backends.onnx.readback.reader import Reader
from isobit.backends.onnx.readback.wanted import Wanted
from isobit.backends.readback.compare import Comparison
from isobit.backends.readback.description import Terms
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
    except Exception as error:  # a correct artifact is never refused, and the report says what was not compared
        return ReadBack(reason=f"the reference holds what has no description ({type(error).__name__}: {error})")
    try:
        found = Reader(path, wanted.layers.keys() - {port.name for port in wanted.outputs}, terms)
    except Exception as error:  # whatever the library says of bytes that are no model
        problem = Difference("", "the file", f"no ONNX model ({type(error).__name__})", "one")
        return ReadBack(differences=(problem,))
    compared = Comparison(found.network, wanted)
    differences, unread = [*found.problems, *compared.differences], list(compared.unread)
    if not unread:
        differences += found.idle
    elif found.idle:  # the library that writes such operators leaves parts that nobody reads
        unread.append(f"{len(found.idle)} values beside them that nobody reads")
    return ReadBack(found.operators, found.constants, tuple(differences), tuple(unread))
