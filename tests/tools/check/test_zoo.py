"""The list of networks: one small network is built and proven, an unknown operator's error is a line of the table."""

import pytest

from tools.check import zoo
from tools.documents import fill, read_json

pytestmark = pytest.mark.onnxruntime


@pytest.mark.parametrize("name", ["squeezenet1_1", "shufflenet_v2_x0_5", "mobilenet_v3_small"])
def test_a_network_goes_through_in_integers_with_no_differing_code(name):
    found = zoo.row(name, "qdrop_w4a4", "onnx", 64)
    assert found["float"] == [] and found["integer"] > 25 and found["passed"]
    assert found["differing"] == {"all": 0, "extended": 0} and found["compared"] > 100_000
    line = dict(zip(zoo.COLUMNS, zoo.cells(found), strict=True))
    assert (line["network"], line["float"], line["differing"]) == (name, "0", "0")


def test_an_unknown_target_is_a_line_and_the_exit_status(capsys):
    assert zoo.main(["squeezenet1_1", "--target", "onxx", "--recipe", "qdrop_w4a4", "--size", "64"]) == 1
    assert "not built: there is no target 'onxx'" in capsys.readouterr().out


def test_writing_the_table_keeps_the_words_around_it(tmp_path, monkeypatch):
    document = tmp_path / "models.md"
    document.write_text("# Mine\n\n<!-- zoo:networks -->\nold table\n<!-- /zoo:networks -->\n\n## By hand\n\nkept\n")
    monkeypatch.setattr(zoo, "DOCUMENT", document)
    made = {"units": 1, "integer": 2, "layout": 3, "float": ["gelu: no kernel"], "compared": 4000,
            "differing": {"all": 0, "extended": 5}, "passed": False, "bytes": 6, "decibel": 20.5}
    monkeypatch.setattr(zoo, "row", lambda name, recipe, *_: {"network": name, "recipe": recipe, **made})
    for _ in range(2):
        assert zoo.main(["net", "--recipe", "qdrop_w4a4", "--write-docs"]) == 1
    text = document.read_text()
    assert text.startswith("# Mine\n") and text.endswith("\n\n## By hand\n\nkept\n") and "old" not in text
    assert "| net | 1 | 2 | 3 | 1 gelu | 4,000 | 0, 5 (gate FAILED) | 20.5 |" in text
    assert read_json(tmp_path / "models.json")["networks"] == [{"network": "net", "recipe": "qdrop_w4a4", **made}]


def test_the_page_is_what_its_numbers_give():
    text = zoo.DOCUMENT.read_text(encoding="utf-8")
    assert fill(text, zoo.tables(read_json(zoo.DOCUMENT.with_suffix(".json"))), "zoo", "docs/models.md") == text
