"""The reader: functions are their nodes, names and order say nothing, and what nobody knows or reads is told."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from isobit.backends.onnx.readback.reader import NoModel, Reader
from isobit.backends.readback.description import Port, Terms

VALUES = ("input", "logits")


def model(nodes, constants=(), functions=(), opsets=(("", 19),)):
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in VALUES]
    tensors = [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in dict(constants).items()]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], tensors)
    made = helper.make_model(graph, functions=list(functions), ir_version=9, producer_name="isobit",
                             producer_version="1", opset_imports=[helper.make_opsetid(*each) for each in opsets])
    return made


def plain():
    nodes = [helper.make_node("Add", ["input", "c"], ["a"]), helper.make_node("LeakyRelu", ["a"], ["b"], alpha=0.5),
             helper.make_node("Relu", ["b"], ["logits"])]
    return model(nodes, {"c": [1, 2, 3, 4]})


@pytest.fixture
def read(tmp_path):
    terms = Terms()

    def open_model(made, names=()):
        path = tmp_path / "model.onnx"
        path.write_bytes(made if isinstance(made, bytes) else made.SerializeToString(deterministic=True))
        return Reader(path, names, terms)

    return open_model


def told(reader):
    return [each.text for each in (*reader.problems, *reader.idle)]


def test_a_file_is_its_ports_facts_and_terms(read):
    reader = read(plain(), {"b"})
    assert not told(reader) and (reader.operators, reader.constants) == (3, 1)
    network = reader.network
    assert network.inputs == (Port("input", "FLOAT", (None, 4)),)
    assert network.facts == {"ir_version": 9, "producer": "isobit 1", "opset of ONNX": 19}
    assert set(network.tensors) == {"b", "logits"} and str(network.tensors["logits"].get("X")) == "tensor b"
    added = network.tensors["b"].get("X")
    assert str(added.get("A")) == "tensor input" and added.get("B").array.tolist() == [1, 2, 3, 4]


def test_names_texts_order_and_functions_say_nothing(read):
    first = read(plain()).network.tensors["logits"]
    renamed = plain()
    renamed.doc_string, renamed.graph.node[0].name, renamed.graph.node[0].doc_string = "a", "b", "c"
    renamed.graph.node[0].output[0] = renamed.graph.node[1].input[0] = "other"
    reader = read(renamed)
    assert not told(reader) and reader.network.tensors["logits"] is first
    body = [helper.make_node("Add", ["x", "y"], ["a"]), helper.make_node("LeakyRelu", ["a"], ["z"])]
    body[1].attribute.append(onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT))
    function = helper.make_function("b", "f", ["x", "y"], ["z"], body, [helper.make_opsetid("", 19)], ["slope"])
    nodes = [helper.make_node("f", ["input", "c"], ["b"], domain="b", slope=0.5),
             helper.make_node("Relu", ["b"], ["logits"])]
    reader = read(model(nodes, {"c": [1, 2, 3, 4]}, [function], (("", 19), ("b", 1))))
    assert not told(reader) and reader.network.tensors["logits"] is first and reader.operators == 3


def with_initializer(made):
    made.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "spare"))


def with_node(made):
    made.graph.node.append(helper.make_node("Relu", ["b"], ["spare"]))


def with_attribute(made):
    made.graph.node[2].attribute.append(helper.make_attribute("alpha", 1.0))


def with_operator(made):
    made.graph.node[2].op_type = "Frobnicate"


def with_domain(made):
    made.graph.node[2].domain = "com.microsoft"


def with_two_of_a_name(made):
    made.graph.node[1].output[0] = "a"


def with_an_operand_from_nowhere(made):
    made.graph.node[0].input[0] = "nowhere"


def with_value_info(made):
    made.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, [1]))


def with_external_data(made):
    made.graph.initializer[0].data_location = TensorProto.EXTERNAL
    made.graph.initializer[0].data_location = TensorProto.DEFAULT
    made.graph.initializer[0].external_data.add(key="location", value="elsewhere")


def with_a_subgraph(made):
    made.graph.node[2].attribute.append(helper.make_attribute("then_branch", made.graph))


def with_node_metadata(made):
    made.graph.node[2].metadata_props.add(key="a", value="b")


def with_metadata_twice(made):
    for value in "ab":
        made.metadata_props.add(key="classes", value=value)


def with_an_opset_twice(made):
    made.opset_import.add(domain="", version=18)
    made.opset_import.add(domain="", version=19)


def with_the_meaning_of_an_axis(made):
    made.graph.input[0].type.tensor_type.shape.dim[1].denotation = "DATA_CHANNEL"


def with_a_node_that_gives_nothing(made):
    made.graph.node.append(helper.make_node("Relu", ["b"], []))


def with_a_node_that_gives_no_name(made):
    made.graph.node.append(helper.make_node("Relu", ["b"], [""]))


def with_an_attribute_of_identity(made):
    made.graph.node[2].op_type = "Identity"
    made.graph.node[2].attribute.append(helper.make_attribute("axis", 1))


def with_a_type_of_nobody(made):
    made.graph.input[0].type.tensor_type.elem_type = 99


def with_numbers_twice(made):
    made.graph.initializer[0].float_data.extend([1, 2, 3, 5])


def with_numbers_missing(made):
    made.graph.initializer[0].raw_data = made.graph.initializer[0].raw_data[:-4]


def with_metadata_of_an_attribute(made):
    tensor = numpy_helper.from_array(np.zeros(1, np.float32), "value")
    tensor.metadata_props.add(key="a", value="b")
    made.graph.node.insert(0, helper.make_node("Constant", [], ["d"], value=tensor))


@pytest.mark.parametrize(("edit", "words"), [
    (with_metadata_twice, "metadata classes of the model is stated 2 times, must be stated once"),
    (with_an_opset_twice, "opset of ONNX of the model is stated 3 times, must be stated once"),
    (with_the_meaning_of_an_axis, "denotation of axis 1 in the type of port input"),
    (with_a_node_that_gives_nothing, "Relu is a node that gives nothing"),
    (with_a_node_that_gives_no_name, "is a node that gives nothing"),
    (with_an_attribute_of_identity, "attribute axis of Identity"),
    (with_numbers_twice, "initializer c is numbers in float_data and raw_data"),
    (with_numbers_missing, "initializer c is no tensor ("),
    (with_metadata_of_an_attribute, "metadata_props of attribute value"),
    (with_initializer, "value spare is read by nobody"), (with_node, "value spare is read by nobody"),
    (with_attribute, "attribute alpha of Relu"), (with_operator, "operator Frobnicate"),
    (with_domain, "operator com.microsoft.Relu"), (with_two_of_a_name, "value a is computed twice"),
    (with_an_operand_from_nowhere, "operand nowhere of Add that gives a is computed by nothing before it"),
    (with_value_info, "value_info of the graph"), (with_external_data, "external_data of initializer c"),
    (with_a_subgraph, "attribute then_branch of type GRAPH"), (with_node_metadata, "metadata_props of Relu"),
])
def test_what_nobody_knows_or_reads_is_told(read, edit, words):
    made = plain()
    edit(made)
    assert any(words in text for text in told(read(made)))


def test_a_port_of_a_type_that_nobody_knows_is_a_port(read):
    made = plain()
    with_a_type_of_nobody(made)
    assert read(made).network.inputs == (Port("input", "type 99", (None, 4)),)


def test_facts_that_the_model_states_are_read(read):
    made = plain()
    made.opset_import[0].version = 18
    made.metadata_props.add(key="classes", value="[]")
    assert read(made).network.facts == {"ir_version": 9, "producer": "isobit 1", "opset of ONNX": 18,
                                        "metadata classes": "[]"}


def test_bytes_that_no_field_holds_are_told(read):
    extra = plain().SerializeToString(deterministic=True) + b"\xfa\x3f\x01x"  # field 1023
    assert told(read(extra)) == ["the file is other bytes than its fields take, must be those bytes"]


def test_what_a_file_says_of_its_own_functions_is_read(read):
    body = [helper.make_node("Relu", ["x"], ["z"])]
    function = helper.make_function("b", "f", ["x"], ["z"], body, [helper.make_opsetid("", 19)])
    nodes = [helper.make_node("f", ["input"], ["logits"], domain="b")]
    assert not told(read(model(nodes, {}, [function], (("", 19), ("b", 1)))))
    assert told(read(model(nodes, {}, [function], (("", 19), ("b", 2))))) == [
        "opset of the functions' domain b is 2, must be 1"]
    assert told(read(model(nodes, {}, [function], (("", 19),)))) == [
        "opset of the functions' domain b is None, must be 1"]
    twice = model(nodes, {}, [function, function], (("", 19), ("b", 1)))
    twice.functions[0].opset_import.add(domain="", version=19)
    twice.functions[1].opset_import.add(domain="", version=19)
    assert told(read(twice)) == [
        "function f of the model is stated 2 times, must be stated once",
        *["opset of ONNX of function f is stated 2 times, must be stated once"] * 2]


def test_an_input_that_the_network_does_not_use_is_one(read):
    made = plain()
    made.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["N", 4]))
    reader = read(made)
    assert not told(reader) and [port.name for port in reader.network.inputs] == ["input", "mask"]


@pytest.mark.parametrize(("domain", "name"), [("com.microsoft", "QuickGelu"), ("ai.onnx.ml", "Binarizer"),
                                              ("own", "f")])
def test_a_function_of_another_domain_is_told(read, domain, name):
    """ONNX Runtime computes QuickGelu, whatever a function of that name holds."""
    body = [helper.make_node("Relu", ["x"], ["z"])]
    function = helper.make_function(domain, name, ["x"], ["z"], body, [helper.make_opsetid("", 19)])
    nodes = [helper.make_node(name, ["input"], ["logits"], domain=domain)]
    assert told(read(model(nodes, {}, [function], (("", 19), (domain, 1))))) == [
        f"domain of function {name} is {domain}, must be b"]


def test_bytes_that_are_no_model_are_no_description(read):
    with pytest.raises(NoModel, match="DecodeError"):
        read(b"\x00\xff{[" * 40)


def test_a_function_is_checked_at_its_call(read):
    body = [helper.make_node("Relu", ["x"], ["z"])]
    function = helper.make_function("b", "f", ["x", "y"], ["z"], body, [helper.make_opsetid("", 18)], ["slope"])
    spare = helper.make_function("b", "g", ["x"], ["z"], body, [helper.make_opsetid("", 19)])
    nodes = [helper.make_node("f", ["input", "c"], ["logits"], domain="b", slope=0.5)]
    texts = told(read(model(nodes, {"c": [1, 2, 3, 4]}, [function, spare], (("", 19), ("b", 1)))))
    assert texts == [
        "opset of ONNX in function f is 18, must be 19",
        "value y of function f is read by nobody, must be read, or not there",
        "attribute slope of function f is read by nobody, must be read, or not there",
        "function g is read by nobody, must be read, or not there",
    ]
    nodes = [helper.make_node("f", ["input"], ["logits"], domain="b", slope=0.5)]
    reader = read(model(nodes, {}, [function], (("", 19), ("b", 1))))
    assert "1 operands for the 2 of function f" in reader.problems[0].text
