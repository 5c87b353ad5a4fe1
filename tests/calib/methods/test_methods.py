"""The registry of methods: names, parameters and needs, loud where they are wrong."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from isobit.calib.methods import METHODS, check_needs, check_ranks, find_method
from isobit.calib.ranks import ALONE, Ranks
from isobit.calib.sources import check_source
from isobit.pipeline.errors import RecipeError
from isobit.pipeline.graph.nodes import bias_quantizer_of, is_constant, quantizer_of
from isobit.pipeline.quant.quantizer import Phase
from isobit.pipeline.recipe.family import list_families
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.recipe.schema import FinishRule, MethodChoice
from isobit.pipeline.stages import Calibrated
from tests.examples import ports
from tests.examples.tiny import multibit_recipe, quantized_net
from tests.examples.units import PAPER, TARGET, calibrated, recipe, subject

NAMES = ("adaround", "brecq", "dmbq", "fdda", "gdfq", "lsq", "nearest", "pdquant", "qdrop")
LEARNING = ("adaround", "brecq", "lsq", "pdquant", "qdrop")


def choice(name: str, **parameters: object) -> MethodChoice:
    return MethodChoice(name=name, parameters=parameters)


def test_every_shipped_recipe_finds_its_method() -> None:
    for name in (name for family in list_families() for name in (family.recipes[0], family.recipes[-1])):
        method, parameters = find_method(load_recipe(name).method)
        assert isinstance(parameters, method.parameters) and method.needed(parameters)
    assert set(METHODS.names()) >= set(NAMES)


@pytest.mark.parametrize("name", ["gdfq_w4a4", "fdda_w4a4", "dmbq_w2a2"])
def test_what_the_papers_recipes_state_are_the_methods_defaults(name: str) -> None:
    stated = load_recipe(name).method
    defaults = find_method(MethodChoice(name=stated.name))[1].model_dump()
    different = {key for key, value in find_method(stated)[1].model_dump().items() if defaults[key] != value}
    assert different == set()


def test_an_unknown_method_is_answered_with_the_nearest_spelling() -> None:
    with pytest.raises(RecipeError, match="Did you mean 'qdrop'"):
        find_method(choice("qdorp"))


def test_an_unknown_parameter_is_answered_with_the_nearest_spelling() -> None:
    with pytest.raises(RecipeError, match="Did you mean 'steps'"):
        find_method(choice("qdrop", step=5))


@pytest.mark.parametrize(
    ("key", "value"), [("steps", 0), ("steps", "many"), ("keep_prob", 1.5), ("warmup", 1.0), ("branch", "trunk")]
)
def test_a_value_that_is_not_allowed_is_named(key: str, value: object) -> None:
    with pytest.raises(RecipeError, match=f"'{key}' is {value!r}"):
        find_method(choice("qdrop", **{key: value}))


@pytest.mark.parametrize("values", [
    {"weight_scale_rate": 1e-4, "rounding": "signsgd"}, {"anneal": 0.5, "keep_prob": 1.0},
])
def test_a_value_that_could_do_nothing_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match=f"'{next(iter(values))}'"):
        find_method(choice("qdrop", **values))
    for key in values:  # each alone may stand
        find_method(choice("qdrop", **{key: values[key]}))


@pytest.mark.parametrize("name", NAMES)
def test_every_method_refuses_an_unknown_parameter(name: str) -> None:
    with pytest.raises(RecipeError, match=f"method '{name}'.*pace"):
        find_method(choice(name, pace=5))


def made_by(name: str, *sets: str) -> Calibrated:
    return calibrated(recipe(f"{name}_w2a4", *sets, steps=30))


@pytest.mark.parametrize("name", LEARNING)
def test_same_seed_same_numbers_other_seed_others(name: str) -> None:
    first, again, other = (made_by(name, *sets).graph.state_dict() for sets in ((), (), ("seed=6",)))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", ["nearest", *LEARNING])
def test_nothing_random_or_open_is_left(name: str) -> None:
    graph, images = made_by(name).graph, subject()[1]
    for node in graph.graph.nodes:
        quantizer, bias = quantizer_of(graph, node), bias_quantizer_of(graph, node)
        if quantizer is not None:
            assert quantizer.phase is Phase.ON and (quantizer.codes is not None) == is_constant(node)
            assert quantizer.stand_in is None
            assert not quantizer.scale.requires_grad and bool(torch.isfinite(quantizer.scale).all())
        if bias is not None:
            assert bias.phase is Phase.ON
    assert torch.equal(graph(images), graph(images))


class Plain(nn.Module):
    """No batch norm; answers with one number a pixel where `flat` is off."""

    def __init__(self, flat: bool) -> None:
        super().__init__()
        self.conv, self.flat = nn.Conv2d(3, 4, 3, padding=1), flat

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv(x))
        return x.mean(dim=(2, 3)) if self.flat else x


@pytest.mark.parametrize(
    ("flat", "sets", "missing"),
    [
        (True, ("name=pdquant_w4a4",), "statistics of batch norms"),
        (True, ("name=pdquant_w4a4", "method.correction_steps=0"), None),
        (False, ("name=pdquant_w4a4", "method.correction_steps=0"), None),
        (False, ("name=pdquant_w4a4", "method.correction_steps=0", "method.prediction={boxes: [x]}"), "no node 'x'"),
        (False, ("name=dmbq_w3a3",), "compares predictions"),
        (False, ("name=pdquant_w4a4", "method.correction_steps=0", "method.reconstruction_weight=null"), None),
        (False, ("name=brecq_w4a4", "method.fisher=diag"), None),
        (False, ("name=brecq_w4a4",), None),
        (False, ("name=qdrop_w4a4",), None),
    ],
)
def test_what_a_method_needs_is_checked_on_the_network(flat: bool, sets: tuple[str, ...], missing: str | None) -> None:
    of = load_recipe(sets[0].removeprefix("name="), sets[1:])
    quantized, _ = quantized_net(TARGET, of, Plain(flat).eval(), torch.rand(4, 3, 8, 8))
    if missing is None:
        check_needs(of.method, quantized)
        return
    with pytest.raises(RecipeError, match=missing):
        check_needs(of.method, quantized)


class Chosen(Plain):
    """Answers with the number of a class."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).argmax(1)


