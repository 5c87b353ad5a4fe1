"""The frame of every `run.py`: files that changed, the median of a latency, a verdict whatever happens."""

import argparse
import ast
import io
import json
import subprocess
import sys

import pytest

from isobit.backends.device import golden, replay
from isobit.backends.device.replay import (
    CANNOT,
    FEW_ROUNDS,
    CannotCheck,
    add_options,
    broken_files,
    check_files,
    need_probe,
    print_latency,
    read_manifest,
    show_bench,
    unsigned,
    verdict,
)
from isobit.backends.device.timing import ROUNDS, WARM_UP, Contender
from isobit.pipeline.artifact import digest, signed
from tests.examples.sealed import DOCUMENTS, seal, write_documents
from tests.pipeline.artifact.keys import key_pair


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "artifact"
    (folder / "lib").mkdir(parents=True)
    (folder / "lib" / "a").write_bytes(b"a")
    (folder / "b").write_bytes(b"b")
    (folder / "c").write_bytes(b"c")
    write_documents(folder)
    seal(folder)
    return folder


def broken(folder, *needed):
    return broken_files(folder, read_manifest(folder), needed)


def test_missing_and_changed_files_are_named(folder):
    assert broken(folder, "lib/a", "b", "c") == []
    (folder / "b").write_bytes(b"a")
    (folder / "c").unlink()
    assert broken(folder) == ["b: changed since it was built", "c: missing"]


def test_a_file_that_the_manifest_does_not_vouch_for_is_missing_in_it(folder):
    (folder / "later").write_bytes(b"")
    assert broken(folder, "b", "later") == ["later: not in the manifest"]


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("change", [lambda path: path.unlink(), lambda path: path.write_text("other")])
def test_documents_for_people_are_no_part_of_the_verdict(folder, name, change):
    change(folder / name)
    assert broken(folder, "b") == []


def test_a_file_that_lies_elsewhere_is_missing(folder, tmp_path):
    (folder / "b").rename(tmp_path / "b")
    (folder / "b").symlink_to(tmp_path / "b")
    (folder / "lib").rename(tmp_path / "lib")
    (folder / "lib").symlink_to(tmp_path / "lib")
    assert broken(folder) == ["b: missing", "lib/a: missing"]
    (folder / "manifest.json").rename(tmp_path / "m")
    (folder / "manifest.json").symlink_to(tmp_path / "m")
    with pytest.raises(ValueError, match=r"manifest.json: missing"):
        read_manifest(folder)


def test_a_folder_may_be_reached_through_a_link(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert broken(tmp_path / "link", "lib/a") == []


def test_a_name_that_leads_out_of_the_folder_is_missing(folder, tmp_path):
    (tmp_path / "outside").write_bytes(b"a")
    manifest = read_manifest(folder)
    manifest["files"] = {"../outside": manifest["files"]["lib/a"]}
    assert broken_files(folder, manifest, []) == ["../outside: missing"]


def edited(text, path, value):
    content = json.loads(text)
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: edited(text, ["files"], {}),
        lambda text: edited(text, ["files", "b", "sha256"], "0" * 64),
        lambda text: edited(text, ["files", "b", "bytes"], 2),
        lambda text: edited(text, ["target", "profile"], "vnni"),
        lambda text: edited(text, ["tensors"], [{}]),
        lambda text: edited(text, ["more"], 1),
        lambda text: edited(text, ["sha256"], None),
        lambda text: edited(text, ["more"], float("nan")),
        lambda text: text[:-1],
        lambda text: "",
        lambda text: "[]",
        lambda text: "null",
        lambda text: "{}",
        lambda text: "[" * 100_000,
        lambda text: "\0" + text,
    ],
)
def test_a_manifest_that_is_not_what_was_written_is_refused(folder, change):
    path = folder / "manifest.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=r"manifest.json: changed since it was built"):
        read_manifest(folder)


def test_the_layout_of_the_manifest_says_nothing(folder):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=3).replace("\n", "\r\n"))
    assert broken(folder, "b") == []


def test_latency_is_the_median_of_a_few_rounds_even_in_no_time(capsys):
    calls = []
    print_latency(lambda: calls.append(1), 0.0)
    assert len(calls) == WARM_UP + 1 + FEW_ROUNDS
    assert capsys.readouterr().out.startswith("latency: 0.0")


def test_a_bench_prints_one_line_of_the_table_and_passes_nothing(folder, capsys):
    calls = []

    def timed(place, batch, threads):
        assert (place, batch, threads) == (folder, 1, 1)
        return Contender("runtime 1.0", lambda: calls.append(1), "a note")

    assert verdict(lambda: show_bench(folder, timed, 0.0), checks=False) == 0
    head, line, conditions = capsys.readouterr().out.splitlines()
    assert head.split()[0] == "contender" and "time over artifact" in head
    assert line.startswith("artifact   runtime 1.0  ") and line.endswith("  1.000 to 1.000  a note")
    assert f"1 thread, batch 1; medians and quartiles of the {ROUNDS} rounds of one run, CPU time" in conditions
    assert len(calls) == WARM_UP + 1 + ROUNDS


def test_a_bench_of_what_cannot_run_says_why(folder, capsys):
    def timed(place, batch, threads):
        raise CannotCheck("another processor")

    assert verdict(lambda: show_bench(folder, timed, 0.0), checks=False) == CANNOT
    assert capsys.readouterr().out.splitlines() == ["another processor", "FAIL"]


