"""The script that checks a certificate without Isobit, beyond what `tests/isobit/cli/artifacts/test_verify.py` runs."""

import sys

from isobit.backends.onnx.device import verify


def test_a_folder_that_is_none_fails_and_no_folder_says_how(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["verify.py", str(tmp_path)])
    assert verify.main() == 1 and capsys.readouterr().out.splitlines()[-1] == "FAIL"
    monkeypatch.setattr(sys, "argv", ["verify.py"])
    assert verify.main() == 1 and "verify.py FOLDER" in capsys.readouterr().out


def test_other_targets_have_nothing_to_derive(tmp_path):
    assert verify.derive(tmp_path) == {}
