"""Where a network's integers end: what decodes its answers at the outputs is found from the outputs backwards.

A detector's last layers give numbers that its last operators turn into boxes: sigmoid and softmax make scores, exp and
arithmetic with anchors make places, levels are joined, the best are chosen. None of it is worth integers: boxes in
pixels on one grid of 8 bits are pixels apart, levels that meet would share a grid, and there is little to compute. So
everything from the first such operator of a branch on is left in float, after the *cut*.

    scores      sigmoid, softmax, unless they only gate another value
    places      exp, and arithmetic with a constant for each place (anchors, strides); one number for all is no reason
    choices     top k, sorting, comparison, gathering by computed indices, non-maximum suppression
    the rest    whatever reads what one of them gave

An operator that moves values and is not after one of those stays where it is: it moves codes. A lone activation or
product that ends the only output of a network is no decoding.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from torch import fx

from isobit.pipeline.errors import InputError, nearest_spelling
from isobit.pipeline.graph.calls import Call, Calls
from isobit.pipeline.graph.dialect import ACTIVATIONS, WEIGHTED
from isobit.pipeline.graph.file_nodes import file_node_names
from isobit.pipeline.graph.grid_map import lays_out
from isobit.pipeline.graph.layers import Layers, after_layers
from isobit.pipeline.graph.nodes import TUPLE_ENTRY, source_line
from isobit.pipeline.graph.ports import output_names, output_node

META = "decoding"
# What `--cut` takes to leave nothing in float for being decoding.
NO_CUT = "none"
CHOSEN = "as was chosen"
SOFTMAXES = frozenset({"softmax", "log_softmax"})
SCORES = SOFTMAXES | {"sigmoid"}
_CHOOSES = "chooses among boxes"
_KINDS = {
    "makes scores of logits": SCORES,
    "makes sizes": frozenset({"exp"}),
    _CHOOSES: frozenset({
        "topk", "sort", "argsort", "nonzero", "where", "nms", "gt", "ge", "lt", "le", "eq", "ne", "max", "min",
        "masked_fill",
    }),
}
_BY_INDICES = frozenset({"gather", "index", "index_select", "take_along_dim"})  # a choice where those are computed
_WITH_CONSTANTS = ("add", "sub", "rsub", "mul", "div", "pow")
_FACTORS = ("mul_constant", "div_constant", "neg")  # change a scale alone


@dataclass(frozen=True)
class CutPoint:
    """A value at which integers end.

    Args:
        name: of its node in the plan.
        layer: name of the layer, or path of the module, that computes it.
        source: the file's node or the user's line; may be empty.
        why: what the first operator after it does.
    """

    name: str
    layer: str
    source: str
    why: str

    @property
    def text(self) -> str:
        """The place as plan and report print it: `classes (net.py:58)`."""
        return (self.layer or self.name) + (f" ({self.source})" if self.source else "")


def mark_decoding(graph: fx.GraphModule, names: Collection[str] = ()) -> bool:
    """Write `meta["decoding"]`, the reason, on every operator after the cut of a prepared float graph.

    Args:
        names: where integers end, as the plan prints nodes, layers and outputs, or the file's nodes; `none` for
            nowhere; nothing for what is found.

    Raises:
        InputError: there is no such place, nothing lies after any of them, or after one there is another or a layer.
    """
    calls = Calls(graph)
    found = _Places(calls).chosen(names) if names else _found(calls)
    for node in graph.graph.nodes:
        node.meta.pop(META, None)
    end = output_node(graph)
    for call, reason in found.items():
        call.node.meta[META] = reason
        end.prepend(call.node)  # nothing before the cut reads it
    return bool(found)


def decodes(node: fx.Node) -> str:
    """Why an operator is after the cut; empty where it is not."""
    return node.meta.get(META, "")


def keep_in_integers(node: fx.Node) -> None:
    """Take an operator's mark away: a recipe wants it in integers, though it decodes."""
    node.meta.pop(META, None)