def test_files_are_those_that_were_built_or_all_that_is_wrong_is_raised(folder):
    assert check_files(folder, ["b"]) == read_manifest(folder)
    (folder / "b").write_bytes(b"a")
    (folder / "c").unlink()
    with pytest.raises(ValueError, match="^b: changed since it was built; c: missing$"):
        check_files(folder, ["b"])


def test_one_thing_at_a_time_is_asked_for(capsys):
    parser = argparse.ArgumentParser()
    add_options(parser).add_argument("--probe", action="store_true")
    assert not parser.parse_args([]).bench and parser.parse_args(["--bench"]).bench
    with pytest.raises(SystemExit):
        parser.parse_args(["--bench", "--probe"])
    assert "not allowed with" in capsys.readouterr().err


@pytest.mark.parametrize(("problems", "code", "last"), [([], 0, "PASS"), (["x: wrong"], 1, "FAIL")])
def test_the_last_line_is_the_verdict(capsys, problems, code, last):
    assert verdict(lambda: problems) == code
    assert capsys.readouterr().out.splitlines() == [*problems, last]


def test_an_error_is_a_finding_and_no_traceback(folder, capsys):
    assert verdict(lambda: 1 // 0) == 1
    assert capsys.readouterr().out.splitlines() == ["ZeroDivisionError: integer division or modulo by zero", "FAIL"]
    (folder / "manifest.json").write_text("{}")
    assert verdict(lambda: read_manifest(folder)) == 1
    assert capsys.readouterr().out.splitlines() == ["manifest.json: changed since it was built", "FAIL"]


def test_where_a_probe_is_lost_or_was_never_written_nothing_can_be_said(folder, capsys):
    manifest = read_manifest(folder)
    need_probe(folder, manifest, "b")
    (folder / "b").unlink()
    assert verdict(lambda: need_probe(folder, manifest, "b") or []) == CANNOT == 2
    assert capsys.readouterr().out == "b: missing, it was built: copy the whole folder\nFAIL\n"
    assert verdict(lambda: need_probe(folder, manifest, "never") or []) == CANNOT
    assert capsys.readouterr().out.startswith("never: the build wrote none")


def test_without_a_key_nobody_asks_who_signed(folder, tmp_path):
    assert unsigned(folder, None) == []


def test_a_signature_is_asked_for_before_anything_is_run(folder, tmp_path):
    pytest.importorskip("model_signing", reason="the extra `sign` is not installed")
    from model_signing import hashing, signing

    (private, public), (_, other) = key_pair(tmp_path), key_pair(tmp_path, "other")
    assert unsigned(folder, public) == ["model.sig: missing, nobody signed this folder"]
    config = signing.Config().set_hashing_config(signed.all_but(hashing, folder / "model.sig"))
    config.use_elliptic_key_signer(private_key=private).sign(folder, folder / "model.sig")
    assert unsigned(folder, public) == [] and unsigned(folder, other)
    (folder / "b").write_bytes(b"other")
    ran = []
    assert verdict(lambda: unsigned(folder, public) or ran.append("check") or []) == 1 and not ran


def test_a_signature_that_cannot_be_checked_is_neither_right_nor_wrong(folder, tmp_path, monkeypatch, capsys):
    key = tmp_path / "no.pub"
    monkeypatch.setitem(sys.modules, "model_signing", None)
    assert verdict(lambda: unsigned(folder, key)) == CANNOT
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("--require-signature needs the package model-signing (") and last == "FAIL"
    assert first.endswith("): pip install model-signing pyopenssl")


def test_what_is_no_public_key_is_told(folder, tmp_path, capsys):
    pytest.importorskip("model_signing", reason="the extra `sign` is not installed")
    for key in (tmp_path / "gone.pub", folder / "b"):
        assert verdict(lambda key=key: unsigned(folder, key)) == CANNOT
        assert f"{key}: the key cannot be read" in capsys.readouterr().out


def test_a_name_that_the_terminal_cannot_show_is_no_traceback(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr("sys.stdout", terminal)
    assert verdict(lambda: ["caf\u00e9 \udc80"]) == 1
    terminal.flush()
    assert terminal.buffer.getvalue() == b"caf\\xe9 \\udc80\nFAIL\n"


@pytest.mark.parametrize("module", [golden, replay, digest, signed], ids=lambda module: module.__name__)
def test_the_syntax_is_that_of_python_3_8(module):
    with open(module.__file__) as file:
        ast.parse(file.read(), feature_version=(3, 8))


@pytest.mark.parametrize(("redirect", "status"), [(">/dev/full", CANNOT), (">&-", 0), ("| exit 0", CANNOT)])
def test_a_verdict_that_nobody_can_read_is_none_and_no_traceback(redirect, status):
    code = "import sys, time; time.sleep(0.5); from isobit.backends.device.replay import verdict; " \
        "sys.exit(verdict(lambda: print('latency') or []))"
    command = f"'{sys.executable}' -c \"{code}\" {redirect}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (status, "")


@pytest.mark.parametrize("given", ["inf", "nan", "-1"])
def test_a_latency_that_would_never_be_known_is_refused(given, capsys):
    parser = argparse.ArgumentParser()
    add_options(parser)
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(["--seconds", given])
    assert "0 up to a million" in capsys.readouterr().err
