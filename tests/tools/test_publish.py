"""What a tool measured is written: tables between marks, the numbers beside them, and by which code."""

import pytest

from isobit.pipeline.errors import InputError
from tools.code_state import code_sha256, known_states
from tools.documents import read_json
from tools.publish import publish

PAGE = "# Words\n\n<!-- bench:one -->\nold\n<!-- /bench:one -->\n\nkept\n"


@pytest.fixture
def document(tmp_path):
    (tmp_path / "page.md").write_text(PAGE)
    return tmp_path / "page.md"


def test_numbers_name_the_code_that_measured_them(document):
    publish(document, {"ms": 1}, {"one": "new"})
    code = read_json(document.with_suffix(".json"))["code"]
    assert code_sha256().startswith(code) and set(known_states(document.parent)) == {code}
    assert document.read_text() == PAGE.replace("old", "new")


def test_parts_name_their_code_themselves_and_numbers_may_lie_elsewhere(document):
    publish(document, {"runs": []}, {"one": "new"}, parts=True, numbers=document.with_name("other.json"))
    assert read_json(document.with_name("other.json")) == {"runs": []} and not document.with_suffix(".json").exists()


def test_a_document_without_the_marks_stays_and_nothing_is_written(document):
    with pytest.raises(InputError, match="two"):
        publish(document, {}, {"two": "new"})
    assert document.read_text() == PAGE and list(document.parent.iterdir()) == [document]
