"""An output is one run's alone, appears whole or not at all, and never takes the place of anything else."""

import errno
import json
import os
import signal
import stat
from pathlib import Path

import pytest

from isobit.pipeline.artifact import output
from isobit.pipeline.artifact.digest import MANIFEST
from isobit.pipeline.artifact.output import check_out, claim, failed_place, write_artifact
from isobit.pipeline.errors import InputError
from tests.examples.processes import running


@pytest.fixture
def artifact(tmp_path):
    """A finished artifact at tmp_path/out with one file `a` that holds `old`."""
    with write_artifact(tmp_path / "out") as folder:
        (folder / "a").write_text("old")
        (folder / MANIFEST).write_text(json.dumps({"product": "isobit"}))
    return tmp_path / "out"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# --- writing ---


def test_the_folder_appears_only_when_the_block_ends(tmp_path):
    out = tmp_path / "deep" / "out"
    with write_artifact(out) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("1")
        assert not out.exists()
        assert folder.parent == out.parent
    assert (out / "sub" / "a").read_text() == "1"
    assert names(out.parent) == ["out"]
    assert stat.S_IMODE(out.stat().st_mode) == 0o755


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit, PermissionError])
def test_an_exception_leaves_nothing_after_and_is_passed_on(tmp_path, error):
    with pytest.raises(error), write_artifact(tmp_path / "out") as folder:
        (folder / "a").write_text("1")
        raise error
    assert names(tmp_path) == []


def test_an_exception_while_overwriting_leaves_the_old_artifact(artifact):
    with pytest.raises(KeyboardInterrupt), write_artifact(artifact, overwrite=True) as folder:
        (folder / "a").write_text("new")
        raise KeyboardInterrupt
    assert (artifact / "a").read_text() == "old"
    assert names(artifact.parent) == ["out"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_says_how_much_is_free_and_leaves_nothing_after(tmp_path, number):
    message = r"[\d,]+ bytes are free; nothing was left behind"
    with pytest.raises(InputError, match=message), write_artifact(tmp_path / "out") as folder:
        (folder / "a").write_text("1")
        raise OSError(number, "No space left on device")
    assert names(tmp_path) == []


def test_a_disk_that_fills_up_at_the_sync_is_noticed(tmp_path, monkeypatch):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="disk is full"), write_artifact(tmp_path / "out") as folder:
        (folder / "a").write_text("1")
    assert names(tmp_path) == []


def test_every_file_and_folder_is_synced_before_the_rename(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    with write_artifact(tmp_path / "out") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("1")
    out = tmp_path / "out"
    assert sorted(synced) == sorted(path.stat().st_ino for path in (out, out / "sub", out / "sub" / "a"))


# --- an output that exists ---


def test_an_existing_folder_is_refused_and_untouched(artifact):
    with pytest.raises(InputError, match="output folder exists") as caught, write_artifact(artifact):
        pytest.fail("the block must not run")
    assert "`options.overwrite=True`" in caught.value.hint
    assert (artifact / "a").read_text() == "old"


def test_overwrite_replaces_the_whole_folder(artifact):
    with write_artifact(artifact, overwrite=True) as folder:
        (folder / "b").write_text("new")
        assert (artifact / "a").read_text() == "old"
    assert names(artifact) == ["b"]
    assert names(artifact.parent) == ["out"]


def test_overwrite_refuses_a_folder_that_is_no_artifact(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("precious")
    for content in ("", "[]", '{"product": "other"}'):
        (tmp_path / "home" / MANIFEST).write_text(content)
        with pytest.raises(InputError, match="not an artifact"):
            check_out(tmp_path / "home", overwrite=True)
    assert (tmp_path / "home" / "thesis.tex").read_text() == "precious"


def test_an_empty_folder_is_taken_and_a_file_is_not(tmp_path):
    (tmp_path / "empty").mkdir()
    with write_artifact(tmp_path / "empty") as folder:
        (folder / "a").write_text("1")
    assert names(tmp_path / "empty") == ["a"]
    (tmp_path / "file").write_text("")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="not a folder"):
            check_out(tmp_path / "file", overwrite)


def test_an_artifact_that_appears_meanwhile_is_not_replaced(tmp_path):
    with pytest.raises(InputError, match="output folder exists"), write_artifact(tmp_path / "out") as folder:
        (folder / "a").write_text("mine")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "a").write_text("theirs")
    assert (tmp_path / "out" / "a").read_text() == "theirs"
    assert names(tmp_path) == ["out"]


def test_the_old_artifact_comes_back_when_the_last_rename_fails(artifact, monkeypatch):
    real = type(artifact).rename

    def rename(path, target):
        if path.suffix == ".partial":
            raise PermissionError("no")
        return real(path, target)

    monkeypatch.setattr(type(artifact), "rename", rename)
    with pytest.raises(PermissionError), write_artifact(artifact, overwrite=True) as folder:
        (folder / "a").write_text("new")
    assert (artifact / "a").read_text() == "old"
    assert names(artifact.parent) == ["out"]


def test_a_place_that_cannot_be_written_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"), write_artifact(tmp_path / "file" / "out"):
        pytest.fail("the block must not run")


def test_a_place_that_cannot_hold_the_folder_is_found_before_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="a file is in its way"):
        check_out(tmp_path / "file" / "deep" / "out")
    check_out(tmp_path / "new" / "deep" / "out")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the suite may run as root, who may write anywhere
    with pytest.raises(InputError, match="no permission to write"):
        check_out(tmp_path / "new" / "deep" / "out")


# --- one run's alone ---