def makes_scores(call: Call) -> bool:
    """A sigmoid or softmax whose values are scores, and do not only gate others."""
    return call.op in SCORES and not (call.op == "sigmoid" and _only_gates(call))


def cut_points(graph: fx.GraphModule) -> tuple[CutPoint, ...]:
    """The values at which integers end, in execution order; none where nothing decodes."""
    calls = Calls(graph)
    layers, found = Layers(calls), dict[Call, str]()
    for call in calls:
        if decodes(call.node) and not call.is_size:
            for source in call.inputs:
                for value in _computed(source):
                    found.setdefault(value, f"{call.op} {decodes(call.node)}")
    ordered = [call for call in calls if call in found]
    return tuple(CutPoint(call.name, layers.name(call), source_line(call.node), found[call]) for call in ordered)


def _computed(value: Call) -> Iterable[Call]:
    """The operators before the cut that computed a value, through all that only lays values out and quantizes them."""
    waiting = [value]
    while waiting:
        call = waiting.pop()
        if decodes(call.node) or call.constant or call.is_size:
            continue
        if call.node.op == "call_module" or lays_out(call.op):
            waiting.extend(call.inputs)
        elif call.op:
            yield call


def _found(calls: Calls) -> dict[Call, str]:
    """What decodes, with the reason, in execution order."""
    after, depending = after_layers(calls), _depending(calls)
    found: dict[Call, str] = {}
    for call in calls:
        if call not in after or call.is_size or call.constant:
            continue
        if any(source in found for source in call.inputs):
            found[call] = "reads what is decoded"
        elif reason := _reason(call, depending):
            found[call] = reason
    for call in reversed(calls):  # a factor between a layer and what decodes
        if call in after and call.op in _FACTORS and call.readers and all(user in found for user in call.readers):
            found.setdefault(call, "computes with constants")
    found = {call: found[call] for call in calls if call in found}
    computing = [call for call in found if not lays_out(call.op) and call.op != TUPLE_ENTRY]
    alone = len(calls.outputs) == 1 and len(computing) == 1
    return {} if alone and computing[0].op not in SOFTMAXES else found


def _depending(calls: Calls) -> set[Call]:
    """The calls whose numbers depend on the network's input, not on its size alone."""
    found: set[Call] = set()
    for call in calls:
        if call.is_input or (not call.is_size and any(source in found for source in call.inputs)):
            found.add(call)
    return found


def _reason(call: Call, depending: Collection[Call]) -> str:
    """What an operator decodes from values that a layer gave; empty where it decodes nothing."""
    if call.op in SCORES and not makes_scores(call):
        return ""
    if call.op in _BY_INDICES:
        return _CHOOSES if sum(source in depending for source in call.inputs) > 1 else ""
    reason = next((reason for reason, names in _KINDS.items() if call.op in names), "")
    if not reason and call.op.partition("_")[0] in _WITH_CONSTANTS and any(map(_differs, call.sources)):
        return "computes with constants"
    return reason


def _differs(constant: Call) -> bool:
    """A constant of several numbers."""
    return constant.constant and any(size != 1 for size in constant.shape)


def _only_gates(sigmoid: Call) -> bool:
    """It is read by products with values that no score is in: x * sigmoid(x), a squeeze-and-excitation."""
    return bool(sigmoid.readers) and all(
        user.op.startswith("mul") and len(others := [s for s in user.inputs if s is not sigmoid]) == 1
        and not _holds_score(others[0]) for user in sigmoid.readers
    )


def _holds_score(value: Call) -> bool:
    """A sigmoid or softmax lies between the last layer and the value."""
    waiting = [value]
    while waiting:
        call = waiting.pop()
        if call.op in SCORES:
            return True
        if call.op and call.op not in WEIGHTED:
            waiting.extend(call.inputs)
    return False


# --- what the user chose ------------------------------------------------------------------------------------------


