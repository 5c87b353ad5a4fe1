"""The measured documents: what is said of the age of figures."""

import pytest

from tools.figures import pages

PARTS = (pages.Part("sizes", ("c",), lambda numbers: numbers["codes"], "a"),
         pages.Part("time", ("c", "tvm"), lambda numbers: ["known"], "b"))


@pytest.mark.parametrize(("changed", "said"), [
    ({}, "All figures are of the present code."),
    ({"c": ("c",)}, "Figures of older code: sizes (changed since: c)."),
    ({"c": ("code",), "c,tvm": ("tvm",)}, "Figures of older code: sizes (code not known); time (changed since: tvm)."),
    ({"c": ("c",), "c,tvm": ("c",)}, "Figures of older code: sizes, time (changed since: c)."),
])
def test_the_sentence_names_parts_by_why_they_are_old(monkeypatch, changed, said):
    monkeypatch.setattr(pages, "changed_since", lambda codes, areas, root, alike: changed.get(",".join(areas), ()))
    assert pages.age(PARTS, {"codes": ["x"]}) == said


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.document)
def test_every_part_has_a_command_that_exists_and_names_its_code(page):
    numbers = page.numbers()
    for part in page.parts(numbers):
        assert list(part.codes(numbers)), part.name
        tool = part.command.split()[1]
        assert part.command.startswith("make bench") or (pages.ROOT / tool).is_file()


@pytest.mark.parametrize("document", ["README.md", "docs/results.md", "docs/performance.md", "docs/models.md"])
def test_accuracy_is_old_where_placement_of_quantizers_changed(document):
    (page,) = [page for page in pages.PAGES if page.document == document]
    first, *_ = page.parts(page.numbers())
    assert {"capture", "calibration", "arithmetic"} <= set(first.areas)
