"""Random networks as plain data: drawn from a seed, printed as a list, made smaller while something stays true of them.

Values are numbered: the inputs first, then the result of each step. A step with nothing to read that fits is not drawn.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tools.fuzz.operations import OPERATIONS, SCALES, Shape

INPUTS = ((3, 9, 9), (3, 9, 9), (1, 8, 11), (4, 7, 5), (8, 6, 6), (2, 16), (6, 13), (12,), (7,))
LARGEST = 4096  # numbers of one sample of a value
DATA = ("normal", "normal", "positive", "constant", "outlier")
LAYERS = ("conv2d", "conv1d", "linear")
TRIES = 40  # of a step, before a network is taken as it is
SAMPLES = 12
# What a parameter may become when a network is made smaller: the first that works.
SIMPLER: Mapping[str, tuple[Any, ...]] = {
    "scale": (1.0,), "dead": (False,), "outlier": (False,), "bias": (True,), "groups": (1,), "channels": (1, 2, 4),
    "kernel": ([1], [1, 1]), "stride": ([1], [1, 1], 1), "padding": ([0], [0, 0], 0), "dilation": ([1], [1, 1], 1),
    "seed": (0,), "ceil_mode": (False,), "count_include_pad": (True,), "value": (0.0,), "start": (0,), "step": (1,),
    "cut": (0,), "gate": (False,),
}


@dataclass(frozen=True)
class Step:
    """One operation: its row, the numbers of the values that it reads, its parameters."""

    op: str
    reads: tuple[int, ...]
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """One network and its samples.

    Args:
        inputs: shapes of one sample.
        outputs: numbers of values.
        data: how samples are drawn, see `samples`.
        scale: of the samples.
    """

    inputs: tuple[Shape, ...]
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]
    data: str = "normal"
    scale: float = 1.0

    def to_list(self) -> list[Any]:
        """The network as a list that Python reads; see `of`."""
        steps = [(step.op, list(step.reads), dict(step.parameters)) for step in self.steps]
        return [[list(shape) for shape in self.inputs], steps, list(self.outputs), self.data, self.scale]

    @classmethod
    def of(cls, text: str) -> Plan:
        """The network that `to_list` gives, printed."""
        inputs, steps, outputs, data, scale = ast.literal_eval(text)
        steps = tuple(Step(op, tuple(reads), parameters) for op, reads, parameters in steps)
        return cls(tuple(map(tuple, inputs)), steps, tuple(outputs), data, scale)

    def samples(self, count: int = SAMPLES) -> tuple[Tensor, ...]:
        """float32 [count, ...] of every input."""
        chance, made = torch.Generator().manual_seed(1), []
        for shape in self.inputs:
            x = torch.randn((count, *shape), generator=chance)
            if self.data == "positive":
                x = x.abs()
            elif self.data == "constant":
                x = torch.full_like(x, 0.5)
            elif self.data == "outlier":
                x.view(-1)[:: max(7, x.numel() // 5)] *= 1e4
            made.append(x * self.scale)
        return tuple(made)


class Drawn(nn.Module):
    """A plan as a module."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan, self.layers = plan, nn.ModuleDict()
        values: list[Tensor] = [torch.zeros(2, *shape) for shape in plan.inputs]
        for place, step in enumerate(plan.steps):
            row, read = OPERATIONS[step.op], [values[each] for each in step.reads]
            if row.layer is not None:
                self.layers[f"{step.op}_{place}"] = _layer(step, read[0])
            with torch.no_grad():
                values.append(self._run(place, step, read))
        self.eval()

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The plan's outputs: a tensor where there is one."""
        return self.follow(x)

    def follow(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The plan's outputs of all inputs."""
        values = list(inputs)
        for place, step in enumerate(self.plan.steps):
            values.append(self._run(place, step, [values[each] for each in step.reads]))
        outputs = tuple(values[each] for each in self.plan.outputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def _run(self, place: int, step: Step, read: list[Tensor]) -> Tensor:
        row = OPERATIONS[step.op]
        layer = () if row.layer is None else (self.layers[f"{step.op}_{place}"],)
        return row.run(*layer, step.parameters, *read)


def _layer(step: Step, x: Tensor) -> nn.Module:
    """The layer of a step that reads `x`; what it draws while it is made, and loses, is nobody else's chance."""
    make = OPERATIONS[step.op].layer
    if make is None:
        raise ValueError(f"{step.op} has no numbers of its own")
    with torch.random.fork_rng(devices=[]):
        return make(step.parameters, tuple(x.shape[1:])).eval()


class DrawnOfTwo(Drawn):
    """A plan with two inputs as a module."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.follow(x, y)


def module_of(plan: Plan) -> Drawn:
    """A plan as a module: `torch.export` wants every input named."""
    return Drawn(plan) if len(plan.inputs) == 1 else DrawnOfTwo(plan)


def draw_plan(seed: int) -> Plan:
    """The network of a seed; it has a layer, without which there is nothing to quantize."""
    chance = random.Random(seed)
    while True:
        plan = _draw(chance)
        if any(step.op in LAYERS for step in plan.steps):
            return plan


def _draw(chance: random.Random) -> Plan:
    shape = chance.choice(INPUTS)
    inputs = (shape,) * chance.choice((1, 1, 1, 1, 2))
    plan = Plan(inputs, (), (0,), chance.choice(DATA), chance.choice(SCALES))
    values = [torch.zeros(2, *shape) for shape in inputs]
    for _ in range(chance.choice((2, 3, 4, 5, 6, 8, 10))):
        step = _draw_step(chance, values)
        if step is None:
            break
        plan = replace(plan, steps=(*plan.steps, step))
    read = {each for step in plan.steps for each in step.reads}
    first, last = len(inputs), len(inputs) + len(plan.steps) - 1
    others = [each for each in range(first, last) if each not in read and chance.random() < 0.3]
    return pruned(replace(plan, outputs=(last, *others) if chance.random() < 0.7 else (*others, last)))


def _draw_step(chance: random.Random, values: list[Tensor]) -> Step | None:
    """A step that fits the values there are, whose result is added to them; None where none is found."""
    names, often = list(OPERATIONS), [row.often for row in OPERATIONS.values()]
    for _ in range(TRIES):
        name = chance.choices(names, often)[0]
        row = OPERATIONS[name]
        reads = [len(values) - 1 if chance.random() < 0.75 else chance.randrange(len(values))]
        shape = values[reads[0]].shape
        if len(shape) - 1 not in row.ranks:
            continue
        if row.operands == 2:
            fits = [place for place, value in enumerate(values) if _joins(shape, value.shape, row.joins)]
            others = [place for place in fits if place != reads[0]]
            reads.append(chance.choice(others or fits))
        parameters = row.draw(chance, [tuple(values[each].shape[1:]) for each in reads])
        step = Step(name, tuple(reads), parameters)
        result = _tried(step, values)
        if result is not None:
            values.append(result)
            return step
    return None


def _joins(first: torch.Size, second: torch.Size, joins: bool) -> bool:
    return first == second or (joins and len(first) == len(second) > 1 and first[2:] == second[2:])


def _tried(step: Step, values: list[Tensor]) -> Tensor | None:
    """What a step makes of zeros; None where it cannot be computed, or is empty or large."""
    row, read = OPERATIONS[step.op], [values[each] for each in step.reads]
    try:
        layer = () if row.layer is None else (_layer(step, read[0]),)
        with torch.no_grad():
            result = row.run(*layer, step.parameters, *read)
    except (RuntimeError, ValueError, IndexError, TypeError):
        return None
    fits = result.dim() in (2, 3, 4) and result.shape[0] == 2 and 2 <= result.numel() <= 2 * LARGEST
    return result if fits else None


def pruned(plan: Plan) -> Plan:
    """Without the steps and inputs that no output needs."""
    needed, first = set(plan.outputs), len(plan.inputs)
    for place in reversed(range(len(plan.steps))):
        if first + place in needed:
            needed |= set(plan.steps[place].reads)
    kept = sorted(needed)
    number = {old: new for new, old in enumerate(kept)}
    steps = tuple(
        replace(step, reads=tuple(number[each] for each in step.reads))
        for place, step in enumerate(plan.steps) if first + place in needed
    )
    inputs = tuple(shape for place, shape in enumerate(plan.inputs) if place in needed)
    return replace(plan, inputs=inputs, steps=steps, outputs=tuple(number[each] for each in plan.outputs))


def shrunk(plan: Plan, still: Callable[[Plan], bool], tries: int = 80) -> Plan:
    """A smaller network of which `still` says the same; it is asked at most `tries` times."""
    asked = 0
    while True:
        for smaller in _smaller(plan):
            if not _computes(smaller):
                continue
            if asked == tries:
                return plan
            asked += 1
            if still(smaller):
                plan = smaller
                break
        else:
            return plan


def _computes(plan: Plan) -> bool:
    try:
        module_of(plan)(*(x[:2] for x in plan.samples()))
    except (RuntimeError, ValueError, IndexError, TypeError):
        return False
    return bool(plan.steps)


def _smaller(plan: Plan) -> Iterator[Plan]:
    """Networks one step simpler, those that take away most first."""
    first = len(plan.inputs)
    for output in plan.outputs if len(plan.outputs) > 1 else ():
        yield pruned(replace(plan, outputs=(output,)))
    for cut in range(first, first + len(plan.steps) - 1):
        yield pruned(replace(plan, outputs=(cut,)))
    for place, step in enumerate(plan.steps):
        yield pruned(_without(plan, place, step.reads[0]))
    for name in ("data", "scale"):
        simple: Any = {"data": "normal", "scale": 1.0}[name]
        if getattr(plan, name) != simple:
            yield replace(plan, **{name: simple})
    for place, step in enumerate(plan.steps):
        for name, value in step.parameters.items():
            for simple in SIMPLER.get(name, ()):
                if simple == value:
                    break
                if isinstance(simple, list) == isinstance(value, list) and _length(simple) == _length(value):
                    parameters = {**step.parameters, name: simple}
                    yield _with_step(plan, place, replace(step, parameters=parameters))
    for place, shape in enumerate(plan.inputs):
        for axis, size in enumerate(shape):
            for less in dict.fromkeys((1, 2, size // 2, size - 1)):
                if 0 < less < size:
                    inputs = list(plan.inputs)
                    inputs[place] = (*shape[:axis], less, *shape[axis + 1:])
                    yield replace(plan, inputs=tuple(inputs))


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list) else 0


def _with_step(plan: Plan, place: int, step: Step) -> Plan:
    return replace(plan, steps=(*plan.steps[:place], step, *plan.steps[place + 1:]))


def _without(plan: Plan, place: int, instead: int) -> Plan:
    """Whoever read the step's result reads `instead`."""
    gone = len(plan.inputs) + place

    def moved(number: int) -> int:
        number = instead if number == gone else number
        return number - (number > gone)

    steps = [replace(step, reads=tuple(map(moved, step.reads))) for step in plan.steps]
    steps = (*steps[:place], *steps[place + 1:])
    return replace(plan, steps=steps, outputs=tuple(map(moved, plan.outputs)))
