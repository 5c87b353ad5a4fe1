"""Units: the papers' block counts without per-model code, convex and complete on everything."""

from __future__ import annotations

from dataclasses import replace

import onnx
import pytest
import torch
import torchvision
from torch import nn

from isobit.backends.onnx.target import TARGETS
from isobit.passes import prepare, quantize
from isobit.passes.mark_units import mark_units
from isobit.passes.units.regions import LARGEST
from isobit.pipeline.capture.capture import capture
from isobit.pipeline.graph.layers import weighted_layers
from isobit.pipeline.graph.nodes import is_constant, op_name, source_of
from isobit.pipeline.model.onnx.door import load_onnx
from isobit.pipeline.recipe.file import load_recipe
from tests.examples import detectors, flat, nets, tiny

TARGET = TARGETS["generic"]


def unit_names(name):
    graph = prepare(nets.captured_net(name)[0].graph)
    return [unit for unit, _, _ in graph.meta["units"]]


def check_partition(quantized):
    """Every operator is in one unit, every unit is contiguous in execution order, and no path leaves and comes back."""
    graph, owner = quantized.graph, {}
    for index, unit in enumerate(quantized.units):
        assert unit.nodes, unit
        for name in unit.nodes:
            assert owner.setdefault(name, index) == index
    values = [n for n in graph.graph.nodes if n.op in ("call_function", "call_module")]
    assert {n.name for n in values if n.op == "call_function"} <= set(owner)
    order = [owner[n.name] for n in values if n.name in owner]
    assert order == sorted(order)
    for node in values:
        if not is_constant(node) and node.name in owner:
            sources = [owner[s.name] for s in node.all_input_nodes if s.name in owner]
            assert all(source <= owner[node.name] for source in sources)
    assert len({unit.name for unit in quantized.units}) == len(quantized.units)


def members(graph):
    """Names of the operators of each unit, by the unit's name."""
    found = {name: [] for name, _, _ in graph.meta["units"]}
    names = list(found)
    for node in graph.graph.nodes:
        if "unit" in node.meta:
            found[names[node.meta["unit"]]].append(op_name(node))
    return found


def test_a_heads_answer_is_in_its_own_unit_and_what_decodes_in_none():
    """SSD: the layout of one head does not wait for the layer of the next, and no unit holds joints or decoding."""
    found = members(prepare(detectors.captured_detector("ssd")[0].graph))
    assert list(found)[-4:] == ["scores.0", "scores.1", "boxes.0", "boxes.1"]
    assert found["scores.1"] == found["boxes.1"] == ["conv2d", "permute", "view"]
    assert found["neck.0"] == ["upsample_nearest2d", "cat", "conv2d", "relu"]
    assert not {"cat", "softmax", "exp"} & {name for unit in list(found)[-4:] for name in found[unit]}


@pytest.mark.parametrize("name", ["plain", "yolo8", "yolo5", "centernet", "chosen"])
def test_every_layer_of_a_detector_has_one_unit_and_units_do_not_mix_heads(name):
    graph = prepare(detectors.captured_detector(name)[0].graph)
    found = members(graph)
    assert all(unit.count("conv2d") == 1 for unit in found.values())
    assert len(found) == len(weighted_layers(graph))


def test_a_joint_outside_blocks_belongs_to_the_layer_that_reads_it():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(8, 4, 1)

        def forward(self, x):
            return self.last(torch.cat([self.one(x), self.two(x)], 1))

    found = members(prepare(capture(Branches().eval(), torch.randn(1, 3, 4, 4)).graph))
    assert found == {"one": ["conv2d"], "two": ["conv2d"], "last": ["cat", "conv2d"]}


@pytest.mark.parametrize("name", nets.NETS)
@pytest.mark.parametrize("recipe", ["qdrop_w4a4"])
def test_units_of_every_net_are_a_convex_partition(name, recipe):
    model, x = nets.build(name)
    check_partition(tiny.quantized_net(TARGET, recipe, model, x)[0])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("residual", ["stem.0", "blocks.0", "blocks.1", "fc"]),
        ("mobile", ["features.0.0", "features.1", "features.2", "features.3", "classifier"]),
        ("shuffle", ["stem.0", "blocks.0", "blocks.1", "fc"]),
        ("pre_activation", ["stem", "blocks.0", "blocks.1", "batch_norm", "fc"]),
        ("dense", ["stem.0", "layers.0", "layers.1", "layers.2", "norm", "fc"]),
        ("unet", ["enter.0", "down.1", "down.4", "up", "mix.0", "out"]),
        ("tied", ["stem", "conv", "conv#2", "one", "two", "fc"]),
        ("perceptron", ["1", "4"]),
    ],
)
def test_units_of_tiny_nets(name, expected):
    assert unit_names(name) == expected