class _Places:
    """The places of a graph at which a user may have integers end, by all of their names."""

    def __init__(self, calls: Calls) -> None:
        self.calls, self.layers, self.after = calls, Layers(calls), after_layers(calls)
        operators = [call for call in calls if call.op and not call.constant]
        self.named: dict[str, set[Call]] = {}
        for call in operators:
            layer = self.layers.name(call) if call.op in WEIGHTED else ""
            for name in filter(None, (layer, *file_node_names(call.node))):
                self.named.setdefault(name, set()).add(_with_activation(call))
        self.named |= {call.name: {call} for call in operators}
        self.named |= {name: {call} for name, call in zip(output_names(calls.graph), calls.outputs, strict=True)}

    def chosen(self, names: Collection[str]) -> dict[Call, str]:
        """What lies after the places of these names."""
        place = f"cut {', '.join(names)}"
        if NO_CUT in names:
            if len(names) > 1:
                raise InputError(
                    f"a cut cannot be both '{NO_CUT}' and somewhere", where=place, field="options.cut",
                    allowed=f"{NO_CUT} alone, or names of places", hint=f"Leave out '{NO_CUT}', or the other names.",
                )
            return {}
        origins = self._origins(names)
        found: dict[Call, str] = {}
        started: dict[Call, str] = {}  # after which name each value lies
        for call in self.calls:
            before = next((started[source] for source in call.inputs if source in started), "")
            if call in origins and before:
                raise InputError(
                    f"'{origins[call]}' is computed from '{before}': integers cannot end at both", where=place,
                    field="options.cut", allowed=self._allowed(), hint=f"Leave out '{before}' or '{origins[call]}'.",
                )
            if (call in origins or before) and not call.is_size:
                started[call] = origins.get(call, before)
            if before and call.op and not call.is_size:
                found[call] = CHOSEN
        self._check(found, names, place)
        return found

    def _origins(self, names: Collection[str]) -> dict[Call, str]:
        """The values at which integers end, with the name that each was chosen by."""
        unknown = next((name for name in names if name not in self.named), None)
        if unknown is not None:
            raise InputError(
                f"there is no place '{unknown}' to cut the network at", where=f"cut {', '.join(names)}",
                field="options.cut", allowed=self._allowed(), hint=nearest_spelling(unknown, sorted(self.named)),
            )
        return {call: name for name in names for call in self.named[name]}

    def _check(self, found: Collection[Call], names: Collection[str], place: str) -> None:
        """Refuse a cut after which a layer lies, or nothing though something decodes."""
        late = next((call for call in found if call not in self.after), None)
        if late is not None:
            raise InputError(
                f"a layer lies after the cut: {self.layers.name(late) or late.name} is computed from what is to be "
                "left in float", where=place, field="options.cut", allowed=self._allowed(),
                hint="To keep a layer in float use an override with `float: true`.",
            )
        decoded = _found(self.calls)
        mute = next((name for name in names if all(self._is_last(call, decoded) for call in self.named[name])), "")
        if mute or not found:
            raise InputError(
                f"nothing lies after '{mute or next(iter(names))}', which the network gives as it is", where=place,
                field="options.cut", allowed=self._allowed(),
                hint=f"Name what this output is decoded from; `{NO_CUT}` leaves nothing in float.",
            )

    @staticmethod
    def _is_last(call: Call, decoded: Collection[Call]) -> bool:
        """An output that is decoded already."""
        return call in decoded and all(reader.is_output for reader in call.readers)

    def _allowed(self) -> str:
        """The values that no layer lies after, by the names of layers where they have some."""
        last = [
            call for call in self.calls
            if call.op in WEIGHTED and all(user in self.after or user.is_output for user in call.readers)
        ]
        names = [self.layers.name(call) for call in last]
        names += [call.name for call in self.calls if call in self.after and not call.is_size]
        shown = list(dict.fromkeys(filter(None, names)))
        return ", ".join([NO_CUT, *shown[:20], *(["..."] if len(shown) > 20 else [])])


def _with_activation(call: Call) -> Call:
    """The clamp that is computed with a layer, where one follows it: a layer's place is the last of both."""
    follows = call.op in WEIGHTED and len(call.readers) == 1 and call.readers[0].op in ACTIVATIONS
    return call.readers[0] if follows else call
