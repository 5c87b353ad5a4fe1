"""The plan: what the issue asks for is in it, every cell has its own name, and like is compared with like."""

from pathlib import Path

import pytest

from isobit.calib.methods import find_method
from isobit.calib.sources import find_source, makes_images
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.recipe.policy import policy_overrides
from tools.bench.rows import DS_CNN, RESNET
from tools.reproduce.papers import published
from tools.reproduce.plan import (
    BITS,
    BUDGETS,
    METHODS,
    NETWORKS,
    PLAN,
    POLICY,
    RANKED_AT,
    RANKING,
    Cell,
    Group,
    Line,
    budget,
    cells_of,
)
from tools.reproduce.study import model_of, models

GROUPS = {group.name: group for group in PLAN}


def test_every_method_meets_every_bit_width_on_both_networks_at_one_budget():
    lines = {(line.subject, line.method, line.bits): line for line in GROUPS["order"].lines}
    assert set(lines) == {(n, m, b) for n in NETWORKS for m in METHODS for b in BITS}
    assert all(POLICY in line.sets for line in lines.values())
    for subject, bits in ((n, b) for n in NETWORKS for b in BITS):
        own = {step for (n, m, b), line in lines.items() if (n, b) == (subject, bits) and m != "nearest"
               for step in line.sets if step.startswith("method.steps=")}
        assert len(own) == 1


def test_a_ranking_is_made_of_three_seeds():
    placed = [line for line in GROUPS["order"].lines if (line.subject, line.bits) in RANKED_AT]
    ranked = [line for line in placed if line.method in RANKING]
    assert len(ranked) == 2 * len(RANKING) and all(len(set(line.seeds)) == 3 for line in ranked)
    assert all(len(set(line.seeds)) == 3 for line in GROUPS["authors"].lines)


def test_the_ranking_is_of_methods_that_are_run_there():
    lines = {(line.subject, line.bits, line.method) for line in GROUPS["order"].lines}
    assert all((*place, method) in lines for place in RANKED_AT for method in RANKING)


@pytest.mark.parametrize(
    ("subject", "recipe", "edit", "figure"),
    [
        (RESNET, "qdrop_w4a4", "method.steps=1000", 87.2), (RESNET, "qdrop_w2a2", "method.steps=1000", 70.1),
        (RESNET, "qdrop_w3a3", "method.steps=500", 83.9), (RESNET, "qdrop_w2a4", "method.steps=500", 78.0),
        (DS_CNN, "qdrop_w4a4", "method.steps=1000", 85.1), (RESNET, "brecq_w4a4", "method.activation_steps=125", 87.5),
        (DS_CNN, "brecq_w4a4", "method.activation_steps=250", 84.8),
        (DS_CNN, "pdquant-mobilenetv2_w4a4", "method.steps=500", 89.0),
    ],
)
def test_the_figures_of_the_authors_code_stand_beside_ours(subject, recipe, edit, figure):
    found = [line.authors for line in GROUPS["authors"].lines if (line.subject, line.recipe) == (subject, recipe)
             and edit in line.sets and "method.reconstruction_weight=null" not in line.sets]
    assert set(found) == {figure}


def test_what_a_line_is_compared_with_is_run_by_the_plan():
    planned = set(cells_of(PLAN))
    for group in PLAN:
        for line in group.lines:
            for needed in filter(None, (line.beside, line.time_beside)):
                assert set(needed.cells) <= planned


def test_selections_of_images_differ_in_nothing_else():
    lines = GROUPS["captq"].lines
    assert {line.images for line in lines} == {"pool"} and {line.bits for line in lines} == {"w2a2"}
    qdrop = [line for line in lines if line.method != "captq-brecq"]
    rest = {tuple(edit for edit in line.sets if not edit.startswith("images.")) for line in qdrop}
    assert rest == {("method.steps=300", "policy=captq")}
    assert [len(line.seeds) for line in lines if line.method == "captq"] == [5]
    assert len({line.sets for line in lines if line.method == "captq-smooth"}) >= 3


def test_every_cell_has_its_own_name_and_a_network_with_images():
    cells = cells_of(PLAN)
    assert len({cell.id for cell in cells}) == len(cells)
    assert {model_of(cell) for cell in cells} <= set(models(Path()))


def test_a_cell_reads_data_where_its_recipe_draws_images_and_only_there():
    for cell in cells_of(PLAN):
        assert (cell.images is None) == makes_images(load_recipe(cell.recipe, cell.edits).images), cell.id


def beside(group, subject, recipe):
    """The line beside the one of a group that has the recipe and the policy of the recipe."""
    (line,) = (line for line in GROUPS[group].lines
               if (line.subject, line.recipe) == (subject, recipe) and "policy=captq" not in line.sets)
    return line.beside


