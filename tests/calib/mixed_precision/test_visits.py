"""A walk through the float network: what it stops before, and that what follows is the network's own rest."""

from __future__ import annotations

import torch

from isobit import passes
from isobit.backends.onnx.target import TARGETS
from isobit.calib.mixed_precision.sensitivity import quantized_layers
from isobit.calib.mixed_precision.visits import visits
from isobit.pipeline.graph.ports import output_nodes
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.samples.batching import footprint
from tests.examples import ports
from tests.examples.detectors import captured_detector
from tests.examples.tiny import quantized_net

CPU = torch.device("cpu")


def test_nothing_changed_gives_the_float_answers_at_every_place_and_a_change_passes_on():
    quantized, images = quantized_net(TARGETS["generic"])
    names = [node.name for node in quantized_layers(quantized.calls)]
    output = output_nodes(quantized.graph)[0].name
    seen = []
    for visit in visits(quantized.graph, names, images, CPU):
        given = visit.run()
        torch.testing.assert_close(visit.answers(given)[output], visit.answered[output])
        doubled = visit.answers({name: 2 * value for name, value in given.items()})
        assert not torch.allclose(doubled[output], visit.answered[output])
        seen.append(visit.place)
    assert seen == list(range(len(names)))


def test_of_several_outputs_only_those_that_depend_on_the_place_come_back():
    quantized, images = ports.placed("odd", "onnx")
    layers = [node.name for node in quantized_layers(quantized.calls)]
    answers = {node.name for node in output_nodes(quantized.graph)}
    found = [set(visit.answers(visit.run())) for visit in visits(quantized.graph, layers, images, CPU)]
    assert all(names <= answers for names in found) and len(found[-1]) < len(found[0])


def test_batches_are_shares_of_all_samples():
    quantized, images = quantized_net(TARGETS["generic"])
    many = images.repeat(12, 1, 1, 1)
    first = quantized_layers(quantized.calls)[0].name
    found = [(visit.rows, visit.share) for visit in visits(quantized.graph, [first], many, CPU)]
    assert len(found) > 1 and abs(sum(share for _, share in found) - 1) < 1e-12
    assert found[-1][0].stop == len(many)


def test_losses_of_a_detector_do_not_depend_on_the_batches():
    captured, images = captured_detector("plain")
    quantized = passes.quantize(captured, load_recipe("minmax_w8a8"), TARGETS["generic"])
    first = quantized_layers(quantized.calls)[0].name
    sample = footprint(quantized.graph).forward
    quiet = torch.cat([images, 0.01 * images])  # an image of a batch shows less than one of another

    def loss(memory):
        found = [visit.loss(visit.answers({name: 1.2 * value for name, value in visit.run().items()}))
                 for visit in visits(quantized.graph, [first], quiet, CPU, memory)]
        return len(found), sum(found)

    (one, whole), (several, parts) = loss(1e9), loss(4 * sample)
    assert one == 1 and several > 1 and abs(parts - whole) < 1e-4 * whole
