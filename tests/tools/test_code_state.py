"""By which code a figure was measured: what a hash sees, which states are known, what has changed since."""

import shutil
from pathlib import Path

import pytest

from tools import code_state

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path):
    """A checkout with a file of Python in each folder that is hashed, and a template."""
    for folder in {*code_state.SOURCES, *(folder for folders in code_state.AREAS.values() for folder in folders)}:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "a.py").write_text('"""Said."""\nx = 1\n')
    (tmp_path / "backends" / "c" / "kernel.h").write_text("int x;\n")
    (tmp_path / "docs").mkdir()
    return tmp_path


def test_comments_docstrings_and_empty_lines_are_no_code(checkout):
    before = code_state.code_sha256(checkout), code_state.area_sha256("ranges", checkout)
    file = checkout / "calib" / "ranges" / "a.py"
    file.write_text('"""Said otherwise,\n\non three lines."""\n# why\n\nx = 1  # because\n')
    (file.parent / "__pycache__").mkdir()
    (file.parent / "__pycache__" / "a.py").write_text("y = 1\n")
    assert (code_state.code_sha256(checkout), code_state.area_sha256("ranges", checkout)) == before
    file.write_text('"""Said."""\nx = "# no comment"\n')
    assert code_state.code_sha256(checkout) != before[0] and code_state.area_sha256("ranges", checkout) != before[1]


def test_a_template_is_code_of_its_area(checkout):
    before = {area: code_state.area_sha256(area, checkout) for area in code_state.AREAS}
    (checkout / "backends" / "c" / "kernel.h").write_text("int y;\n")
    assert {area for area in code_state.AREAS if code_state.area_sha256(area, checkout) != before[area]} == {"c"}


def test_what_has_changed_since_a_figure_was_measured(checkout):
    name = code_state.note_state(checkout / "docs", checkout)
    assert code_state.changed_since([name + "0" * 52], ["ranges", "c"], checkout) == ()
    (checkout / "calib" / "ranges" / "a.py").write_text("x = 2\n")
    assert code_state.changed_since([name], ["c"], checkout) == ()
    assert code_state.changed_since([name], ["c", "ranges", "calibration"], checkout) == ("ranges", "calibration")
    assert code_state.changed_since([name, "another"], ["c"], checkout) == ("code",)
    other = code_state.note_state(checkout / "docs", checkout)
    assert set(code_state.known_states(checkout / "docs")) == {name, other}
    assert code_state.changed_since([other], code_state.AREAS, checkout) == ()
    named = code_state.note_state(checkout / "docs", checkout, "f" * code_state.SHORT)
    assert code_state.changed_since([named], code_state.AREAS, checkout) == () and named != other


def test_areas_that_were_shown_to_compute_the_same_are_not_old(checkout, tmp_path_factory):
    name = code_state.note_state(checkout / "docs", checkout)
    for turn in range(2):  # from one change to the next
        older = tmp_path_factory.mktemp("older") / "checkout"
        shutil.copytree(checkout, older)
        (checkout / "backends" / "c" / "a.py").write_text(f"y = {turn}\n")
        assert code_state.changed_since([name], ["c", "tvm"], checkout) == ("c",)
        code_state.note_same(older, ["c"], checkout / "docs", checkout)
        assert code_state.changed_since([name], ["c", "tvm"], checkout) == ()
    code_state.note_state(checkout / "docs", checkout)
    assert code_state.changed_since([name], ["c"], checkout) == ()


def test_every_area_is_there():
    assert all((ROOT / folder).is_dir() for folders in code_state.AREAS.values() for folder in folders)


def test_a_copy_of_the_checkout_has_the_same_hash(tmp_path):
    folder = code_state.AREAS["ranges"][0]
    for folder in code_state.AREAS["ranges"]:
        shutil.copytree(ROOT / folder, tmp_path / folder)
    assert code_state.area_sha256("ranges", tmp_path) == code_state.area_sha256("ranges", ROOT)
