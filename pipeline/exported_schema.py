"""What the description of an exported program may say: every field of it, checked and copied, before torch reads it.

`torch.export.load` evaluates expressions, writes names into source code that it runs, imports what a tree of inputs
names and looks operators up in all of torch. So each field has a grammar here; what has none is left out of the copy,
and what does not fit its grammar is an `Unsafe` with the field's place.
"""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from pipeline.exported_expressions import SYMBOL, is_expression, is_guard
from pipeline.exported_operators import is_known

Check = Callable[[Any, str], Any]

MAX_NAME, MAX_TEXT, MAX_ITEMS = 300, 2000, 200_000
TREE_DEPTH = 8
INT_LIMIT = 2**63
ENUM_LIMIT = 64
# Names that the code which torch writes for a graph uses itself.
_TAKEN = frozenset({"self", "torch", "device", "inf", "nan", "NoneType", "fx_pytree", "pytree", "operator", "math"})
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PATH = re.compile(r"[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*")
_VERSION = re.compile(r"[0-9A-Za-z.+<=_-]{1,60}")
_FRAME = re.compile(r'File "([^"\r\n]+)", line (\d{1,9})')
_MODULE_ATTRIBUTES = frozenset(dir(nn.Module())) | {"forward"}
_TREE_NODES = ("builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")
_INFINITIES = ("Infinity", "-Infinity", "NaN")


class Unsafe(Exception):
    """A field that does not fit its grammar.

    Args:
        field: its place: `graph_module.graph.nodes[3].target`.
        found: what stands there, shortened.
        allowed: what may stand there.
    """

    def __init__(self, field: str, found: Any, allowed: str) -> None:
        super().__init__(field)
        self.field, self.allowed = field, allowed
        text = repr(found) if isinstance(found, str | int | float | bool | None) else f"a {type(found).__name__}"
        self.found = text if len(text) <= 80 else text[:77] + "..."


# --- values ---


def _matching(pattern: re.Pattern[str], limit: int, allowed: str) -> Check:
    def check(value: Any, field: str) -> str:
        if not isinstance(value, str) or len(value) > limit or not pattern.fullmatch(value):
            raise Unsafe(field, value, allowed)
        return value

    return check


def name(value: Any, field: str) -> str:
    """A name of a value in the graph: it becomes a variable in code."""
    allowed = "a plain name (letters, digits, underscores)"
    if not isinstance(value, str) or len(value) > MAX_NAME or not _NAME.fullmatch(value):
        raise Unsafe(field, value, allowed)
    if keyword.iskeyword(value) or value in _TAKEN or value.startswith("__"):
        raise Unsafe(field, value, f"{allowed} that Python and torch do not use themselves")
    return value


def path(value: Any, field: str) -> str:
    """A name of a parameter or buffer: its parts become attributes of modules."""
    allowed = "names joined by dots"
    if not isinstance(value, str) or len(value) > MAX_NAME or not _PATH.fullmatch(value):
        raise Unsafe(field, value, allowed)
    if any(part.startswith("__") or part in _MODULE_ATTRIBUTES for part in value.split(".")):
        raise Unsafe(field, value, f"{allowed} that are not attributes of every torch module")
    return value


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT or not value.isprintable():
        raise Unsafe(field, value, f"at most {MAX_TEXT} printable characters")
    return value


def _expression(value: Any, field: str) -> str:
    if not isinstance(value, str) or not is_expression(value):
        raise Unsafe(field, value, "whole numbers, symbols (s0) and arithmetic")
    return value


def _guard(value: Any, field: str) -> str:
    if not isinstance(value, str) or not is_guard(value):
        raise Unsafe(field, value, "a condition on the sizes of inputs")
    return value


def _operator(value: Any, field: str) -> str:
    if not isinstance(value, str) or not is_known(value):
        raise Unsafe(field, value, "a functional operator of torch.ops.aten, or arithmetic on sizes")
    return value


def integer(value: Any, field: str) -> int:
    """A whole number of 64 bits; True and False are none."""
    if type(value) is not int or not -INT_LIMIT <= value < INT_LIMIT:
        raise Unsafe(field, value, "a whole number of 64 bits")
    return value


