"""The digest of a manifest: of what it says, not of how that is laid out, and not of itself."""

import json

import pytest

from isobit.pipeline.artifact.digest import DIGEST, content_digest

CONTENT = {"files": {"a": {"bytes": 1}}, "scale": [0.1, 1 / 3, 1e-30], "name": "caf\u00e9", "none": None}


def test_layout_order_and_the_digest_itself_say_nothing():
    known = content_digest(CONTENT)
    assert len(known) == 64
    assert content_digest(dict(reversed(CONTENT.items()))) == known
    assert content_digest(json.loads(json.dumps(CONTENT, indent=2))) == known
    assert content_digest({**CONTENT, DIGEST: known}) == known


@pytest.mark.parametrize("change", [{"files": {}}, {"scale": [0.1, 1 / 3]}, {"none": 0}, {"more": 1}])
def test_everything_else_says_something(change):
    assert content_digest({**CONTENT, **change}) != content_digest(CONTENT)


def test_numbers_that_json_does_not_have_are_refused():
    with pytest.raises(ValueError, match="JSON"):
        content_digest({"scale": float("inf")})
