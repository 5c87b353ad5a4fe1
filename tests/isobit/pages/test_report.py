"""The page of one artifact: what stands on it, in which order, and that nothing a user named becomes markup."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from isobit.pages.artifact import Said
from isobit.pages.environment import MOST_BYTES
from isobit.pages.layers import layer_rows
from isobit.pages.report import PAGE, distances, factor_text, falls, ordered, report_page, sizes, tiles, write_page
from tests.examples.pages import HOSTILE, PageReader, made_artifact, sample, write_artifact

SECTIONS = ["verdicts", "waterfall", "size", "layers", "values", "frontier", "samples", "network", "recipe",
            "certificate"]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return report_page(made_artifact(tmp_path_factory.mktemp("made") / "a"))


def test_the_page_is_well_formed_loads_nothing_and_names_its_graphics(page):
    reader = PageReader(page)
    assert not reader.faults
    assert len(reader.ids) == len(set(reader.ids)) and set(reader.links) <= set(reader.ids)
    assert "@import" not in page and "http:" not in page and "https:" not in page and "url(" not in page
    assert page.count("<caption>") + page.count('aria-label="answers') >= reader.tags.count("table")


def test_sections_stand_in_the_order_in_which_people_ask(page):
    found = re.findall(r'<section id="(\w+)"', page)
    assert found == SECTIONS


def test_names_of_users_are_text_and_no_markup(page):
    reader = PageReader(page)
    assert "<script>alert" not in page and "<img" not in page and reader.tags.count("script") == 1
    assert reader.text.count(HOSTILE) > 15  # every place shows the name as it is


def test_every_number_that_is_asked_for_is_there(page):
    text = re.sub(r"\s+", " ", PageReader(page).text)
    for wanted in ("PARITY PASSED", "ACCURACY WARNING", "88.75 %", "-1.50", "+0.25", "4.0 times smaller than float",
                   "12.50 %", "21.5", "15.0 dB", "3 bits", "75.0 %", "2.5 million multiply-accumulates",
                   "isobit net.pth \\ --arch", "not finite", "1,000"):
        assert wanted in text, wanted
    assert 'data-v="2.0"' in page and 'data-v="1.25"' in page  # losses of the unit, before and after


def test_one_artifact_gives_the_same_bytes_again_and_writes_them_beside_itself(tmp_path, page):
    folder = write_artifact(tmp_path / "a")
    write_page(folder)
    assert (folder / PAGE).read_text() == page


def test_a_network_of_thousands_of_steps_keeps_to_the_size(tmp_path):
    text = report_page(made_artifact(tmp_path / "large", length=3000))
    assert len(text.encode()) <= MOST_BYTES and not PageReader(text).faults
    assert "left out" in text


def test_a_page_without_what_need_not_be_there(tmp_path):
    bare = made_artifact(tmp_path / "bare", samples=[], frontier=None, units=[], command=[], notes=[],
                         steps={"title": "top-1", "unit": "%", "higher_is_better": True, "rows": []})
    text = report_page(bare)
    assert not PageReader(text).faults
    assert 'id="samples"' not in text and 'id="frontier"' not in text and "Built from Python" in text


def test_boxes_are_drawn_over_one_copy_of_the_picture(tmp_path):
    box = {"corners": [0.25, 0.5, 0.75, 1.0], "label": HOSTILE, "score": 0.875}
    one = {**sample(), "data": "AAAA", "width": 200, "height": 100, "truth": None, "truth_index": None,
           "before": {"boxes": [box, box]}, "after": {"boxes": [box]}}
    text = report_page(made_artifact(tmp_path / "boxes", samples=[one]))
    assert not PageReader(text).faults and text.count("base64,AAAA") == 1
    assert text.count('x="50.0" y="50.0" width="100.0" height="50.0"') == 3
    assert "float: 2 boxes" in text and "artifact: 1 boxes" in text


def test_the_steps_where_most_is_lost_come_first(tmp_path):
    ratios = {"step0": 40.0, "step1": 35.0, "step2": 20.0}
    made = made_artifact(tmp_path / "falls")
    tensors = [one.model_copy(update={"network": ratios.get(one.name)}) for one in made.facts.tensors]
    rows = layer_rows(type(made)(made.name, made.manifest, made.facts.model_copy(update={"tensors": tensors}),
                                 made.proof))
    assert [(fall["before"], fall["after"]) for fall in falls(rows)] == [(35.0, 20.0), (40.0, 35.0)]


@pytest.mark.parametrize(("size", "before", "text"), [
    (100, 390, "3.9 times smaller than float"), (390, 100, "3.9 times larger than float"),
    (100, 100, "1.0 times smaller than float"), (0, 100, ""), (100, 0, ""),
])
def test_what_is_larger_is_called_larger(size, before, text):
    assert factor_text(size, before) == text


def test_flash_is_what_a_microcontroller_stores_and_memory_is_no_share_of_a_file(tmp_path):
    made = made_artifact(tmp_path / "a")
    stored = {"model": 100, "weights_packed": 90, "arena": 50, "flash": 500, "ram": 70}
    made = replace(made, manifest=made.manifest.model_copy(update={"sizes": stored}))
    assert [(tile["title"], tile["value"]) for tile in tiles(made)][1] == ("flash", "500 B")
    shares = {row["title"]: bool(row["share"]) for row in sizes(made)}
    assert shares == {"float network": True, "model": True, "weight codes alone": True, "flash": True, "arena": False,
                      "ram": False}


def test_changed_answers_come_first_and_then_what_is_wrong_on_both_sides(tmp_path):
    given = [sample(0), sample(1, truth_index=7), sample(2, after=(1, 0)), sample(3)]
    made = made_artifact(tmp_path / "a", samples=given)
    assert [one.place for one in ordered(made.facts.samples)] == [2, 1, 0, 3]
    text = re.sub(r"\s+", " ", PageReader(report_page(made)).text)
    assert text.index("≠ another choice") < text.index("both are wrong") < text.index("✓ same choice, right")
    assert "2 of all got another class" in text


@pytest.mark.parametrize("one", [{"kind": "curve", "data": "", "curve": [0, 1000, 20]},
                                 {"kind": "values", "data": HOSTILE}])
def test_samples_that_are_no_pictures_have_their_answers_all_the_same(tmp_path, one):
    text = report_page(made_artifact(tmp_path / "a", samples=[sample(width=0, height=0, **one)]))
    reader = PageReader(text)
    assert not reader.faults and "The inputs are no pictures" in reader.text and "✓ same choice" in reader.text
    assert ("M0 1000L" in text) == (one["kind"] == "curve") and "image" not in reader.tags


def test_samples_are_left_out_last(tmp_path):
    large = [sample(place, data="A" * 300_000) for place in range(8)]
    text = report_page(made_artifact(tmp_path / "a", samples=large))
    assert len(text.encode()) <= MOST_BYTES and 'id="samples"' not in text and 'id="certificate"' in text


def test_every_output_has_its_signal_to_noise(tmp_path):
    made = made_artifact(tmp_path / "a")
    assert distances(made.proof) == (["artifact"], [(HOSTILE, [15.0]), ("boxes", [14.25])])
    assert "Signal to noise of every output" in report_page(made)


def test_the_certificate_says_what_stands_and_what_does_not(page, tmp_path):
    text = PageReader(page).text
    assert "nothing of inputs that were not run" in text and "Every input" not in text
    made = made_artifact(tmp_path / "a")
    texts = {"every_input": "7 of 9 tensors", "read_back": "52 operators", "directed": "99 codes"}
    proof = made.proof.model_copy(update={name: Said(text=text) for name, text in texts.items()})
    text = PageReader(report_page(replace(made, proof=proof))).text
    assert "Every input, from integers alone: 7 of 9 tensors." in text
    assert "Read back from the files: 52 operators." in text and "kernel to its ends: 99 codes." in text