def test_what_compares_predictions_is_refused_where_only_integers_leave() -> None:
    quantized, _ = quantized_net(PAPER, "minmax_w4a4", Chosen(flat=True).eval(), torch.rand(4, 3, 8, 8))
    check_needs(choice("nearest"), quantized)
    finished = quantized.recipe.model_copy(update={"finish": FinishRule(steps=5)})
    refused = (
        (choice("nearest"), dataclasses.replace(quantized, recipe=finished), "finish.steps"),
        (choice("brecq", fisher="diag"), quantized, "method.name"),
    )
    for chosen, of, field in refused:
        with pytest.raises(RecipeError, match="compares predictions, and the model gives no floats") as error:
            check_needs(chosen, of)
        assert error.value.field == f"recipe.{field}" and error.value.allowed and error.value.hint


def test_a_method_that_trains_the_whole_network_takes_no_finish() -> None:
    quantized, _ = quantized_net(TARGET, load_recipe("gdfq_w4a4", ["finish.steps=5"]))
    with pytest.raises(RecipeError, match="'gdfq' trains the whole network itself") as error:
        check_needs(quantized.recipe.method, quantized)
    assert error.value.field == "recipe.finish.steps" and error.value.hint


@pytest.mark.parametrize("name", [name for name in NAMES if name != "dmbq"])
def test_levels_that_a_method_does_not_fill_are_refused_before_images_are_read(name: str) -> None:
    quantized, _ = quantized_net(TARGET, multibit_recipe())
    with pytest.raises(RecipeError, match=f"'{name}' cannot choose weights.levels: multibit"):
        check_needs(choice(name), quantized)
    only_activations = multibit_recipe("weights.levels=uniform")
    with pytest.raises(RecipeError, match="cannot choose activations.levels: nested"):
        check_needs(choice(name), quantized_net(TARGET, only_activations)[0])


def test_a_method_that_fills_the_levels_is_allowed_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    quantized, _ = quantized_net(TARGET, multibit_recipe())
    able = dataclasses.replace(METHODS.get("nearest"), fills={"multibit", "nested"})
    monkeypatch.setitem(METHODS._entries, "nearest", able)
    check_needs(choice("nearest"), quantized)
    with pytest.raises(RecipeError, match="weights.levels: uniform, dmbq, nearest"):
        check_needs(choice("qdrop"), quantized)


@pytest.mark.parametrize("name", ["siamese", "tokens"])
def test_what_works_on_images_refuses_other_inputs_by_name(name):
    quantized, _ = ports.placed(name, "reference")
    lacking = dataclasses.replace(quantized, recipe=load_recipe("gdfq_w4a4"))
    with pytest.raises(RecipeError, match="makes images|works on images") as error:
        check_source(lacking)
    assert error.value.field == "recipe.images.source"
    for method in ("dmbq", "fdda"):
        found, parameters = find_method(choice(method))
        assert {"one_input", "tail"} <= found.needed(parameters)


def test_a_loss_of_predictions_takes_several_outputs_and_names_them():
    quantized, _ = ports.placed("detector", "reference")
    check_needs(choice("pdquant", correction_steps=0), quantized)
    check_needs(choice("brecq", fisher="full"), quantized)
    with pytest.raises(RecipeError, match="no node 'boxs'") as error:
        check_needs(choice("pdquant", correction_steps=0, prediction={"boxes": ["boxs"]}), quantized)
    assert error.value.field == "recipe.method.prediction" and "boxes" in error.value.hint


def test_work_that_several_processes_cannot_share_is_refused() -> None:
    two = Ranks(0, 2)
    with pytest.raises(RecipeError, match="the method 'nearest' works in one"):
        check_ranks(load_recipe("minmax_w8a8"), two)
    odd = load_recipe("qdrop_w4a4", ["images.batch_size=3"])
    with pytest.raises(RecipeError, match="2 processes cannot share a batch of 3 images") as error:
        check_ranks(odd, two)
    assert error.value.hint == "`recipe.images.batch_size=4`"
    check_ranks(odd, ALONE)
