"""The papers' target: quantizers where the papers put them, and a saved graph that gives the same codes."""


from isobit.backends import reference as _registers_the_target  # noqa: F401
from isobit.backends.base import BACKENDS
from isobit.pipeline.graph.nodes import bias_quantizer_of, is_constant, quantizer_of
from isobit.pipeline.graph.quantized_tensors import quantizers
from tests.examples.tiny import quantized_net

BACKEND = BACKENDS.get("reference")


def test_nothing_but_the_papers_points_is_quantized():
    quantized, _ = quantized_net(BACKEND.target("paper"))
    graph = quantized.graph
    names = [n.name for n in graph.graph.nodes if quantizer_of(graph, n) is not None and not is_constant(n)]
    assert names == ["relu_q", "relu_1_q", "relu_2_q"]
    assert not any(bias_quantizer_of(graph, n) for n in graph.graph.nodes)


def test_the_classifiers_8_bits_sit_on_the_last_blocks_output():
    quantized, _ = quantized_net(BACKEND.target("paper"))
    graph = quantized.graph
    bits = {name: quantizer.spec.grid.bits for name, quantizer in quantizers(graph).items()}
    assert (bits["relu_q"], bits["relu_1_q"], bits["relu_2_q"]) == (4, 4, 8)
