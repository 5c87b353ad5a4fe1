"""The cut as the plan says it."""

from __future__ import annotations

from isobit.passes import prepare, without_decoding
from isobit.pipeline.graph.ends.cut import find_cut
from tests.examples.detectors import captured_detector


def test_the_plan_names_places_reasons_and_what_decodes():
    cut = find_cut(prepare(captured_detector("centernet")[0].graph))
    assert "integers end at heat (detectors.py:" in cut.text and "sigmoid makes scores of logits" in cut.text
    assert cut.operators[:3] == ("sigmoid", "max_pool2d", "eq") and not cut.without
    assert cut.to_json()["points"][0]["layer"] == "heat"


def test_no_cut_where_nothing_decodes():
    assert find_cut(prepare(captured_detector("plain")[0].graph)) is None


def test_an_artifact_that_ends_at_the_cut_says_what_it_does_not_compute():
    ended = without_decoding(captured_detector("chosen")[0])
    cut = find_cut(prepare(ended.graph, ended.cut), ended.without)
    assert cut.without == ("output_0", "output_1") and [point.name for point in cut.points] == ["score", "box"]
    assert "does not compute output_0, output_1" in cut.text
