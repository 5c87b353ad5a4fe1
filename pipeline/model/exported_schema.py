"""What the description of an exported program may say: every field of it, checked and copied, before torch reads it.

`torch.export.load` evaluates expressions, writes names into source code that it runs, imports what a tree of inputs
names and looks operators up in all of torch. So each field has a grammar here; what has none is left out of the copy,
and what does not fit its grammar is an `Unsafe` with the field's place.
"""

from __future__ import annotations

import json
import re
from typing import Any

from isobit.pipeline.model.exported_expressions import SYMBOL
from isobit.pipeline.model.exported_grammar import (
    MAX_ITEMS,
    MAX_NAME,
    PATH,
    Unsafe,
    boolean,
    enumeration,
    expression,
    guard,
    integer,
    list_of,
    map_of,
    matching,
    name,
    number,
    on_cpu,
    one_of,
    operator,
    or_none,
    path,
    printable,
    record,
    union,
    unused,
)

TREE_DEPTH = 8
_VERSION = re.compile(r"[0-9A-Za-z.+<=_-]{1,60}")
_FRAME = re.compile(r'File "([^"\r\n]+)", line (\d{1,9})')
_TREE_NODES = ("builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")

# --- what the program is made of; the names are those of torch/_export/serde/schema.py ---

_HINT = union({"as_int": integer, "as_bool": boolean, "as_float": number})
_SYMBOLIC = record({"expr_str": expression}, {"hint": or_none(_HINT)})
_SYM_INT = union({"as_expr": _SYMBOLIC, "as_int": integer})
_SYM_FLOAT = union({"as_expr": _SYMBOLIC, "as_float": number})
_SYM_BOOL = union({"as_expr": _SYMBOLIC, "as_bool": boolean})
_NAMED = record({"name": name})
_SYM_INT_ARGUMENT = union({"as_name": name, "as_int": integer})
_SYM_FLOAT_ARGUMENT = union({"as_name": name, "as_float": number})
_SYM_BOOL_ARGUMENT = union({"as_name": name, "as_bool": boolean})
_OPTIONAL_TENSOR = union({"as_tensor": _NAMED, "as_none": boolean})
TENSOR_META = record({
    "dtype": enumeration, "sizes": list_of(_SYM_INT), "requires_grad": boolean, "device": on_cpu,
    "strides": list_of(_SYM_INT), "storage_offset": _SYM_INT, "layout": enumeration,
})  # fmt: skip
# Graphs, objects and operators as arguments have no place in a network that is one graph.
_ARGUMENT = union({
    "as_none": boolean, "as_tensor": _NAMED, "as_tensors": list_of(_NAMED), "as_int": integer,
    "as_ints": list_of(integer), "as_float": number, "as_floats": list_of(number), "as_string": printable,
    "as_sym_int": _SYM_INT_ARGUMENT,
    "as_sym_ints": list_of(_SYM_INT_ARGUMENT), "as_scalar_type": enumeration, "as_memory_format": enumeration,
    "as_layout": enumeration, "as_device": on_cpu, "as_bool": boolean, "as_bools": list_of(boolean),
    "as_sym_bool": _SYM_BOOL_ARGUMENT, "as_sym_bools": list_of(_SYM_BOOL_ARGUMENT),
    "as_optional_tensors": list_of(_OPTIONAL_TENSOR), "as_sym_float": _SYM_FLOAT_ARGUMENT,
    "as_sym_floats": list_of(_SYM_FLOAT_ARGUMENT), "as_optional_tensor": _OPTIONAL_TENSOR,
})  # fmt: skip


def _nothing(value: Any, field: str) -> Any:
    raise Unsafe(field, value, "nothing")


