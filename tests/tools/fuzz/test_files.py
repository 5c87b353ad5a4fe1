"""How a command ended on a damaged file is judged as it should be; a slice of cases is read for real."""

import pytest

from tools.fuzz import files
from tools.fuzz.builds import digest
from tools.fuzz.damage import CANARY
from tools.fuzz.files import FAILED, FINDING, READ, REFUSED, Files, cases, judge, main, warmed
from tools.fuzz.forks import Forked
from tools.fuzz.good import KINDS

ERROR = "error: input: damaged\n"


def judged(place, code=0, said="", kind="onnx", late=False, grown=0):
    return judge(KINDS[kind], place, Forked(code, late, grown, 1.0), said)


def test_refusals_and_harmless_damage_are_no_findings(tmp_path):
    assert judged(tmp_path) == (READ, "") and judged(tmp_path, 2, ERROR) == (REFUSED, "")
    assert judged(tmp_path, 1, "FAIL\n", "artifact") == (FAILED, "")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "certificate.json").touch()
    assert judged(tmp_path) == (READ, "")


@pytest.mark.parametrize(("ended", "why"), [
    ({"code": 3, "said": "error: internal error: KeyError: 1"}, "exit 3: error: internal error: KeyError: 1"),
    ({"code": 2, "said": "Traceback (most recent call last):\nerror: x"}, "exit 2: Traceback"),
    ({"code": 2, "said": "nothing"}, "exit 2 without one error: nothing"),
    ({"code": 2, "said": ERROR * 2}, "exit 2 without one error"),
    ({"code": 1}, "exit 1"), ({"code": -11}, "signal 11"), ({"code": -9, "late": True}, "no end in time"),
    ({"code": 2, "said": ERROR, "grown": 3 << 30}, "3072 MiB of memory"),
    ({"code": 2, "said": "error: \x1b[2J"}, "steers the terminal"),
])
def test_findings(tmp_path, ended, why):
    end, said = judged(tmp_path, **ended)
    assert end == FINDING and why in said


def test_what_a_refusal_leaves_and_what_ran_are_findings(tmp_path):
    (tmp_path / "out").mkdir()
    assert "['out'] is there" in judged(tmp_path, 2, ERROR)[1] and "['out'] is there" in judged(tmp_path)[1]
    (tmp_path / CANARY).mkdir()
    assert "code of the file was run" in judged(tmp_path, 2, ERROR)[1]


def test_a_slice_of_damaged_files_is_refused_or_harmless(tmp_path):
    (tmp_path / "good").mkdir()
    made = Files(tmp_path / "good", ["study", "onnx-plain", "onnx-functions"])
    warmed(made)
    found = [case for name in made.kinds for case in cases(made, name, range(9))]
    assert not [(case.kind, case.seed, case.why) for case in found if case.end == FINDING]
    assert {case.end for case in found} == {READ, REFUSED}
    for name in ("first", "second"):
        made.damaged("study", 3, tmp_path / name)
    assert digest(tmp_path / "first") == digest(tmp_path / "second") != digest(tmp_path / "good" / "study")


def test_findings_are_told_and_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(files, "warmed", lambda made: None)
    monkeypatch.setattr(files, "app", lambda words, prog_name: print("error: internal error: here") or exit(3))
    assert main(["--kind", "study", "--count", "2", "--seed", "5", "--keep", str(tmp_path / "kept")]) == 1
    shown = capsys.readouterr().out
    assert "study 6: exit 3: error: internal error: here" in shown and shown.splitlines()[-1].split()[:6] == [
        "study", "2", "0", "0", "0", "2"]
    assert (tmp_path / "kept" / "study-5" / "study.yaml").is_file()
    assert "sweep study.yaml" in (tmp_path / "kept" / "study-5.command.txt").read_text()
    assert "here" in (tmp_path / "kept" / "study-5.screen.txt").read_text()


def test_a_good_file_that_is_refused_would_say_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "app", lambda words, prog_name: exit(2))
    with pytest.raises(RuntimeError, match="good file of kind 'study'"):
        warmed(Files(tmp_path, ["study"]))
