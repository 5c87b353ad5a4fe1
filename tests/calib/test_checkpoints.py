"""Checkpoints: what is saved comes back, whatever belongs to another run or is damaged does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from isobit.calib.checkpoints import UnitCheckpoints, run_key, tensors_sha256
from isobit.pipeline.errors import CalibrationError
from isobit.pipeline.stages import UnitLog

LOG = UnitLog("layer1.0", 10, 3.0, 1.0, 1.5, 0.01, 0.2, 0.7, True)
TENSORS = {"a.scale": torch.tensor(0.25), "a.codes": torch.arange(6, dtype=torch.int32).reshape(2, 3).t()}


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    UnitCheckpoints(tmp_path, run_key("a")).save(3, LOG, TENSORS)
    log, tensors = UnitCheckpoints(tmp_path, run_key("a")).load(3, "layer1.0")
    assert log == LOG
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert not list(tmp_path.rglob("*.partial"))


def test_other_runs_units_and_names_find_nothing(tmp_path: Path) -> None:
    store = UnitCheckpoints(tmp_path, run_key("a"))
    store.save(3, LOG, TENSORS)
    assert UnitCheckpoints(tmp_path, run_key("b")).load(3, "layer1.0") is None
    assert store.load(2, "layer1.0") is None and store.load(3, "layer1.1") is None


def test_a_damaged_file_is_no_checkpoint(tmp_path: Path) -> None:
    store = UnitCheckpoints(tmp_path, run_key("a"))
    store.save(0, LOG, TENSORS)
    path = next(tmp_path.rglob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:40])
    assert store.load(0, "layer1.0") is None


def test_a_disk_that_refuses_is_a_calibration_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where a folder should be")
    with pytest.raises(CalibrationError, match="cannot be written"):
        UnitCheckpoints(tmp_path / "taken", run_key("a")).save(0, LOG, TENSORS)


def test_a_run_that_starts_anew_knows_why(tmp_path: Path) -> None:
    facts = {"kind": "calibration", "recipe": "name: a\nseed: 1\n", "data": "d"}
    store = UnitCheckpoints.of(tmp_path, facts)
    assert "no checkpoints" in store.why_not_resumed()
    store.save(0, LOG, TENSORS)
    assert store.why_not_resumed() == "" and not list(tmp_path.rglob("*.partial"))
    assert UnitCheckpoints.of(tmp_path, facts).load(0, "layer1.0") is not None
    changed = UnitCheckpoints.of(tmp_path, {**facts, "recipe": "name: a\nseed: 2\n"})
    assert changed.why_not_resumed() == "nothing was resumed: the checkpoints are of a (seed 1, now 2)"
    images = UnitCheckpoints.of(tmp_path, {**facts, "kind": "images"})
    assert "no checkpoints" in images.why_not_resumed()
    images.save_training({"step": 1}, [])
    assert images.why_not_resumed() == ""


def test_a_training_that_the_disk_does_not_take_is_a_calibration_error(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no device here is always full")
    store = UnitCheckpoints(tmp_path, run_key("a"))
    store.folder.mkdir()
    (store.folder / "training.partial").symlink_to("/dev/full")
    with pytest.raises(CalibrationError, match="No space left"):
        store.save_training({"weights": torch.zeros(100_000)}, [])


def test_keys_tell_facts_apart() -> None:
    assert run_key("ab", "c") != run_key("a", "bc")
    assert tensors_sha256([torch.zeros(4)]) != tensors_sha256([torch.zeros(2, 2)])
    assert tensors_sha256([torch.zeros(4)]) == tensors_sha256([torch.zeros(8)[::2]])
