"""Families: the list that people see, and the table that the documents show."""

import time

import pytest

from isobit.pipeline.errors import RecipeError
from isobit.pipeline.recipe.family import (
    Family,
    families_table,
    family_files,
    family_names,
    find_family,
    list_families,
    recipes_folder,
)


def test_the_list_is_sorted_has_every_file_and_takes_a_moment():
    start = time.perf_counter()
    families = list_families()
    assert time.perf_counter() - start < 10
    assert [family.name for family in families] == family_names() == sorted(family_names())
    assert {f"{name}.yaml" for name in family_names()} == {file.name for file in recipes_folder().iterdir()}


def test_a_family_says_what_a_list_shows():
    family = next(family for family in list_families() if family.name == "captq-smooth")
    assert (family.method, family.policy) == ("qdrop", "captq")
    assert family.recipes[0] == "captq-smooth_w2a2" and len(family.recipes) == 49
    assert family.paper.startswith("Calibration Data Selection")  # from the family that it extends


def test_a_family_comes_after_those_that_it_extends():
    assert [path.rpartition("/")[2] for path, _ in family_files("fdda-f8l8-small")] == [
        "fdda.yaml", "fdda-small.yaml", "fdda-f8l8-small.yaml",
    ]


@pytest.mark.parametrize(("typed", "found"), [
    ("QDROP", ("qdrop", {})),
    ("qdrop_a8w4", ("qdrop", {"weights": 4, "activations": 8})),
    ("fdda-small_wmp2.5a4", ("fdda-small", {"weights": {"average": 2.5}, "activations": 4})),
])
def test_a_name_in_its_parts(typed, found):
    assert find_family(typed) == found


def test_a_name_of_no_family():
    with pytest.raises(RecipeError, match="there is no recipe 'own_w4a4'"):
        find_family("own_w4a4")


def test_the_table_links_papers():
    paper = "Them, 2020, arXiv 2001.00281; more"
    family = Family("x", "does it", paper, "m", "none", ("w2a2", "w2a3", "w4a4"))
    assert families_table([family]).splitlines() == [
        "| recipe | what it does | policy | paper, arXiv |",
        "| --- | --- | --- | --- |",
        "| `x` | does it | `none` | [2001.00281](https://arxiv.org/abs/2001.00281) |",
    ]
    unlinked = Family("x", "does it", "Them, 2020", "m", "none", ("w2a2", "w4a4"))
    assert families_table([unlinked]).endswith("| Them, 2020 |\n")
