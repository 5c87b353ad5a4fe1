"""Documents of numbers and words: what is between marks is replaced, and JSON has a line for each row."""

import json
from pathlib import Path

import pytest

from isobit.pipeline.errors import InputError
from tools.documents import WIDTH, command_text, fill, markdown, read_json, readable, write_json

ROOT = Path(__file__).parents[2]


def test_a_table_without_a_place_is_an_error():
    with pytest.raises(InputError, match="builds"):
        fill("nothing\n", {"builds": "| a |"})
    with pytest.raises(InputError, match="not closed"):
        fill("<!-- bench:builds -->\n", {"builds": "| a |"})


def test_words_outside_the_marks_stay():
    text = "Mine.\n<!-- bench:one -->\nold\n<!-- /bench:one -->\nToo.\n"
    assert fill(text, {"one": "new"}) == text.replace("old", "new")


def test_a_bar_in_a_cell_is_escaped():
    assert markdown(("a", "b"), [("1|2", "3")]) == "| a | b |\n|---|---|\n| 1\\|2 | 3 |"


def test_commands_in_documents_name_no_folder_of_a_machine():
    shown = command_text("tools/bench/bench.py", ["--data", str(ROOT.parent / "some data"), "--only", "size"])
    assert shown == "tools/bench/bench.py --data '../some data' --only size"


def test_json_has_a_line_for_each_row_and_loses_nothing(tmp_path):
    rows = [{"name": f"Größe {number}", "values": [number, number / 3, None]} for number in range(20)]
    content = {"about": "text", "rows": rows, "empty": {}, "long": ["x" * WIDTH, "y"]}
    text = readable(content)
    assert json.loads(text) == content
    assert sum(line.strip().startswith('{"name"') for line in text.splitlines()) == 20
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == content and read_json(tmp_path / "b.json") == {}
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == text + "\n"


@pytest.mark.parametrize("name", ["results", "performance", "latency", "parity", "compat", "models"])
def test_the_numbers_of_a_document_are_written_as_the_tools_write_them(name):
    path = ROOT / "docs" / f"{name}.json"
    assert path.read_text(encoding="utf-8") == readable(read_json(path)) + "\n"
    assert f"({name}.json)" in path.with_suffix(".md").read_text(encoding="utf-8")
