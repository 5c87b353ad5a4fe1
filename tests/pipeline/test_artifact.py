"""Artifacts appear whole or not at all, and their manifest is the same text for the same content."""

import errno
import hashlib
import json
import os
import stat

import pytest
from pydantic import ValidationError

from pipeline.artifact import (
    MANIFEST,
    TIMINGS,
    CalibrationEntry,
    FileEntry,
    Manifest,
    ModelEntry,
    RecipeEntry,
    TargetEntry,
    TensorEntry,
    check_out,
    file_table,
    package_versions,
    packed_bytes,
    read_manifest,
    sha256_file,
    write_artifact,
)
from pipeline.errors import InputError


def manifest(**changes):
    content = {
        "version": "0.1",
        "recipe": RecipeEntry(name="r", policy="none", text="name: r\n", sha256="0" * 64),
        "model": ModelEntry(name="m", sha256="1" * 64, arch="resnet18"),
        "calibration": CalibrationEntry(kind="files", sha256="2" * 64, count=8),
        "target": TargetEntry(name="onnx", profile="generic", runtime={"onnxruntime": "1.31.1"}),
        "packages": {"torch": "2", "numpy": "1"},
        "seed": 1005,
        "tensors": [
            TensorEntry(
                name="conv_weight",
                module="conv",
                kind="weight",
                bits=4,
                signed=True,
                symmetric=True,
                axis=0,
                count=3,
                scale=[0.1, 1 / 3],
                zero_point=[0, 0],
                container="int8",
                codes_sha256="3" * 64,
            )
        ],
        "files": {"model.onnx": FileEntry(bytes=3, sha256="4" * 64)},
        "sizes": {"weights": 3, "graph": 1},
    }
    return Manifest(**{**content, **changes})


@pytest.fixture
def artifact(tmp_path):
    """A finished artifact at tmp_path/out with one file `a` that holds `old`."""
    with write_artifact(tmp_path / "out") as folder:
        (folder / "a").write_text("old")
        (folder / MANIFEST).write_text(manifest().to_json())
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
def test_an_exception_leaves_nothing_behind_and_is_passed_on(tmp_path, error):
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
def test_a_full_disk_says_how_much_is_free_and_leaves_nothing_behind(tmp_path, number):
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
    assert "--overwrite" in caught.value.hint
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


# --- manifest ---


def test_the_manifest_is_deterministic_sorted_and_reads_back(tmp_path):
    first = manifest()
    second = manifest(packages={"numpy": "1", "torch": "2"}, sizes={"graph": 1, "weights": 3})
    assert first.to_json() == second.to_json()
    assert list(json.loads(first.to_json())) == sorted(Manifest.model_fields)
    (tmp_path / MANIFEST).write_text(first.to_json())
    assert read_manifest(tmp_path) == first
    assert read_manifest(tmp_path).tensors[0].scale == [0.1, 1 / 3]


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_a_manifest_holds_finite_numbers_only(scale):
    entry = manifest().tensors[0].model_dump()
    with pytest.raises(ValidationError, match="finite"):
        TensorEntry(**{**entry, "scale": scale})


@pytest.mark.parametrize("content", [None, "{", "{}"])
def test_a_manifest_that_cannot_be_read_is_an_input_error(tmp_path, content):
    if content is not None:
        (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(InputError, match="no artifact that can be read"):
        read_manifest(tmp_path)


def test_the_file_table_has_size_and_hash_of_all_but_manifest_and_timings(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b").write_bytes(b"abc")
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / MANIFEST).write_text("{}")
    (tmp_path / TIMINGS).write_text("{}")
    assert file_table(tmp_path) == {
        "a": FileEntry(bytes=0, sha256=hashlib.sha256(b"").hexdigest()),
        "sub/b": FileEntry(bytes=3, sha256=hashlib.sha256(b"abc").hexdigest()),
    }
    assert sha256_file(tmp_path / "sub" / "b") == hashlib.sha256(b"abc").hexdigest()


def test_package_versions_names_what_is_installed_only():
    versions = package_versions("numpy", "no-such-distribution")
    assert set(versions) == {"python", "numpy"}


def test_a_place_that_cannot_hold_the_folder_is_found_before_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="a file is in its way"):
        check_out(tmp_path / "file" / "deep" / "out")
    check_out(tmp_path / "new" / "deep" / "out")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the suite may run as root, who may write anywhere
    with pytest.raises(InputError, match="no permission to write"):
        check_out(tmp_path / "new" / "deep" / "out")


def test_packed_bytes_count_every_channel_s_own_bits():
    common = {"module": "", "signed": True, "symmetric": True, "axis": 0, "scale": [1.0], "zero_point": [0],
              "container": "int8", "codes_sha256": ""}
    uniform = TensorEntry(name="a", kind="weight", bits=8, count=10, **common)
    mixed = TensorEntry(name="b", kind="weight", bits=7 / 3, count=27, levels="multibit", channel_bits=[0, 4, 3],
                        **common)
    other = TensorEntry(name="c", kind="activation", bits=8, count=None, **common)
    assert packed_bytes([uniform, mixed, other]) == 10 + 8  # 63 bits are 8 bytes
