"""`facts.json` is read strictly: what is no artifact of this release is refused with its file."""

from __future__ import annotations

import json

import pytest

from isobit.pipeline.errors import InputError
from isobit.pipeline.facts.record import FACTS, read_facts
from tests.examples import pages


def test_what_is_written_is_read_again_with_the_same_bytes(tmp_path):
    made = pages.facts()
    (tmp_path / FACTS).write_text(made.to_json())
    again = read_facts(tmp_path)
    assert again == made and again.to_json() == made.to_json()


def test_a_folder_of_an_older_release_is_said_to_be_one(tmp_path):
    with pytest.raises(InputError, match="no facts.json") as found:
        read_facts(tmp_path)
    assert "Build it again" in str(found.value)


@pytest.mark.parametrize("change", [
    {"form": 2}, {"more": 1}, {"samples_seen": "x"}, {"network": {"parameters": 1, "bytes": 1, "macs": float("nan")}},
    {"tensors": [pages.tensor("w", qmax=2**70)]}, {"tensors": [pages.tensor("w", own=1e300)]},
    {"steps": {"title": "t", "unit": "", "higher_is_better": True, "rows": [
        {"stage": "float", "value": 1e308, "change": None, "cause": ""}]}},
    {"samples": [{"kind": "png", "data": "\"><script>", "width": 1, "height": 1, "truth": None, "before": {},
                  "after": {}, "difference": None}]},
])
def test_what_is_no_such_file_is_refused(tmp_path, change):
    content = json.loads(pages.facts().to_json())
    (tmp_path / FACTS).write_text(json.dumps({**content, **change}))
    with pytest.raises(InputError, match="no facts that can be read") as found:
        read_facts(tmp_path)
    assert FACTS in found.value.where
