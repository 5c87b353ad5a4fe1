"""What is compared: a target's arithmetic on a frozen graph, and whatever runs the artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from isobit.pipeline.proof.counts import Reach
from isobit.pipeline.quant.pattern import Pattern
from isobit.pipeline.samples.network_inputs import Inputs


class Runner(Protocol):
    """Anything that runs a batch: the target's integer arithmetic, or a session of the artifact."""

    def run(self, x: Inputs) -> Mapping[str, np.ndarray]:
        """Codes of every quantized tensor by quantizer name in execution order, and every output by its name, float32.
        """
        ...


@dataclass(frozen=True)
class Followed:
    """A run of the arithmetic that took over a session's codes after float operators.

    Args:
        results: as of `Runner.run`; codes right after a float operator are the arithmetic's own, from what the session
            fed to that operator.
        bounds: for each of those tensors the least and largest code that float rounding can explain, uint8; of outputs
            in float, where several operators' roundings add up, the least and largest number.
    """

    results: Mapping[str, np.ndarray]
    bounds: Mapping[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Chosen:
    """Samples and codes that are made to show what kernels compute.

    Args:
        inputs: of the network.
        codes: uint8 [N, ...] by the name of every quantized tensor, to be read in the place of what is computed there.
        levels: how many codes each of these tensors may have.
        given: what the numbers of each input were made of; None for one of integers.
        patterns: what the codes of each tensor were made of, in execution order.
        operators: what computes each of these tensors and each output, for people.
    """

    inputs: Inputs
    codes: Mapping[str, np.ndarray]
    levels: Mapping[str, int]
    given: tuple[Pattern | None, ...]
    patterns: tuple[Pattern, ...]
    operators: Mapping[str, str]


class Pieces(Protocol):
    """An artifact whose layers are run on chosen codes, each by itself."""

    def run(self, x: Inputs, codes: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """As `Runner.run`, of layers that read `codes` in the place of what was computed; that is what is returned."""
        ...


class Arithmetic(Runner, Protocol):
    """A target's integer arithmetic on a frozen graph.

    Attributes:
        float_boundaries: quantized tensors right after operators that the runtime computes in float.
        jumping: those of them after `floor` and others, where float rounding may move a code by many steps.
        outputs: names of the network's outputs, in their order.
        float_outputs: those of them that such an operator gives.
    """

    float_boundaries: tuple[str, ...]
    jumping: frozenset[str]
    outputs: tuple[str, ...]
    float_outputs: tuple[str, ...]

    def follow(self, x: Inputs, codes: Mapping[str, np.ndarray]) -> Followed:
        """Run with the codes of every float boundary taken from `codes`."""
        ...

    def every_input(self) -> Sequence[Reach]:
        """For each quantized tensor, from integers alone: whether this is the mathematics for every input."""
        ...

    def directed(self, like: Inputs) -> Chosen | None:
        """Samples that are made to bring every layer by itself to its ends, after one of the network's; None for none.
        """
        ...

    def pieces(self, x: Inputs, codes: Mapping[str, np.ndarray]) -> Followed:
        """Run every layer on chosen codes: who reads a tensor of `codes` reads them, whatever was computed there."""
        ...