def test_what_stands_beside_the_data_free_methods():
    for subject, steps in ((RESNET, "method.steps=300"), (DS_CNN, "method.steps=500")):
        assert beside("generative", subject, "gdfq_w4a4").recipe == "zeroq_w4a4"
        four = beside("generative", subject, "fdda-f8l8-small_w4a4")
        assert (four.recipe, four.bits) == ("gdfq_w4a4", "w4a4") and "policy=captq" in four.sets
        real = beside("generative", subject, "zeroq-qdrop_w4a4")
        assert (real.recipe, real.images) == ("qdrop_w4a4", "calib") and steps in real.sets


def test_dmbq_and_qdrop_have_the_same_images():
    assert {line.images for line in GROUPS["dmbq"].lines} == {"pool"}
    uniform = beside("dmbq", RESNET, "dmbq-small_w2a2")
    assert uniform.recipe == "qdrop_w2a2" and "images.count=4096" in uniform.sets


def test_mixed_precision_is_compared_at_equal_size_and_equal_budget():
    lines = GROUPS["mixed"].lines
    for equal, mixed in zip(lines[::2], lines[1::2], strict=True):
        added = set(mixed.sets) - set(equal.sets)
        assert added == {f"weights.bits={{average: {equal.bits[1]}}}"} and set(equal.sets) < set(mixed.sets)
        assert mixed.bits == f"wmp{equal.bits[1:]}" and equal.bits[:2] in ("w4", "w3")
        assert mixed.beside == equal


def test_every_budget_is_used_and_every_edit_of_it_accepted():
    for subject, family in BUDGETS:
        lines = [line for name in ("generative", "dmbq", "mixed") for line in GROUPS[name].lines
                 if (line.subject, line.method) == (subject, family)]
        assert lines
        for line in lines:
            recipe = load_recipe(line.recipe, list(line.sets))
            find_method(recipe.method)
            find_source(recipe.images)


def test_a_cell_in_two_groups_is_one_cell():
    line = Line(RESNET, "qdrop_w4a4", ("method.steps=5",), seeds=(1, 2))
    assert cells_of((Group("a", (line,)), Group("b", (line, Line(DS_CNN, "mse_w8a8", seeds=(1,)))))) == [
        Cell(RESNET, "qdrop_w4a4", ("method.steps=5",), 1), Cell(RESNET, "qdrop_w4a4", ("method.steps=5",), 2),
        Cell(DS_CNN, "mse_w8a8", (), 1),
    ]


def test_names_tell_what_is_run():
    cell = Cell(RESNET, "qdrop_w2a2", ("method.steps=5",), 7, "pool")
    assert cell.id == "resnet20/qdrop_w2a2+method.steps=5@pool/7" and cell.edits == ["method.steps=5", "seed=7"]
    line = Line(RESNET, "qdrop-mnasnet_w2a2")
    assert (line.method, line.published_as, line.bits) == ("qdrop-mnasnet", "qdrop", "w2a2")
    assert Line(RESNET, "mine").bits == ""
    assert Line(RESNET, "qdrop_w2a2", ("activations.bits=8",)).bits == "w2a8"
    assert Line(RESNET, "captq_w2a2", paper="captq+qdrop").published_as == "captq+qdrop"


def test_brecq_gives_a_quarter_of_its_steps_to_its_second_stage_and_nearest_has_none():
    assert budget("brecq", 1000)[:2] == ("method.steps=1000", "method.activation_steps=250")
    assert budget("qdrop", 300) == ("method.steps=300",) and budget("nearest", 300) == ()


EIGHT_BIT_STEM = {"CaPTQ": True, "QDrop": False, "QDrop code": False, "PD-Quant": False, "PD-Quant code": False}


def stem_has_8_bits(line):
    """Does the recipe of `line`, as the plan edits it, hold the output of the first layer at 8 bits?"""
    recipe = load_recipe(line.recipe, list(line.sets))
    rules = (*policy_overrides(recipe), *recipe.overrides)
    return any(rule.where == "first" and rule.output is not None and rule.output.bits == 8 for rule in rules)


def test_stems_have_equal_bits_on_both_sides_of_a_published_figure():
    """CaPTQ's figures come with an 8-bit stem output, QDrop's and PD-Quant's with a low one; ours beside them too.

    BRECQ's lines are left out: they run with the bits that all methods share, and their figures show a method's place.
    """
    compared = {True: 0, False: 0}
    for line in (line for group in PLAN for line in group.lines if line.published_as != "brecq"):
        paper = published(line.published_as, line.bits, line.subject)
        if paper is not None and paper[1] in EIGHT_BIT_STEM:
            assert stem_has_8_bits(line) == EIGHT_BIT_STEM[paper[1]], line
            compared[EIGHT_BIT_STEM[paper[1]]] += 1
    assert min(compared.values()) > 0


def test_selections_of_images_are_compared_at_an_8_bit_stem_output():
    (lines,) = (group.lines for group in PLAN if group.name == "captq")
    assert any(line.method == "captq" for line in lines) and all(stem_has_8_bits(line) for line in lines)
