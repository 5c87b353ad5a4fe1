"""The manifest is the same text for the same content, and covers every file but itself and the timings."""

import hashlib
import json

import pytest
from pydantic import ValidationError

from isobit.pipeline.artifact.manifest import (
    CUT,
    MANIFEST,
    PREPROCESSING,
    TIMINGS,
    CalibrationEntry,
    FileEntry,
    Manifest,
    ModelEntry,
    PreprocessingEntry,
    RecipeEntry,
    TargetEntry,
    TensorEntry,
    file_table,
    package_versions,
    packed_bytes,
    read_manifest,
    sha256_file,
)
from isobit.pipeline.errors import InputError
from isobit.pipeline.samples.images import image_steps
from isobit.pipeline.samples.preparation import record_of


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


# --- manifest ---


def test_the_manifest_is_deterministic_sorted_and_reads_back(tmp_path):
    first = manifest()
    second = manifest(packages={"numpy": "1", "torch": "2"}, sizes={"graph": 1, "weights": 3})
    assert first.to_json() == second.to_json()
    assert list(json.loads(first.to_json())) == sorted(set(Manifest.model_fields) - {PREPROCESSING, CUT})
    (tmp_path / MANIFEST).write_text(first.to_json())
    assert read_manifest(tmp_path) == first
    assert read_manifest(tmp_path).tensors[0].scale == [0.1, 1 / 3]


def test_how_a_picture_becomes_the_input_is_there_where_pictures_were(tmp_path):
    steps = image_steps(mean=(0.5,), resize=(24, 32), channels="bgr", pixel_range=(-1.0, 1.0))
    record = PreprocessingEntry(input="pixels", classes=["cat", "dog"], **record_of(steps))
    (tmp_path / MANIFEST).write_text(manifest(preprocessing=record).to_json())
    assert read_manifest(tmp_path).preprocessing == record
    facts = record.facts
    assert json.loads(facts["classes"]) == ["cat", "dog"] and "classes" not in json.loads(facts[PREPROCESSING])
    said = json.loads(facts[PREPROCESSING])
    assert (said["layout"], said["input"], said["resize"]) == ("NCHW", "pixels", "stretch")
    assert set(PreprocessingEntry(input="x", **record_of(steps)).facts) == {PREPROCESSING}


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


def test_packed_bytes_count_every_channel_s_own_bits():
    common = {"module": "", "signed": True, "symmetric": True, "axis": 0, "scale": [1.0], "zero_point": [0],
              "container": "int8", "codes_sha256": ""}
    uniform = TensorEntry(name="a", kind="weight", bits=8, count=10, **common)
    mixed = TensorEntry(name="b", kind="weight", bits=7 / 3, count=27, levels="multibit", channel_bits=[0, 4, 3],
                        **common)
    other = TensorEntry(name="c", kind="activation", bits=8, count=None, **common)
    assert packed_bytes([uniform, mixed, other]) == 10 + 8  # 63 bits are 8 bytes


def test_a_folder_without_an_artifact_is_told_what_to_type(tmp_path):
    (tmp_path / "digits").mkdir()
    for name, hint in (("digit", "digits'?"), ("digits", "Give the folder"), ("x/y", "Paths start at")):
        with pytest.raises(InputError, match="no artifact") as found:
            read_manifest(tmp_path / name)
        assert hint in found.value.hint
