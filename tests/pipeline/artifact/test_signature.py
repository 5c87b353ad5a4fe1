"""A folder is signed whole: a file that changes, comes or goes breaks it, and so does another key."""

import pytest

from isobit.pipeline.artifact.signature import SIGNATURE, sign, signature_problem
from isobit.pipeline.errors import InputError
from tests.pipeline.artifact.keys import key_pair

pytest.importorskip("model_signing", reason="the extra `sign` is not installed")


@pytest.fixture
def signed(tmp_path, monkeypatch):
    """A folder of two files, signed, and the public key."""
    monkeypatch.setattr("isobit.pipeline.artifact.signature.certified", lambda folder: ({}, []))
    private, public = key_pair(tmp_path)
    folder = tmp_path / "net"
    folder.mkdir()
    for name in ("model.onnx", "certificate.json"):
        (folder / name).write_text(name)
    assert sign(folder, private) == folder / SIGNATURE
    return folder, public


def test_what_was_signed_passes_wherever_it_lies_and_can_be_signed_again(signed, tmp_path):
    folder, public = signed
    assert signature_problem(folder, public) == ""
    moved = folder.rename(tmp_path / "elsewhere")
    assert signature_problem(moved, public) == ""
    private, other = key_pair(tmp_path, "other")
    assert "not a signature" in signature_problem(moved, other)
    sign(moved, private)
    assert signature_problem(moved, other) == ""


@pytest.mark.parametrize("change", [
    lambda folder: (folder / "model.onnx").write_text("another"), lambda folder: (folder / "more").write_text(""),
    lambda folder: (folder / "certificate.json").unlink(), lambda folder: (folder / SIGNATURE).write_text("{}"),
    lambda folder: (folder / SIGNATURE).unlink(),
])
def test_any_change_is_seen(signed, change):
    folder, public = signed
    change(folder)
    assert signature_problem(folder, public).startswith(SIGNATURE)


def test_what_is_no_key_is_refused_and_leaves_a_signature_that_stands(signed, tmp_path):
    folder, public = signed
    for key in (tmp_path / "gone.pem", folder / "model.onnx"):
        with pytest.raises(InputError, match="cannot be signed"):
            sign(folder, key)
        with pytest.raises(InputError, match="key cannot be read"):
            signature_problem(folder, key)
    assert signature_problem(folder, public) == ""


def test_a_folder_that_is_not_as_it_was_certified_is_not_signed(tmp_path):
    private, _ = key_pair(tmp_path)
    (tmp_path / "net").mkdir()
    with pytest.raises(InputError, match="not as it was built"):
        sign(tmp_path / "net", private)
    assert not (tmp_path / "net" / SIGNATURE).exists()
