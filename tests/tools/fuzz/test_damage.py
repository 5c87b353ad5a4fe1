"""Damage is a matter of the seed alone, changes something, and reaches what is inside of archives."""

import json
import pickle
import random
import zipfile

import numpy as np
import pytest
import torch

from isobit.pipeline.artifact.digest import content_digest
from isobit.pipeline.artifact.manifest import sha256_file
from tools.fuzz import damage, good
from tools.fuzz.builds import digest


def made(folder, name):
    folder.mkdir()
    good.KINDS[name].make(folder)
    return folder / good.KINDS[name].victim


@pytest.mark.parametrize(("kind", "form"), [
    *(("pth", form) for form in (*good.ZIP, "pickle", "tensors")), ("safetensors", "header"),
    ("onnx", "protobuf"), ("onnx-external", "external"), ("onnx-functions", "functions"), ("study", "yaml"),
    ("study", "yaml_tree")])
def test_a_form_is_a_matter_of_chance_alone_and_changes_the_file(tmp_path, kind, form):
    path = made(tmp_path / "made", kind)
    whole = {each: each.read_bytes() for each in path.parent.iterdir()}
    found = []
    for seed in (*range(8), 0):
        for each, data in whole.items():
            each.write_bytes(data)
        damage.FORMS[form](random.Random(seed), path)
        found.append(digest(path.parent))
    assert found[0] == found[-1] and len(set(found)) > 5


def test_arrays_and_pictures(tmp_path):
    good.arrays(tmp_path / "good.npz")
    whole = (tmp_path / "good.npz").read_bytes()
    kinds = set()
    for seed in range(40):
        (tmp_path / "good.npz").write_bytes(whole)
        damage.arrays(random.Random(seed), tmp_path / "good.npz")
        try:
            with np.load(tmp_path / "good.npz") as file:
                kinds |= {file[name].dtype.kind for name in file.files}
        except Exception as error:
            kinds.add(type(error))
    assert len(kinds) > 5 and "f" in kinds and ValueError in kinds
    assert not (tmp_path / damage.CANARY).exists()


def test_the_canary_shows_that_a_pickle_was_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.zeros(1)}, "model.pth")
    damage.pickle_in_it(random.Random(1), tmp_path / "model.pth")
    held = [(tmp_path / "model.pth").read_bytes()]
    if zipfile.is_zipfile("model.pth"):
        with zipfile.ZipFile("model.pth") as archive:
            held = [archive.read(name) for name in archive.namelist()]
    assert any(b"mkdir" in data for data in held)
    pickle.loads(pickle.dumps(damage.Canary()))
    assert (tmp_path / damage.CANARY).is_dir()


def test_a_resealed_artifact_vouches_for_its_changed_file(tmp_path):
    (tmp_path / "facts.json").write_text(json.dumps({"a": 1}))
    (tmp_path / "manifest.json").write_text(json.dumps({"files": {"facts.json": {"sha256": "0", "bytes": 1}}}))
    (tmp_path / "certificate.json").write_text(json.dumps({"manifest": "0"}))
    damage.resealed(random.Random(0), tmp_path / "facts.json")
    content, said = (json.loads((tmp_path / name).read_text()) for name in ("manifest.json", "certificate.json"))
    assert content["files"]["facts.json"]["sha256"] == sha256_file(tmp_path / "facts.json")
    assert said["manifest"] == content["sha256"] and said["sha256"] == content_digest(said)
