"""What a device asks of a signature; the same answers, worded for the command, are in test_signature.py."""

import sys

import pytest

from isobit.pipeline.artifact.signed import SIGNATURE, unlike_signed
from tests.pipeline.artifact.keys import key_pair


def test_without_the_package_nothing_is_said_of_the_key(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(ImportError, match="model_signing"):
        unlike_signed(tmp_path, tmp_path / "gone.pub")


def test_a_key_that_is_none_is_no_answer_and_a_folder_that_nobody_signed_is_one(tmp_path):
    pytest.importorskip("model_signing", reason="the extra `sign` is not installed")
    _, public = key_pair(tmp_path)
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "model.onnx").write_text("a model")
    assert unlike_signed(tmp_path / "net", public) == f"{SIGNATURE}: missing, nobody signed this folder"
    with pytest.raises(ValueError, match=r"gone\.pub: the key cannot be read: not a file"):
        unlike_signed(tmp_path / "net", tmp_path / "gone.pub")
    with pytest.raises(ValueError, match=r"key\.pem: the key cannot be read"):
        unlike_signed(tmp_path / "net", tmp_path / "key.pem")
