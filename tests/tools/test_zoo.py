"""The list of networks: one small network is built and proven, an unknown operator's error is a line of the table."""

import pytest
import zoo

pytestmark = pytest.mark.onnxruntime


@pytest.mark.parametrize("name", ["squeezenet1_1", "shufflenet_v2_x0_5", "mobilenet_v3_small"])
def test_a_network_goes_through_in_integers_with_no_differing_code(name):
    line = dict(zip(zoo.COLUMNS, zoo.row(name, "qdrop_w4a4", "onnx", 64), strict=True))
    assert line["float"] == "0" and int(line["integer"]) > 25
    assert line["differing"] == "all 0, extended 0"
    assert int(line["codes compared"].replace(",", "")) > 100_000


def test_an_unknown_target_is_a_line_and_the_exit_status(capsys):
    assert zoo.main(["squeezenet1_1", "--target", "onxx", "--recipe", "qdrop_w4a4", "--size", "64"]) == 1
    assert "not built: there is no target 'onxx'" in capsys.readouterr().out


def test_writing_the_table_keeps_the_sections_behind_it(tmp_path, monkeypatch):
    document = tmp_path / "models.md"
    document.write_text("# Old\n\nold table\n\n## By hand\n\nkept\n\n## Also\n")
    monkeypatch.setattr(zoo, "DOCUMENT", document)
    monkeypatch.setattr(zoo, "row", lambda name, *_: (name, *[""] * 8))
    for _ in range(2):
        assert zoo.main(["net", "--recipe", "qdrop_w4a4", "--write-docs"]) == 0
    text = document.read_text()
    assert text.endswith("\n\n## By hand\n\nkept\n\n## Also\n") and "| net |" in text and "old" not in text
    assert text.count("## ") == 2
