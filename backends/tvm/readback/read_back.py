"""Whether a TVM module and its description say what the reference says.

Every function of `model.so` is read: which kernels it calls, where each argument comes from, what it returns, every
constant; and `device.json`. The machine code of the kernels is out of this reader's reach: what a kernel computes is
shown by chosen codes and samples. Of an operator in float, whose body TVM's own importer writes, what it reads is
compared, its parameters among that, and that its value is computed from all of it.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isobit.backends.fixed_point.floats.steps import Compute
from isobit.backends.fixed_point.program import Program
from isobit.backends.readback.compare import Comparison
from isobit.backends.readback.description import Network, Terms, Undescribed
from isobit.backends.tvm.profiles import DeviceProfile
from isobit.backends.tvm.readback.executable import Executable, NoModule, read_executable
from isobit.backends.tvm.readback.facts import found_facts, wanted_facts
from isobit.backends.tvm.readback.flow import Call, Flow, NotUnderstood, follow
from isobit.backends.tvm.readback.numbering import Numbering
from isobit.backends.tvm.readback.numbers import Wanted
from isobit.backends.tvm.readback.processors import PROCESSORS
from isobit.backends.tvm.readback.wanted import Kernel, WantedCall, WantedFlow, WantedModule, operator_of
from isobit.pipeline.proof.findings import Difference, ReadBack

MODEL, DESCRIPTION = "model.so", "device.json"


def read_back(program: Program, folder: Path, profile: DeviceProfile) -> ReadBack:
    """Read the files in `folder` and compare them with what must stand there.

    Args:
        program: what the reference was lowered to.
        profile: of the target.
    """
    try:
        wanted = WantedModule(program, PROCESSORS[profile.flavour])
    except Undescribed as error:  # a correct artifact is not refused, and the report says that nothing was compared
        return ReadBack(reason=f"the reference holds what has no description ({error})")
    try:
        content = (folder / MODEL).read_bytes()
        executable = read_executable(content)
        said = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        flows = {name: follow(executable, name) for name in wanted.functions if name in executable.functions}
        facts = found_facts(content, executable, said)
    except (NoModule, NotUnderstood, OSError, LookupError, AttributeError, TypeError, ValueError) as error:
        return ReadBack(differences=(Difference("", "the files", str(error), "a module as it is written"),))
    description = _Description(executable, wanted, flows)
    unread = {operator_of(step.call) for step in program.steps if isinstance(step, Compute)}
    must = wanted_facts(program, profile, wanted)
    compared = Comparison(Network((), (), description.found, facts | description.facts),
                          Network((), (), description.wanted, must | description.must, description.layers))
    arrays = sum(isinstance(each, np.ndarray) for each in executable.constants)
    calls = sum(len(flow.calls) for flow in flows.values())
    return ReadBack(calls, arrays, tuple(compared.differences), tuple(sorted(unread)))


@dataclass(frozen=True)
class _Both:
    """A call that stands there and one that must, either may be missing."""

    function: str
    number: int
    found: Call | None
    wanted: WantedCall | None


class _Description:
    """Both sides in the same words, call by call.

    Attributes:
        found, wanted: calls by name.
        facts, must: what else functions say.
        layers: by the name of a call.
    """

    def __init__(self, executable: Executable, module: WantedModule, flows: Mapping[str, Flow]) -> None:
        self.found: dict[str, Any] = {}
        self.wanted: dict[str, Any] = {}
        self.facts: dict[str, Any] = {}
        self.must: dict[str, Any] = {}
        self.layers: dict[str, str] = {}
        self._terms, self._numbering = Terms(), Numbering()
        self._known: dict[tuple[int, ...], tuple[dict[str, Any], dict[str, Any], Hashable]] = {}
        for name, wanted in module.functions.items():
            if name in flows:
                self._borders(name, flows[name], wanted)
                for both in _pairs(name, flows[name], wanted):
                    self._call(both)

    def _borders(self, name: str, found: Flow, wanted: WantedFlow) -> None:
        for facts, flow in ((self.facts, found), (self.must, wanted)):
            for number, parameter in enumerate(flow.parameters):
                facts[f"{name}, parameter {number}"] = f"{parameter.name} {parameter.kind} {list(parameter.shape)}"
            values = ", ".join("nothing" if value is None else str(value) for value in flow.returned)
            facts[f"{name}, returned"] = f"({values})" if flow.several else values

    def _call(self, both: _Both) -> None:
        name, found, wanted = f"{both.function}, call {both.number}", both.found, both.wanted
        if found is None or wanted is None:
            self.facts[name], self.must[name] = found and found.callee, wanted and wanted.kernel.name
            return
        kernel = wanted.kernel
        name = f"{name} ({kernel.step})" if kernel.step else name
        self.layers[name] = kernel.layer or kernel.step
        reads, given = found.arguments[:len(wanted.reads)], found.arguments[len(wanted.reads):]
        constants = sum(each.count for each in kernel.constants)
        read = [self._constants(each, arrays) for each, arrays in _divided(kernel, given)]
        shapes = (*((each.dtype.name, each.shape) for each in given if isinstance(each, np.ndarray)),
                  *(way for _, _, way in read))
        is_: dict[str, Any] = {"kernel": found.callee}
        must: dict[str, Any] = {"kernel": self._numbering.wanted(found.callee, kernel, shapes)}
        for number, value in enumerate(reads):
            is_[f"argument {number}"] = self._read(value)
        for number, value in enumerate(wanted.reads):
            must[f"argument {number}"] = self._read(value)
        is_["constants"], must["constants"] = len(given), constants
        is_["result"], must["result"] = (_result(each) for each in (found, kernel))
        for found_fields, wanted_fields, _ in read:
            is_ |= found_fields
            must |= wanted_fields
        self.found[name] = self._terms.operator(kernel.name, **is_)
        self.wanted[name] = self._terms.operator(kernel.name, **must)

    def _read(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return self._terms.constant(value)
        return "nothing" if value is None else str(value)

    def _constants(
        self, wanted: Wanted, arrays: Sequence[np.ndarray | None]
    ) -> tuple[dict[str, Any], dict[str, Any], Hashable]:
        """What is read of constants, once for all functions that give them to the same kernel."""
        key = (id(wanted), *map(id, arrays))
        if key not in self._known:
            self._known[key] = wanted.read(arrays, self._terms)
        return self._known[key]


def _divided(kernel: Kernel, given: Sequence[Any]) -> Iterator[tuple[Wanted, list[np.ndarray | None]]]:
    """Each of a kernel's constants, and what stands in its place; None for what is missing, or no constant."""
    arrays = [each if isinstance(each, np.ndarray) else None for each in given]
    arrays += [None] * sum(each.count for each in kernel.constants)
    place = 0
    for each in kernel.constants:
        yield each, arrays[place:place + each.count]
        place += each.count


def _pairs(name: str, found: Flow, wanted: WantedFlow) -> Iterator[_Both]:
    for number in range(max(len(found.calls), len(wanted.calls))):
        yield _Both(name, number, found.calls[number] if number < len(found.calls) else None,
                    wanted.calls[number] if number < len(wanted.calls) else None)


def _result(call: Any) -> str:
    return "its own" if call.shape is None else f"{call.kind} {list(call.shape)}"
