"""Values of a study as words of a command line."""

from __future__ import annotations

from datetime import date

import pytest

from isobit.pipeline.errors import InputError
from isobit.sweep.options import Option, check_known, words

MEAN, SWITCH = Option("mean", "--mean", joined=True), Option("allow_float", "--allow-float", switch=True)
DATA = Option("calib_data", "--calib-data", path=True)
ARCH = Option("arch", "--arch", names_file=True)
METRIC = Option("metric", "--metric", repeatable=True, names_file=True)
ARGS = Option("arch_args", "--arch-args", repeatable=True)


def texts(option, value, folder):
    return [text for word in words(option, value, folder, "models.0.x") for text in (word.flag, word.text) if text]


@pytest.mark.parametrize(("option", "value", "expected"), [
    (MEAN, [0.5, 0.25, 1], ["--mean", "0.5,0.25,1"]), (MEAN, 127, ["--mean", "127"]), (MEAN, "1,2", ["--mean", "1,2"]),
    (SWITCH, True, ["--allow-float"]), (SWITCH, False, []),
    (METRIC, ["map", "f1"], ["--metric", "map", "--metric", "f1"]), (METRIC, "map", ["--metric", "map"]),
    (ARGS, {"width": 0.5, "name": "a", "deep": True, "not": None},
     ["--arch-args", "width=0.5", "--arch-args", 'name="a"', "--arch-args", "deep=true", "--arch-args", "not=null"]),
    (ARGS, "width=0.5", ["--arch-args", "width=0.5"]), (ARCH, "resnet18", ["--arch", "resnet18"]),
])
def test_values(option, value, expected, tmp_path):
    assert texts(option, value, tmp_path) == expected


def test_paths_begin_with_the_study_and_functions_stay(tmp_path):
    (tmp_path / "net.py").touch()
    assert texts(DATA, "data/calib", tmp_path) == ["--calib-data", f"{tmp_path}/data/calib"]
    (word,) = words(DATA, "make.py:samples", tmp_path, "x")
    assert word.text == f"{tmp_path}/make.py:samples" and word.file == tmp_path / "make.py"
    assert texts(ARCH, "net.py:make", tmp_path) == ["--arch", f"{tmp_path}/net.py:make"]
    assert texts(ARCH, "timm:resnet", tmp_path) == ["--arch", "timm:resnet"]
    assert texts(ARCH, f"{'a' * 5000}:make", tmp_path) == ["--arch", f"{'a' * 5000}:make"]
    assert texts(DATA, "/elsewhere/x.npz", tmp_path) == ["--calib-data", "/elsewhere/x.npz"]


@pytest.mark.parametrize(("option", "value"), [
    (SWITCH, "yes"), (MEAN, []), (MEAN, [0.5, "x"]), (MEAN, {"r": 1}), (DATA, None), (DATA, ["a", "b"]), (DATA, True),
    (METRIC, []), (METRIC, [["map"]]), (MEAN, [True]), (METRIC, ""), (ARCH, ""), (METRIC, ["map", ""]),
    (ARGS, {"released": date(2026, 1, 1)}), (ARGS, {"x": b"1"}),
])
def test_values_of_another_kind_name_the_field(option, value, tmp_path):
    with pytest.raises(InputError, match="models.0.x") as found:
        words(option, value, tmp_path, "models.0.x")
    assert found.value.field == "models.0.x" and found.value.allowed


def test_an_unknown_key_is_told_with_the_nearest(tmp_path):
    with pytest.raises(InputError, match="Did you mean 'calib_data'") as found:
        check_known({"calib_data": DATA}, {"file": "x", "calibdata": "y"}, "models.1", ("file",))
    assert found.value.field == "models.1.calibdata"