def test_kinds_and_reasons_are_told():
    graph = prepare(nets.captured_net("mobile")[0].graph)
    assert {kind: why for _, kind, why in graph.meta["units"]} == {
        "layer": "a layer outside any block", "block": "branches join in it",
    }  # fmt: skip


def test_glue_goes_to_the_unit_after_and_activations_stay():
    graph = prepare(nets.captured_net("residual")[0].graph)
    names = [unit for unit, _, _ in graph.meta["units"]]
    of = {node.name: names[node.meta["unit"]] for node in graph.graph.nodes if "unit" in node.meta}
    assert of[nets.find(graph, "max_pool2d").name] == "blocks.0"
    assert of[nets.find(graph, "relu").name] == "stem.0"
    assert of[nets.find(graph, "mean").name] == of[nets.find(graph, "view").name] == "fc"


def test_second_run_finds_the_same():
    graph = prepare(nets.captured_net("squeeze")[0].graph)
    before = graph.meta["units"], [n.meta.get("unit") for n in graph.graph.nodes]
    mark_units(graph)
    assert (graph.meta["units"], [n.meta.get("unit") for n in graph.graph.nodes]) == before


def torchvision_net(name, size):
    extra = {"aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    extra |= {"init_weights": False} if extra else {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torchvision.models.get_model(name, weights=None, **extra).eval()
        return model, torch.randn(1, 3, size, size)


def check_torchvision(name, size):
    model, x = torchvision_net(name, size)
    captured = capture(model, x, name=name)
    quantized = quantize(captured, load_recipe("qdrop_w4a4"), TARGET)
    expected = nets.run(model, x)
    atol = 1e-4 * float(expected.abs().max())
    torch.testing.assert_close(nets.run(quantized.graph, x), expected, rtol=1e-3, atol=atol)
    check_partition(quantized)
    return quantized


@pytest.mark.parametrize(
    ("name", "blocks"),
    [("resnet18", 8), ("mobilenet_v2", 17), pytest.param("resnet50", 16, marks=pytest.mark.slow),
     pytest.param("mnasnet1_0", 16, marks=pytest.mark.slow)],
)  # fmt: skip
def test_blocks_of_the_papers(name, blocks):
    """BRECQ's partition: ResNet-18 has 8 blocks besides stem and classifier, ResNet-50 16, MobileNetV2 17."""
    units = check_torchvision(name, 32).units
    layers = {"resnet18": 2, "resnet50": 2, "mobilenet_v2": 3, "mnasnet1_0": 5}
    assert sum(unit.kind == "block" for unit in units) == blocks
    assert len(units) == blocks + layers[name]


@pytest.mark.slow
def test_blocks_of_regnet():
    units = check_torchvision("regnet_x_3_2gf", 32).units
    assert (len(units), sum(unit.kind == "block" for unit in units)) == (27, 25)


@pytest.mark.parametrize(
    ("name", "size"),
    [("densenet121", 32), ("googlenet", 32), ("inception_v3", 75), ("vgg11_bn", 32), ("mobilenet_v3_small", 32),
     ("efficientnet_b0", 32), ("shufflenet_v2_x0_5", 32), ("squeezenet1_1", 32), ("regnet_x_400mf", 32)],
)  # fmt: skip
@pytest.mark.slow
def test_other_families_pass_with_convex_units(name, size):
    check_torchvision(name, size)


@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: torch.nn.Sequential(m, torch.nn.ReLU())])
def test_a_module_with_several_layers_is_cut_where_branches_join(wrap):
    model = wrap(nets.Functional())
    captured, _ = nets.captured_of(model)
    quantized = quantize(captured, load_recipe("qdrop_w4a4"), TARGET)
    check_partition(quantized)
    before = "" if isinstance(model, nets.Functional) else "0."
    assert [(unit.name.removeprefix(before), unit.kind) for unit in quantized.units] == [
        ("w0", "layer"), ("inner.0", "block"), ("inner.2", "block"), ("c", "layer"), ("fw", "layer"),
    ]  # fmt: skip


