"""One cell: what it records, what it is keyed by, and that its failure is a record too."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from isobit import ship
from isobit.pipeline.errors import InputError, RecipeError
from isobit.pipeline.proof.findings import Rule
from isobit.pipeline.samples.data import open_data
from isobit.pipeline.samples.inputs import ImageOptions
from tests.tools.small_grid import small_data
from tools.reproduce.cell import (
    BUILDS,
    FLOAT,
    SUBJECTS,
    Phases,
    Request,
    Subject,
    cell_key,
    drawn,
    main,
    measure,
    record_path,
    slug,
    top1,
    tree_sha256,
)
from tools.reproduce.plan import PLAN, Cell, cells_of

pytestmark = pytest.mark.onnxruntime
SMALL = ("images.count=32", "images.batch_size=16")
CELL = Cell("ds_cnn", "qdrop_w4a4", ("method.steps=2", *SMALL), 1)


def request(tmp_path, cell, proof=20):
    return Request(cell, tmp_path / "data", tmp_path / "out", proof, "the key")


def test_a_cell_is_built_proven_on_a_part_and_measured_on_all(tmp_path):
    small_data(tmp_path / "data")
    threads = torch.get_num_threads()
    try:
        assert main([request(tmp_path, CELL).to_json()]) == 0
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
    record = json.loads(record_path(tmp_path / "out", CELL).read_text())
    assert record["error"] is None and record["key"] == "the key" and record["id"] == CELL.id
    assert record["samples"] == {"calibration": 32, "evaluation": 40} and record["proof"]["samples"] == 20
    assert record["proof"]["passed"] and record["proof"]["compared"] > 0
    assert record["proof"]["differing"] == record["proof"]["logits_differing"] == 0
    assert record["accuracy"]["float"] == 100.0 and 0 <= record["accuracy"]["artifact"] <= 100
    assert set(record["phases"]) == {"capture and place", "calibrate", "freeze, emit and prove",
                                     "measure the artifact"}
    assert all(times["wall_s"] > 0 and times["cpu_s"] >= 0 for times in record["phases"].values())
    assert record["steps"] == 2 and record["method"] == "qdrop" and record["bits"] == "w4a4"
    assert "seed: 1" in record["recipe"]["text"]
    peaks = [times["peak_rss_mb"] for times in record["phases"].values()]
    assert peaks == sorted(peaks) and peaks[0] > 10
    assert not record["synthetic"] and record["last_epoch"] == {} and isinstance(record["notes"], list)
    assert len(record["units"]) >= 2 and record["undecided"] == pytest.approx(
        np.mean([unit["undecided"] for unit in record["units"]])
    )
    assert not list((tmp_path / "out" / BUILDS).iterdir())  # artifacts are not kept


def test_a_method_without_training_has_no_undecided_rounding(tmp_path):
    small_data(tmp_path / "data")
    record = measure(request(tmp_path, Cell("ds_cnn", "mse_w8a8", SMALL, 1)))
    assert record["undecided"] is None and record["units"] == [] and record["steps"] == 0


def test_images_of_the_pool_are_other_images_normalised_as_the_network_was_trained(tmp_path):
    small_data(tmp_path / "data", pictures=True)
    records = [measure(request(tmp_path, Cell("resnet20", "mse_w8a8", ("images.batch_size=16",), 1, images)))
               for images in ("calib", "pool")]
    assert [record["samples"]["calibration"] for record in records] == [30, 40]
    assert all(record["samples"]["evaluation"] == 20 for record in records)


def test_a_cell_without_data_records_what_its_images_were(tmp_path):
    """No folder of calibration images is there, and none is asked for."""
    data = small_data(tmp_path / "data")
    (data / "kws" / "calib.npz").unlink()
    cell = Cell("ds_cnn", "zeroq_w8a8", ("images.count=4", "images.iterations=3"), 1, None)
    assert cell_key(cell, data, 20)
    record = measure(request(tmp_path, cell))
    assert record["synthetic"] and record["samples"]["calibration"] == 4
    assert record["phases"]["make images"]["wall_s"] > 0
    assert record["last_epoch"]["images"]["number"] == 1 and "loss" in record["last_epoch"]["images"]["measured"]


def test_a_failing_cell_says_what_is_wrong(tmp_path, capsys):
    small_data(tmp_path / "data")
    cell = Cell("ds_cnn", "no_such_recipe_w4a4", (), 1)
    assert main([request(tmp_path, cell).to_json()]) == 0  # the record is written
    record = json.loads(record_path(tmp_path / "out", cell).read_text())
    assert "there is no recipe 'no_such_recipe_w4a4'" in record["error"]
    assert "Traceback" in capsys.readouterr().err  # for the log


def test_a_failed_gate_fails_the_cell(tmp_path, monkeypatch):
    small_data(tmp_path / "data")
    original = ship.apply_gates

    def fail(report):
        original(report)
        report.rules.append(Rule("codes differ", "parity", 3, 0, False))

    monkeypatch.setattr(ship, "apply_gates", fail)
    main([request(tmp_path, CELL).to_json()])
    assert "codes differ: measured 3" in json.loads(record_path(tmp_path / "out", CELL).read_text())["error"]


def test_the_float_network_is_measured_once_for_a_model_and_its_data(tmp_path):
    small_data(tmp_path / "data")
    cell = Cell("ds_cnn", "mse_w8a8", SMALL, 1)
    measure(request(tmp_path, cell))
    kept = tmp_path / "out" / FLOAT / "ds_cnn.json"
    content = json.loads(kept.read_text())
    kept.write_text(json.dumps({**content, "top1": 12.5}))
    assert measure(request(tmp_path, cell))["accuracy"]["float"] == 12.5
    kept.write_text(json.dumps({**content, "top1": 12.5, "key": "of another model"}))
    assert measure(request(tmp_path, cell))["accuracy"]["float"] == 100.0


def test_a_request_survives_the_command_line(tmp_path):
    whole = Request(Cell("resnet20", "qdrop_w2a2", ("method.steps=5",), 3, "pool"), tmp_path, tmp_path / "o", 9, "k")
    assert Request.from_json(whole.to_json()) == whole


def test_the_key_follows_recipe_data_model_and_proof_but_not_the_order_of_reading(tmp_path):
    data = small_data(tmp_path / "data")
    key = cell_key(CELL, data, 20)
    tree_sha256.cache_clear()
    assert cell_key(CELL, data, 20) == key
    others = [cell_key(Cell("ds_cnn", "qdrop_w4a4", CELL.sets, 2), data, 20), cell_key(CELL, data, 21)]
    for name in ("kws/val.npz", "kws/calib.npz", "models/ds_cnn_kws.pth", "models/ds_cnn.py"):
        before = (data / name).read_bytes()
        (data / name).write_bytes(before + b"\n")
        tree_sha256.cache_clear()
        others.append(cell_key(CELL, data, 20))
        (data / name).write_bytes(before)
    tree_sha256.cache_clear()
    assert len({key, *others}) == 7


def test_the_key_follows_pictures_that_annotations_name_the_decoder_and_the_metric(tmp_path, monkeypatch):
    data, said = tmp_path / "data", {"images": [{"id": 1, "file_name": "1.png", "width": 8, "height": 8}],
                                     "categories": [{"id": 1, "name": "cell"}], "annotations": []}
    data.mkdir()
    for name in ("model.pth", "arch.py", "1.png"):
        (data / name).write_bytes(b"1")
    for name in ("train.json", "val.json"):
        (data / name).write_text(json.dumps(said))
    decoder = tmp_path / "decoder.py"
    decoder.write_text("1")
    subject = Subject("model.pth", "arch.py:net", {"calib": "train.json"}, "val.json", ImageOptions(), metric="map",
                      decoder=f"{decoder}:decode")

    def key(subject):
        monkeypatch.setitem(SUBJECTS, "boxes", subject)
        tree_sha256.cache_clear()
        return cell_key(Cell("boxes", "qdrop_w4a4", (), 1), data, 20)

    keys = {key(subject), key(replace(subject, metric="map50"))}
    for file in (data / "1.png", decoder):
        file.write_bytes(b"2")
        keys.add(key(subject))
    assert len(keys) == 4


def test_what_cannot_be_keyed_is_refused(tmp_path):
    small_data(tmp_path / "data")
    with pytest.raises(RecipeError):
        cell_key(Cell("ds_cnn", "no_such_recipe", (), 1), tmp_path / "data", 20)
    with pytest.raises(InputError, match="no network 'ds_cnn' with images 'pool'"):
        cell_key(Cell("ds_cnn", "qdrop_w4a4", (), 1, "pool"), tmp_path / "data", 20)
    with pytest.raises(InputError, match="not there"):
        cell_key(Cell("resnet20", "qdrop_w4a4", (), 1), tmp_path / "data", 20)


def test_every_cell_of_the_plan_has_a_file_of_its_own():
    names = {slug(cell.id) for cell in cells_of(PLAN)}
    assert len(names) == len(cells_of(PLAN)) and all("/" not in name and len(name) < 200 for name in names)


def test_the_proof_sees_a_seeded_part_in_order(tmp_path):
    np.savez(tmp_path / "data.npz", x=np.zeros((30, 1, 2, 2), np.float32), y=np.arange(30))
    whole = open_data(tmp_path / "data.npz", batch_size=8, purpose="eval")
    part = drawn(whole, 10)
    assert len(part) == 10 and list(part.order) == sorted(part.order) and part.order != tuple(range(10))
    assert part.order == drawn(whole, 10).order
    assert len(drawn(whole, 100)) == 30


def test_top1_counts_over_uneven_batches(tmp_path):
    np.savez(tmp_path / "data.npz", x=np.zeros((5, 1, 2, 2), np.float32), y=np.array([0, 1, 0, 1, 1]))
    batches = open_data(tmp_path / "data.npz", batch_size=2, purpose="eval")
    assert top1(lambda x: np.tile([0.0, 1.0], (len(x), 1)), batches) == 60.0


def test_phases_are_timed_apart():
    phases = Phases()
    phases.stage("first")
    sum(range(200_000))
    phases.stage("second")
    phases.stage("")
    assert list(phases.measured) == ["first", "second"]
    assert phases.measured["first"]["wall_s"] > phases.measured["second"]["wall_s"] >= 0
