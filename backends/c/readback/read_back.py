"""Whether the C files say what the reference says."""

from __future__ import annotations

from pathlib import Path

from isobit.backends.c.readback.calls import Run
from isobit.backends.c.readback.facts import counted, found_facts, held, identifier, sizes_of, wanted_facts
from isobit.backends.c.readback.layers import LAYERS
from isobit.backends.c.readback.leaving import LEAVING
from isobit.backends.c.readback.maps import MAPS
from isobit.backends.c.readback.scanner import NotUnderstood
from isobit.backends.c.readback.source import Source, read_source
from isobit.backends.c.readback.wanted import Wanted
from isobit.backends.fixed_point.program import Program
from isobit.backends.readback.compare import Comparison
from isobit.backends.readback.description import Network, Terms, Undescribed
from isobit.pipeline.proof.findings import Difference, ReadBack

SOURCE, HEADER, DESCRIPTION = "model.c", "model.h", "model.json"


def read_back(program: Program, folder: Path, name: str, profile: str) -> ReadBack:
    """Read the files in `folder` and compare them with what must stand there.

    Args:
        program: what the reference was lowered to.
        name: of the network.
        profile: of the target.
    """
    terms, name = Terms(), identifier(name)
    try:
        wanted = Wanted(program, terms)
    except Undescribed as error:  # a correct artifact is not refused, and the report says that nothing was compared
        return ReadBack(reason=f"the reference holds what has no description ({error})")
    try:
        texts = [(folder / file).read_text(encoding="utf-8") for file in (SOURCE, HEADER, DESCRIPTION)]
        source = read_source(texts[0], texts[1], name)
        run = _followed(source, terms)
        facts = found_facts(source, run, texts[2], program) | held(source, run)
    except (NotUnderstood, OSError, LookupError, AttributeError, TypeError, ValueError) as error:  # of any content
        return ReadBack(differences=(Difference("", "the files", str(error), "C as it is written"),))
    must = wanted_facts(program, profile, name) | counted(source, run)
    compared = Comparison(Network((), (), {**run.tensors, **run.outputs}, facts),
                          Network((), (), wanted.tensors, must, wanted.layers))
    return ReadBack(len(source.calls), len(source.arrays), (*run.problems, *compared.differences), compared.unread)


def _followed(source: Source, terms: Terms) -> Run:
    run = Run(source, sizes_of(source), terms)
    run.follow({**LAYERS, **MAPS, **LEAVING})
    return run
