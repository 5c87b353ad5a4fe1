"""A page replaces a page of its own kind alone."""

from __future__ import annotations

import pytest

from isobit.cli.artifacts.page import check_page, is_page
from isobit.pages.compare import BRAND, compare_page
from isobit.pages.report import BRAND as REPORT
from isobit.pipeline.errors import InputError
from tests.examples.pages import write_artifact


def test_a_page_of_another_kind_is_no_page_of_this_one(tmp_path):
    out = tmp_path / "page.html"
    check_page(out, BRAND)
    out.write_text(compare_page([write_artifact(tmp_path / name) for name in "ab"]))
    check_page(out, BRAND)
    assert is_page(out, BRAND) and not is_page(out, REPORT) and not is_page(tmp_path, BRAND)
    with pytest.raises(InputError, match="no page that begins"):
        check_page(out, REPORT)
