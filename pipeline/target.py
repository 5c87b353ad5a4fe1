"""What a runtime can do, as data: a backend publishes one `Target`; passes read it and never name a runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from isobit.pipeline.errors import TargetError
from isobit.pipeline.graph.calls import Call
from isobit.pipeline.operators.joined import joined_after
from isobit.pipeline.operators.moves import MOVES
from isobit.pipeline.operators.unary import UNARY
from isobit.pipeline.quant.grid import Grid

Inputs = Literal["quantized", "residual", "accumulator", "integers", "float"]
Output = Literal["own", "fixed", "shared", "as_input", "integers", "none"]
FloatOperators = Literal["nowhere", "after_layers", "anywhere"]


@dataclass(frozen=True)
class OpRule:
    """Where quantizers must stand around one operator.

    Args:
        inputs: `quantized`: every tensor that enters is on a grid; `residual`: so it is, but one operand may be the
            32-bit sum of a layer that nothing else reads, which never becomes a code of its own; `accumulator`: any
            wide sum may enter (the papers' residual addition); `integers`: tokens, which have no grid; `float`: the
            runtime computes it in float.
        output: `own`: a grid of its own; `fixed`: the grid given by `fixed`; `shared`: own, and producers that feed
            nothing else take it over; `as_input`: a layout operator, codes pass unchanged; `integers`: numbers that
            have no grid, the place of a largest element; `none`: stays off any grid.
        fixed: scale and zero point where `output` is `fixed`.
        absorbs: operators that the runtime fuses after this one, before the output is quantized.
        inner_bits: bits of a layer's output without an activation after it that feeds only operators with this
            entry; the papers leave such a tensor in float (the branch before a residual sum).
        reason: why it is computed in float, for the placement table.
    """

    inputs: Inputs
    output: Output
    fixed: tuple[float, int] | None = None
    absorbs: tuple[str, ...] = ()
    inner_bits: int | None = None
    reason: str = ""


def unary_rule(op: str, rule: OpRule) -> OpRule:
    """`rule` for operator `op` of one tensor: its result is on the grid that its row fixes, where it fixes one."""
    fixed = UNARY[op].fixed
    return rule if fixed is None else replace(rule, output="fixed", fixed=fixed)


@dataclass(frozen=True)
class WeightLimits:
    """What the weights of integer kernels must keep to.

    Args:
        zero_points: kernels take a zero point per channel other than 0. Where they do not, asymmetric weights of few
            bits are re-encoded exactly (`code - zero_point` fits int8 for 7 bits or fewer).
        wide_limit: largest code magnitude where the input has 8 bits (saturating int16 pair sums); None for no limit.
        wide_limit_reason: shown to the user beside the limit.
        packed: weights of at most so many bits lie packed in the artifact; one of more takes a byte.
        depthwise_bits: what a weight of a depthwise convolution takes, however few it has; None: as any other.
    """

    zero_points: bool = True
    wide_limit: int | None = None
    wide_limit_reason: str = ""
    packed: int = 4
    depthwise_bits: int | None = None

    def stored_bits(self, bits: int, depthwise: bool = False) -> int:
        """What a weight of `bits` takes in the artifact, of a depthwise convolution or of another layer."""
        if depthwise and self.depthwise_bits is not None:
            return self.depthwise_bits
        return bits if bits <= self.packed else 8


@dataclass(frozen=True)
class SumLimits:
    """What integer kernels add in.

    Args:
        largest: magnitude that a finished sum may have: int32, or the integers that a float holds.
        of_bytes: bytes are multiplied as they are stored, with zero points inside the bias, and no partial sum may
            leave either; otherwise zero points come off first, or sums wrap around until they are finished.
    """

    largest: int = 2**31 - 1
    of_bytes: bool = False


@dataclass(frozen=True)
class Note:
    """What a user should know before building for a runtime.

    Args:
        text: one sentence; `{weights}` and `{activations}` stand for the recipe's bits.
        activations_below: it concerns recipes whose activations have fewer bits than this; 9 for all.
        both_from: it concerns recipes whose weights and activations have at least so many; 0 for all.
    """

    text: str
    activations_below: int = 9
    both_from: int = 0

    def concerns(self, weight_bits: int | str, activation_bits: int) -> bool:
        """Whether a recipe has such bits; weights that several widths share have none of their own."""
        least = min(int(weight_bits) if str(weight_bits).isdecimal() else 0, activation_bits)
        return self.both_from <= least and activation_bits < self.activations_below


@dataclass(frozen=True)
class Target:
    """A runtime and device profile.

    Args:
        name: what a user calls it: `onnx`.
        profile: what a user calls the device: `vnni`.
        ops: canonical operator name (see `pipeline.graph.dialect`) -> rule. An operator that is missing runs in float.
        tables: rule of every operator of one tensor (`pipeline.operators.unary`) that `ops` does not name: it runs as a
            table of all codes, together with those that follow it. None where there are no such tables.
        moves: rule of operators that move codes (`pipeline.operators.moves`) and are not in `ops`; None: in float.
        fills: rule of those that move codes beside a number that the grid may not hold; None: in float.
        in_float: operators that are computed in float with the float operator before them, so that no grid stands
            between the two.
        float_operators: where operators may be computed in float: `nowhere`, only `after_layers`
            (`pipeline.graph.layers.after_layers`; `anywhere` where the user allows it), or `anywhere`.
        left_float: operators of one network, by node name, that it computes in float although it has kernels for others
            of the kind, with the reason.
        weights: limits on weight codes.
        sums: limits on integer sums.
        grids: kinds of grids (`levels` of a recipe) whose codes its kernels hold; None for every kind.
        quantized_bias: biases are int32 at scale input * weight.
        input_bits: bits of the network input; None leaves it in float.
        float_bits: bits of a tensor that leaves or enters a float operator, and of a quantized network output.
        float_lines: the sums of a last linear layer leave in float over several lines of a sample ([N, L, F]) as well;
            False: only over one ([N, F]).
        placements: which `placement` of a recipe can be honoured.
        containers: how `activation`, `weight` and `bias` codes are stored, for the manifest.
        gates: parity rules that fail the build, in words; the backend enforces them.
        notes: what users of this runtime should know; see `notes_for`.
        schema_version: version of this description's form.
    """

    name: str
    profile: str
    ops: Mapping[str, OpRule]
    tables: OpRule | None = None
    moves: OpRule | None = None
    fills: OpRule | None = None
    in_float: tuple[str, ...] = ()
    float_operators: FloatOperators = "anywhere"
    left_float: Mapping[str, str] = field(default_factory=dict)
    weights: WeightLimits = WeightLimits()
    sums: SumLimits = SumLimits()
    grids: frozenset[str] | None = frozenset({Grid.kind})
    quantized_bias: bool = True
    input_bits: int | None = 8
    float_bits: int = 8
    float_lines: bool = True
    placements: tuple[str, ...] = ("target",)
    containers: Mapping[str, str] = field(
        default_factory=lambda: {"activation": "uint8", "weight": "int8", "bias": "int32"}
    )
    gates: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()
    schema_version: int = 1

    def rule(self, op: str) -> OpRule:
        """The rule of canonical operator `op`; float, with the reason, where the target has none."""
        if self.tables is not None and op in UNARY and op not in self.ops:
            return unary_rule(op, self.tables)
        missing = OpRule("float", "none", absorbs=self.in_float, reason=f"{self.name} has no integer kernel for {op}")
        if op in self.ops or op not in MOVES:
            return self.ops.get(op, missing)
        return (self.fills if MOVES[op].own_grid else self.moves) or missing

    def rule_of(self, call: Call) -> OpRule:
        """The rule of an operator; float where the recipe keeps it so."""
        kept = call.kept_float
        return OpRule("float", "none", absorbs=self.in_float, reason=kept) if kept else self.rule(call.op)

    def with_float(self) -> Target:
        """The same runtime where the user allows float operators anywhere.

        Raises:
            TargetError: it has none.
        """
        if self.float_operators == "nowhere":
            raise TargetError(
                f"target '{self.name}' computes no operator in float", field="options.allow_float",
                hint="Leave it out, or `target=onnx`, which needs no permission.",
            )
        return replace(self, float_operators="anywhere")

    def holds(self, kind: str) -> bool:
        """Its kernels hold grids of this kind."""
        return self.grids is None or kind in self.grids

    def runs_with(self, call: Call) -> tuple[Call, ...]:
        """The operators after `call` that the runtime computes together with it, in order."""
        if self.tables is not None and call.op in UNARY and call.op not in self.ops and not call.kept_float:
            return joined_after(call)
        names, found = self.rule_of(call).absorbs, list[Call]()
        while len(call.readers) == 1 and call.readers[0].op in names:
            call = call.readers[0]
            found.append(call)
        return tuple(found)

    def notes_for(self, weight_bits: int | str, activation_bits: int) -> list[str]:
        """The notes that concern a recipe of these bits; those of weights as its name says them, `4` or `mp3`."""
        bits = {"weights": weight_bits, "activations": activation_bits}
        return [note.text.format(**bits) for note in self.notes if note.concerns(weight_bits, activation_bits)]