def _any_text(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise Unsafe(field, value, "text")
    return value


def _metadata(value: Any, field: str) -> dict[str, str]:
    """The module path and the source lines; the other entries name objects for torch to look up."""
    entries = map_of(_any_text, _any_text)(value, field)
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
    node = record({"type": or_none(one_of(*_TREE_NODES)), "context": or_none(_any_text)})(value, field)
    children = value.get("children_spec")
    if depth > TREE_DEPTH or not isinstance(children, list) or len(children) > MAX_ITEMS:
        raise Unsafe(field, children, f"a tree of at most {TREE_DEPTH} levels")
    if node["type"] is None:
        return {"type": None, "context": None, "children_spec": []}
    # The keys of a dict stand in the context; anything else there could name a class to import.
    keys = or_none(list_of(name))(_json(node["context"], field), f"{field}.context")
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
    called = matching(_CALLED, MAX_NAME, "names joined by dots")
    calls = list_of(record({"fqn": called}, {"signature": or_none(_SIGNATURE_OF_CALL)}))(value, field)
    whole = record({"fqn": one_of(""), "signature": _SIGNATURE_OF_CALL})(calls[0], f"{field}[0]")
    whole["signature"] |= {"inputs": [], "outputs": []}
    return [whole]


# A module that is called several times has a number after its path.
_CALLED = re.compile(rf"(?:{PATH.pattern}(?:@\d{{1,6}})?)?", re.ASCII)
_SIGNATURE_OF_CALL = record(
    {"in_spec": _tree, "out_spec": _tree},
    {"inputs": list_of(_ARGUMENT), "outputs": list_of(_ARGUMENT), "forward_arg_names": or_none(list_of(name))},
)
_NODE = record(
    {
        "target": operator,
        # Compared with the operator's schema and written nowhere: `self` and `from` are usual.
        "inputs": list_of(record(
            {"name": matching(re.compile(r"\w*", re.ASCII), MAX_NAME, "a plain name"), "arg": _ARGUMENT},
            {"kind": or_none(enumeration)},
        )),
        "outputs": list_of(_ARGUMENT),
        "metadata": _metadata,
    },
    {"name": or_none(name), "is_hop_single_tensor_return": unused(or_none(boolean), None)},
)  # fmt: skip
_GRAPH = record(
    {
        "inputs": list_of(_ARGUMENT), "outputs": list_of(_ARGUMENT), "nodes": list_of(_NODE),
        "tensor_values": map_of(name, TENSOR_META), "sym_int_values": map_of(name, _SYM_INT),
        "sym_bool_values": map_of(name, _SYM_BOOL),
    },
    {
        "is_single_tensor_return": boolean, "custom_obj_values": map_of(name, _nothing),
        "sym_float_values": map_of(name, _SYM_FLOAT),
    },
)  # fmt: skip
_INPUT = union({
    "user_input": record({"arg": _ARGUMENT}),
    "parameter": record({"arg": _NAMED, "parameter_name": path}),
    "buffer": record({"arg": _NAMED, "buffer_name": path, "persistent": boolean}),
    "tensor_constant": record({"arg": _NAMED, "tensor_constant_name": path}),
    "constant_input": record({"name": name, "value": union({
        "as_none": boolean, "as_int": integer, "as_float": number, "as_string": printable, "as_bool": boolean,
    })}),
})  # fmt: skip
_OUTPUT = union({
    "user_output": record({"arg": _ARGUMENT}),
    "buffer_mutation": record({"arg": _NAMED, "buffer_name": path}),
    "parameter_mutation": record({"arg": _NAMED, "parameter_name": path}),
    "user_input_mutation": record({"arg": _NAMED, "user_input_name": name}),
})  # fmt: skip
_SYMBOL_NAME = matching(SYMBOL, MAX_NAME, "a symbol (s0)")
_PROGRAM = record(
    {
        "graph_module": record(
            {
                "graph": _GRAPH,
                "signature": record({"input_specs": list_of(_INPUT), "output_specs": list_of(_OUTPUT)}),
                "module_call_graph": _calls,
            },
            {
                "metadata": unused(map_of(_any_text, _any_text), {}),
                "treespec_namedtuple_fields": unused(
                    map_of(_any_text, record({"field_names": list_of(name)})), {}
                ),
            },
        ),
        "opset_version": map_of(matching(_VERSION, MAX_NAME, "the name of an operator set"), integer),
        "range_constraints": map_of(_SYMBOL_NAME, record({"min_val": or_none(integer), "max_val": or_none(integer)})),
        "schema_version": record({"major": integer, "minor": integer}),
    },
    {
        "verifiers": list_of(one_of("", "ATEN", "TRAINING")),
        "torch_version": matching(_VERSION, MAX_NAME, "a version"),
        "guards_code": unused(list_of(guard), []),
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
    entry = record({
        "path_name": matching(file, MAX_NAME, f"a file called like {file.pattern}"), "is_param": boolean,
        "use_pickle": _false, "tensor_meta": TENSOR_META,
    })  # fmt: skip
    return record({"config": map_of(path, entry)})(content, "")["config"]


def _false(value: Any, field: str) -> bool:
    if value is not False:
        raise Unsafe(field, value, "false: a pickle can run code")
    return value