def test_layers_under_one_long_skip_are_units_of_their_own():
    class Long(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.ParameterList([torch.nn.Parameter(torch.randn(3, 3, 1, 1)) for _ in range(LARGEST + 1)])

        def forward(self, x):
            y = x
            for weight in self.w:
                y = torch.relu(torch.nn.functional.conv2d(y, weight))
            return x + y

    graph = prepare(nets.captured_of(Long())[0].graph)
    assert [(name, kind) for name, kind, _ in graph.meta["units"]] == [
        (f"w.{index}", "layer") for index in range(LARGEST + 1)]


def test_a_functional_block_that_repeats_stays_one():
    class Pair(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = (torch.nn.Parameter(torch.randn(3, 3, 1, 1)) for _ in range(2))

        def forward(self, x):
            return torch.relu(x + torch.nn.functional.conv2d(torch.nn.functional.conv2d(x, self.a).relu(), self.b))

    graph = prepare(nets.captured_of(torch.nn.Sequential(Pair(), Pair()))[0].graph)
    assert [(name, kind) for name, kind, _ in graph.meta["units"]] == [("0", "block"), ("1", "block")]


def layers_of_units(graph):
    """The layers of each unit, as places in execution order."""
    found = [[] for _ in graph.meta["units"]]
    for place, node in enumerate(weighted_layers(graph)):
        found[node.meta["unit"]].append(place)
    return found


@pytest.mark.parametrize("flatten", [flat.nameless, flat.named])
@pytest.mark.parametrize(
    ("name", "count"),
    [("resnet18", 10), ("mobilenet_v2", 20), pytest.param("resnet50", 18, marks=pytest.mark.slow)],
)
def test_a_flat_graph_has_the_units_of_the_module_classes(name, count, flatten):
    model, x = torchvision_net(name, 32)
    captured = capture(model, x, name=name)
    wanted = layers_of_units(prepare(captured.graph))
    quantized = quantize(replace(captured, graph=flatten(captured.graph)), load_recipe("qdrop_w4a4"), TARGET)
    check_partition(quantized)
    assert layers_of_units(quantized.teacher) == wanted
    assert len(wanted) == count


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's older exporter warns of itself
@pytest.mark.parametrize(("name", "count", "dynamo"), [
    ("resnet18", 10, False), ("resnet50", 18, False), ("mobilenet_v2", 20, False), ("resnet18", 10, True),
    pytest.param("resnet50", 18, True, marks=pytest.mark.slow),
    pytest.param("mobilenet_v2", 20, True, marks=pytest.mark.slow),
])  # fmt: skip
def test_units_of_the_papers_through_onnx(name, count, dynamo, tmp_path, capfd):
    """Read back from a file of either exporter, with its names and with none, units are those of the Python network."""
    model, x = torchvision_net(name, 32)
    wanted = layers_of_units(prepare(capture(model, x).graph))
    assert len(wanted) == count
    named, bare = tmp_path / "named.onnx", tmp_path / "bare.onnx"
    torch.onnx.export(model, (x,), named, dynamo=dynamo)
    onnx.save(flat.without_names(onnx.load(named)), bare)
    for path in (named, bare):
        network, _, _ = load_onnx(path, simplify=False)
        assert layers_of_units(prepare(capture(network, x).graph)) == wanted, path.name


@pytest.mark.parametrize("flatten", [flat.nameless, flat.named])
@pytest.mark.parametrize("name", nets.NETS)
def test_units_of_every_flat_graph_are_a_convex_partition(name, flatten):
    captured, _ = nets.captured_net(name)
    flatten(captured.graph)
    check_partition(quantize(captured, load_recipe("qdrop_w4a4"), TARGET))


@pytest.mark.parametrize("flatten", [flat.nameless, flat.named])
@pytest.mark.parametrize("name", ["residual", "mobile", "shuffle", "pre_activation"])
def test_blocks_of_tiny_flat_nets(name, flatten):
    captured, _ = nets.captured_net(name)
    wanted = layers_of_units(prepare(captured.graph))
    assert layers_of_units(prepare(flatten(captured.graph))) == wanted


class Crossed(torch.nn.Module):
    """Two heads are computed before the activation of the first."""

    def __init__(self):
        super().__init__()
        self.trunk, self.one, self.two = (torch.nn.Conv2d(3, 3, 1) for _ in range(3))

    def forward(self, x):
        f = torch.relu(self.trunk(x))
        c, b = self.one(f), self.two(f)
        return torch.relu(c), torch.relu(b)


def test_an_activation_belongs_to_the_layer_that_it_reads_though_another_lies_between():
    captured = capture(Crossed().eval(), torch.randn(2, 3, 6, 6))
    graph = prepare(captured.graph)
    heads = [node for node in graph.graph.nodes if op_name(node) == "relu"][1:]
    assert [node.meta["unit"] for node in heads] == [source_of(node).meta["unit"] for node in heads] == [1, 2]
    quantized = quantize(captured, load_recipe("qdrop_w4a4"), TARGET)
    check_partition(quantized)
    assert [sum("relu" in name for name in unit.nodes) for unit in quantized.units] == [2, 2, 2]
    with torch.no_grad():
        x = torch.randn(2, 3, 6, 6)
        assert all(torch.allclose(*pair) for pair in zip(graph(x), captured.graph(x), strict=True))


def test_names_tell_the_blocks_of_concatenations():
    """Structure sees one block with all of them; of the first, which concatenates nothing, names tell as well."""
    captured, _ = nets.captured_net("dense")
    by_class = prepare(captured.graph).meta["units"]
    assert [name for name, _, _ in by_class[:4]] == ["stem.0", "layers.0", "layers.1", "layers.2"]
    assert prepare(flat.named(captured.graph)).meta["units"][:4] == by_class[:4]