def _enumeration(value: Any, field: str) -> int:
    if type(value) is not int or not 0 <= value < ENUM_LIMIT:
        raise Unsafe(field, value, f"a number from 0 to {ENUM_LIMIT - 1}")
    return value


def boolean(value: Any, field: str) -> bool:
    """True or false, nothing that only counts as one."""
    if not isinstance(value, bool):
        raise Unsafe(field, value, "true or false")
    return value


def _number(value: Any, field: str) -> Any:
    if value in _INFINITIES if isinstance(value, str) else isinstance(value, float):
        return value
    return integer(value, field)


def _on_cpu(value: Any, field: str) -> dict[str, Any]:
    """A device, which becomes the processor: where the program was exported is not where it will run."""
    _record({"type": _matching(re.compile("[a-z]{1,20}"), 20, "a device's name")})(value, field)
    return {"type": "cpu", "index": None}


def _one_of(*choices: str) -> Check:
    def check(value: Any, field: str) -> str:
        if value not in choices:
            raise Unsafe(field, value, ", ".join(choices))
        return value

    return check


def _unused(check: Check, result: Any) -> Check:
    """A field that must fit `check`, and of which `result` is kept: nobody here needs it."""

    def checked(value: Any, field: str) -> Any:
        check(value, field)
        return result

    return checked


# --- containers ---