WRITER = """
import sys, time
from pathlib import Path
from isobit.pipeline.artifact.output import claim, write_artifact
out = Path(sys.argv[1])
with claim(out, overwrite=True), write_artifact(out, overwrite=True) as folder:
    (folder / "model.onnx").write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def writer(tmp_path):
    """A process in the middle of writing tmp_path/out."""
    with running(WRITER, tmp_path / "out", "writing") as process:
        yield process


def test_a_second_run_is_refused_while_the_first_lives_and_clears_up_after_a_killed_one(writer, tmp_path):
    for out in (tmp_path / "out", failed_place(tmp_path / "out")):
        with pytest.raises(InputError, match=f"process {writer.pid}"), claim(out, overwrite=True):
            pytest.fail("the block must not run")
    assert [name.endswith(".partial") for name in names(tmp_path)].count(True) == 1
    with claim(tmp_path / "out-other"):
        pass
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert [name.endswith(".partial") for name in names(tmp_path)].count(True) == 1
    with claim(tmp_path / "out"):
        assert names(tmp_path) == [".out-failed.lock", ".out.lock"]
    assert names(tmp_path) == []


def test_only_what_is_ours_is_cleared(tmp_path):
    keep = [".out-b-abcdefgh.partial", ".out-abcdefgh.part", ".out-ABCDEFGH.partial", "out-abcdefgh.partial",
            ".out-abc.partial", ".other-abcdefgh.partial"]
    for name in (*keep, ".out-abcdefg_.partial", ".out-failed-12345678.partial", ".out-12345678.old"):
        (tmp_path / name).mkdir()
    with claim(tmp_path / "out"):
        pass
    assert names(tmp_path) == sorted(keep)


def test_an_artifact_that_a_killed_run_had_moved_aside_comes_back(artifact):
    artifact.rename(artifact.with_name(".out-abcdefgh.old"))
    with pytest.raises(InputError, match="output folder exists"), claim(artifact):
        pytest.fail("the block must not run")
    assert names(artifact.parent) == ["out"] and (artifact / "a").read_text() == "old"


def test_the_place_of_a_failed_build_is_looked_at_before_work(tmp_path):
    (tmp_path / "out-failed").mkdir()
    (tmp_path / "out-failed" / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="not an artifact") as caught, claim(tmp_path / "out"):
        pytest.fail("the block must not run")
    assert caught.value.where == str(tmp_path / "out-failed")


# --- where an artifact must not be ---


def test_neither_where_we_stand_nor_above_it(tmp_path, monkeypatch):
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    for out in (".", "..", "", "/", "../../a", str(inside), "../b"):
        for overwrite in (False, True):
            with pytest.raises(InputError, match="runs in, or one above it"):
                check_out(Path(out), overwrite)
    check_out(Path("../c"))


@pytest.mark.parametrize("name", ["x" * 221, "é" * 111, "x" * 5000, "a\0b"])
def test_names_that_no_folder_can_have(tmp_path, name):
    with pytest.raises(InputError, match="name is too long"):
        check_out(tmp_path / name)


def test_a_name_of_the_longest_kind_is_written(tmp_path):
    out = tmp_path / ("x" * 213)
    with claim(out), write_artifact(out) as folder:
        (folder / "a").write_text("1")
    with write_artifact(failed_place(out)) as folder:
        (folder / "a").write_text("1")
    assert len(names(tmp_path)) == 2


def test_neither_around_its_inputs_nor_within_them(artifact, tmp_path):
    (artifact / "model.pth").write_text("")
    (tmp_path / "images" / "cat").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "images")
    with pytest.raises(InputError, match="MODEL lies in the output folder"):
        claim(artifact, True, inputs={"MODEL": artifact / "model.pth"}).__enter__()
    for data in ("images", "link"):
        with pytest.raises(InputError, match="lies in --calib-data, where it would be taken for data"):
            claim(tmp_path / "images" / "out", inputs={"--calib-data": tmp_path / data}).__enter__()
    with claim(tmp_path / "new", inputs={"MODEL": tmp_path / "new" / "gone", "--recipe": None,
                                         "--calib-data": tmp_path / "images"}):
        pass


def test_links(artifact, tmp_path):
    (tmp_path / "link").symlink_to(artifact)
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match="output folder exists"):
        check_out(tmp_path / "link")
    with pytest.raises(InputError, match="is not a folder"):
        check_out(tmp_path / "dangling", overwrite=True)
    with write_artifact(tmp_path / "link", overwrite=True) as folder:
        (folder / "b").write_text("new")
    assert (tmp_path / "link").is_symlink() and names(artifact) == ["b"]
    assert names(tmp_path) == ["dangling", "link", "out"]


@pytest.mark.parametrize("content", ["[" * 100_000, None])
def test_a_manifest_that_is_no_json_is_no_artifact_s(tmp_path, content):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("precious")
    if content is None:
        os.mkfifo(tmp_path / "home" / MANIFEST)
    else:
        (tmp_path / "home" / MANIFEST).write_text(content)
    with pytest.raises(InputError, match="not an artifact"):
        check_out(tmp_path / "home", overwrite=True)


# --- a full disk ---


def test_a_library_that_does_not_say_why_it_cannot_write_is_understood(tmp_path, monkeypatch):
    def write(free):
        monkeypatch.setattr(output.shutil, "disk_usage", lambda path: type("Usage", (), {"free": free}))
        with write_artifact(tmp_path / "out") as folder:
            (folder / "a").write_text("1")
            raise RuntimeError("PytorchStreamWriter failed writing file")

    with pytest.raises(InputError, match="the disk is full"):
        write(100)
    with pytest.raises(RuntimeError, match="PytorchStreamWriter"):
        write(1 << 30)
    assert names(tmp_path) == []
