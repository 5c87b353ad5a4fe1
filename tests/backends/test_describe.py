"""The manifest's tensor table: one entry per quantized tensor, with a hash of every constant's codes."""

from isobit.backends.describe import tensor_table
from isobit.backends.onnx.target import TARGETS
from isobit.pipeline.graph.quantized_tensors import quantizers
from tests.examples.tiny import frozen_levels, frozen_reference


def test_every_tensor_is_described_once_with_its_numbers():
    reference, _ = frozen_reference(TARGETS["generic"])
    table = {entry.name: entry for entry in tensor_table(reference.graph, TARGETS["generic"])}
    kinds = [entry.kind for entry in table.values()]
    assert (kinds.count("activation"), kinds.count("weight"), kinds.count("bias")) == (6, 4, 4)
    weight = table["conv2d_1_w"]
    assert weight.bits == 4 and weight.count == 8 * 8 * 9 and len(weight.scale) == 8 and weight.module == "inner"
    assert table["relu_1_q"].codes_sha256 is None and table["relu_1_q"].zero_point == 0
    assert table["conv2d_1_b"].bits == 32 and table["conv2d_1_b"].container == "int32"


def test_one_changed_code_changes_only_that_hash():
    reference, _ = frozen_reference(TARGETS["generic"])
    before = {e.name: e.codes_sha256 for e in tensor_table(reference.graph, TARGETS["generic"])}
    codes = quantizers(reference.graph)["conv2d_1_w"].codes
    codes.view(-1)[7] = 15 - codes.view(-1)[7]
    after = {e.name: e.codes_sha256 for e in tensor_table(reference.graph, TARGETS["generic"])}
    assert {name for name in before if before[name] != after[name]} == {"conv2d_1_w"}


def test_levels_are_described_by_what_their_channels_have():
    reference, _ = frozen_levels(TARGETS["generic"])
    table = {entry.name: entry for entry in tensor_table(reference.graph, TARGETS["generic"])}
    weight, activation = table["conv2d_1_w"], table["relu_q"]
    assert (weight.levels, weight.container, len(weight.channel_bits)) == ("multibit", "int8", 8)
    assert weight.bits == sum(weight.channel_bits) / 8 and 0 in weight.channel_bits and 4 in weight.channel_bits
    assert (activation.levels, activation.elements, activation.count) == ("nested", 8 * 8 * 8, None)
    assert activation.bits == sum(activation.channel_bits) / 8
    assert table["x_q"].levels == "uniform" and table["x_q"].channel_bits is None and table["x_q"].bits == 8