def _record(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    def check(value: Any, field: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Unsafe(field, value, "an object")
        missing = next((key for key in required if key not in value), None)
        if missing is not None:
            raise Unsafe(f"{field}.{missing}".lstrip("."), None, "a value: it is missing")
        known = {**required, **(optional or {})}
        return {key: known[key](value[key], f"{field}.{key}".lstrip(".")) for key in known if key in value}

    return check


def _union(choices: Mapping[str, Check]) -> Check:
    def check(value: Any, field: str) -> dict[str, Any]:
        if not isinstance(value, dict) or len(value) != 1:
            raise Unsafe(field, value, "an object with one field")
        (kind, content), = value.items()
        if kind not in choices:
            raise Unsafe(field, kind, ", ".join(choices))
        return {kind: choices[kind](content, f"{field}.{kind}")}

    return check


def _list(item: Check) -> Check:
    def check(value: Any, field: str) -> list[Any]:
        if not isinstance(value, list) or len(value) > MAX_ITEMS:
            raise Unsafe(field, value, f"a list of at most {MAX_ITEMS:,}")
        return [item(content, f"{field}[{index}]") for index, content in enumerate(value)]

    return check


def _map(key: Check, item: Check) -> Check:
    def check(value: Any, field: str) -> dict[str, Any]:
        if not isinstance(value, dict) or len(value) > MAX_ITEMS:
            raise Unsafe(field, value, f"an object of at most {MAX_ITEMS:,} fields")
        return {key(text, field): item(content, f"{field}[{text}]") for text, content in value.items()}

    return check


def _or_none(check: Check) -> Check:
    return lambda value, field: None if value is None else check(value, field)


# --- what the program is made of; the names are those of torch/_export/serde/schema.py ---

_HINT = _union({"as_int": integer, "as_bool": boolean, "as_float": _number})
_SYMBOLIC = _record({"expr_str": _expression}, {"hint": _or_none(_HINT)})
_SYM_INT = _union({"as_expr": _SYMBOLIC, "as_int": integer})
_SYM_FLOAT = _union({"as_expr": _SYMBOLIC, "as_float": _number})
_SYM_BOOL = _union({"as_expr": _SYMBOLIC, "as_bool": boolean})
_NAMED = _record({"name": name})
_SYM_INT_ARGUMENT = _union({"as_name": name, "as_int": integer})
_SYM_FLOAT_ARGUMENT = _union({"as_name": name, "as_float": _number})
_SYM_BOOL_ARGUMENT = _union({"as_name": name, "as_bool": boolean})
_OPTIONAL_TENSOR = _union({"as_tensor": _NAMED, "as_none": boolean})
TENSOR_META = _record({
    "dtype": _enumeration, "sizes": _list(_SYM_INT), "requires_grad": boolean, "device": _on_cpu,
    "strides": _list(_SYM_INT), "storage_offset": _SYM_INT, "layout": _enumeration,
})  # fmt: skip
# Graphs, objects and operators as arguments have no place in a network that is one graph.
_ARGUMENT = _union({
    "as_none": boolean, "as_tensor": _NAMED, "as_tensors": _list(_NAMED), "as_int": integer, "as_ints": _list(integer),
    "as_float": _number, "as_floats": _list(_number), "as_string": _text, "as_sym_int": _SYM_INT_ARGUMENT,
    "as_sym_ints": _list(_SYM_INT_ARGUMENT), "as_scalar_type": _enumeration, "as_memory_format": _enumeration,
    "as_layout": _enumeration, "as_device": _on_cpu, "as_bool": boolean, "as_bools": _list(boolean),
    "as_sym_bool": _SYM_BOOL_ARGUMENT, "as_sym_bools": _list(_SYM_BOOL_ARGUMENT),
    "as_optional_tensors": _list(_OPTIONAL_TENSOR), "as_sym_float": _SYM_FLOAT_ARGUMENT,
    "as_sym_floats": _list(_SYM_FLOAT_ARGUMENT), "as_optional_tensor": _OPTIONAL_TENSOR,
})  # fmt: skip


def _nothing(value: Any, field: str) -> Any:
    raise Unsafe(field, value, "nothing")


def _any_text(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise Unsafe(field, value, "text")
    return value


def _metadata(value: Any, field: str) -> dict[str, str]:
    """The module path and the source lines; the other entries name objects for torch to look up."""
    entries = _map(_any_text, _any_text)(value, field)
    kept = {}
    modules = entries.get("nn_module_stack", "")
    if modules and modules.isprintable():
        kept["nn_module_stack"] = modules
    frames = _FRAME.findall(entries.get("stack_trace", ""))
    if frames:
        kept["stack_trace"] = "\n".join(f'File "{file}", line {line}' for file, line in frames if file.isprintable())
    return kept


def _tree(value: Any, field: str) -> str:
    """How inputs or outputs are nested, which torch keeps as JSON in a string."""
    try:
        version, root = json.loads(_any_text(value, field))
    except (ValueError, TypeError, RecursionError):
        raise Unsafe(field, value, "the JSON of [version, tree]") from None
    return json.dumps([integer(version, field), _tree_node(root, field, 0)])


def _tree_node(value: Any, field: str, depth: int) -> dict[str, Any]:
    node = _record({"type": _or_none(_one_of(*_TREE_NODES)), "context": _or_none(_any_text)})(value, field)
    children = value.get("children_spec")
    if depth > TREE_DEPTH or not isinstance(children, list) or len(children) > MAX_ITEMS:
        raise Unsafe(field, children, f"a tree of at most {TREE_DEPTH} levels")
    if node["type"] is None:
        return {"type": None, "context": None, "children_spec": []}
    # The keys of a dict stand in the context; anything else there could name a class to import.
    keys = _or_none(_list(name))(_json(node["context"], field), f"{field}.context")
    nested = [_tree_node(child, field, depth + 1) for child in children]
    return {"type": node["type"], "context": json.dumps(keys), "children_spec": nested}


def _json(text: str | None, field: str) -> Any:
    try:
        return json.loads(text or "null")
    except (ValueError, RecursionError):
        raise Unsafe(field, text, "JSON") from None


def _calls(value: Any, field: str) -> list[dict[str, Any]]:
    """The call of the whole network; those of its modules serve to take the graph apart again, which nobody does."""
    if not isinstance(value, list) or not value:
        raise Unsafe(field, value, "a list of calls")
    called = _matching(_CALLED, MAX_NAME, "names joined by dots")
    calls = _list(_record({"fqn": called}, {"signature": _or_none(_SIGNATURE_OF_CALL)}))(value, field)
    whole = _record({"fqn": _one_of(""), "signature": _SIGNATURE_OF_CALL})(calls[0], f"{field}[0]")
    whole["signature"] |= {"inputs": [], "outputs": []}
    return [whole]


# A module that is called several times has a number behind its path.
_CALLED = re.compile(rf"(?:{_PATH.pattern}(?:@\d{{1,6}})?)?", re.ASCII)
_SIGNATURE_OF_CALL = _record(
    {"in_spec": _tree, "out_spec": _tree},
    {"inputs": _list(_ARGUMENT), "outputs": _list(_ARGUMENT), "forward_arg_names": _or_none(_list(name))},
)
_NODE = _record(
    {
        "target": _operator,
        # Compared with the operator's schema and written nowhere: `self` and `from` are usual.
        "inputs": _list(_record(
            {"name": _matching(re.compile(r"\w*", re.ASCII), MAX_NAME, "a plain name"), "arg": _ARGUMENT},
            {"kind": _or_none(_enumeration)},
        )),
        "outputs": _list(_ARGUMENT),
        "metadata": _metadata,
    },
    {"name": _or_none(name), "is_hop_single_tensor_return": _unused(_or_none(boolean), None)},
)  # fmt: skip
_GRAPH = _record(
    {
        "inputs": _list(_ARGUMENT), "outputs": _list(_ARGUMENT), "nodes": _list(_NODE),
        "tensor_values": _map(name, TENSOR_META), "sym_int_values": _map(name, _SYM_INT),
        "sym_bool_values": _map(name, _SYM_BOOL),
    },
    {
        "is_single_tensor_return": boolean, "custom_obj_values": _map(name, _nothing),
        "sym_float_values": _map(name, _SYM_FLOAT),
    },
)  # fmt: skip
_INPUT = _union({
    "user_input": _record({"arg": _ARGUMENT}),
    "parameter": _record({"arg": _NAMED, "parameter_name": path}),
    "buffer": _record({"arg": _NAMED, "buffer_name": path, "persistent": boolean}),
    "tensor_constant": _record({"arg": _NAMED, "tensor_constant_name": path}),
    "constant_input": _record({"name": name, "value": _union({
        "as_none": boolean, "as_int": integer, "as_float": _number, "as_string": _text, "as_bool": boolean,
    })}),
})  # fmt: skip
_OUTPUT = _union({
    "user_output": _record({"arg": _ARGUMENT}),
    "buffer_mutation": _record({"arg": _NAMED, "buffer_name": path}),
    "parameter_mutation": _record({"arg": _NAMED, "parameter_name": path}),
    "user_input_mutation": _record({"arg": _NAMED, "user_input_name": name}),
})  # fmt: skip
_SYMBOL_NAME = _matching(SYMBOL, MAX_NAME, "a symbol (s0)")
_PROGRAM = _record(
    {
        "graph_module": _record(
            {
                "graph": _GRAPH,
                "signature": _record({"input_specs": _list(_INPUT), "output_specs": _list(_OUTPUT)}),
                "module_call_graph": _calls,
            },
            {
                "metadata": _unused(_map(_any_text, _any_text), {}),
                "treespec_namedtuple_fields": _unused(
                    _map(_any_text, _record({"field_names": _list(name)})), {}
                ),
            },
        ),
        "opset_version": _map(_matching(_VERSION, MAX_NAME, "the name of an operator set"), integer),
        "range_constraints": _map(_SYMBOL_NAME, _record({"min_val": _or_none(integer), "max_val": _or_none(integer)})),
        "schema_version": _record({"major": integer, "minor": integer}),
    },
    {
        "verifiers": _list(_one_of("", "ATEN", "TRAINING")),
        "torch_version": _matching(_VERSION, MAX_NAME, "a version"),
        "guards_code": _unused(_list(_guard), []),
    },
)  # fmt: skip


def checked_program(content: Any) -> dict[str, Any]:
    """A copy of the description `content` (parsed JSON) that holds nothing but what has a grammar.

    Raises:
        Unsafe: the first field that does not fit.
    """
    return _PROGRAM(content, "")


def checked_payloads(content: Any, file: re.Pattern[str]) -> dict[str, dict[str, Any]]:
    """A copy of the table of weights or constants: by name, which file of the archive holds it, and how.

    Args:
        content: parsed JSON.
        file: what names of files look like.

    Raises:
        Unsafe: the first field that does not fit; a payload that is a pickle is one.
    """
    entry = _record({
        "path_name": _matching(file, MAX_NAME, f"a file called like {file.pattern}"), "is_param": boolean,
        "use_pickle": _false, "tensor_meta": TENSOR_META,
    })  # fmt: skip
    return _record({"config": _map(path, entry)})(content, "")["config"]


def _false(value: Any, field: str) -> bool:
    if value is not False:
        raise Unsafe(field, value, "false: a pickle can run code")
    return value
