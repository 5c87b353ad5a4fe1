"""Study files, good and hostile: what is wrong names its field."""

from __future__ import annotations

import pytest
import yaml

from isobit.cli.artifacts.sweep import model_options
from isobit.pipeline.errors import InputError
from isobit.sweep.cells import cells_of
from isobit.sweep.study import MAX_BYTES, load_study
from tests.examples.sweeps import ROOT, study

MODEL = {"file": "model.pth"}


def load(path):
    return load_study(path, model_options())


def test_all_that_a_study_may_say(tmp_path):
    path = study(
        tmp_path, models=[{**MODEL, "name": "first", "mean": [0.5, 0.5, 0.5], "allow_float": True, "max_drop": 1.5,
                           "metric": ["map"], "arch_args": {"width": 0.5}}, {"file": "sub/other.onnx"}],
        recipes=["qdrop_w4a4", {"name": "qdrop_w2a2", "set": ["method.steps=300"]}],
        targets=["onnx", {"name": "tvm", "profile": "x86-64-v3"}, {"name": "c", "profile": ["generic", "cortex-m4"]}],
        seeds=[1, 2], best=[{"accuracy": ">= float - 0.5", "minimize": "size"}],
        resources={"cpus": 2, "memory": 4, "gpus": 0.5}, slurm={"partition": "short"})
    read = load(path)
    assert [model.name for model in read.models] == ["first", "other"] and read.content.seeds == (1, 2)
    assert read.models[1].file == tmp_path / "sub" / "other.onnx" and read.content.resources.gpus == 0.5
    assert {word.flag: word.text for word in read.models[0].words} == {
        "--mean": "0.5,0.5,0.5", "--allow-float": None, "--max-drop": "1.5", "--metric": "map",
        "--arch-args": "width=0.5"}
    assert read.content.targets[2].profiles == ("generic", "cortex-m4") and read.content.targets[0].profiles == (None,)


@pytest.mark.parametrize(("changes", "field"), [
    ({"model": []}, "model"), ({"models": []}, "models"), ({"models": None}, "models"), ({"recipes": []}, "recipes"),
    ({"targets": []}, "targets"), ({"seeds": []}, "seeds"), ({"seeds": [1, "2"]}, "seeds.1"),
    ({"seeds": [-1]}, "seeds.0"), ({"seeds": 3}, "seeds"), ({"seeds": [1, 2, 1]}, "seeds.2"),
    ({"models": ["model.pth"]}, "models.0"), ({"models": [{}]}, "models.0.file"),
    ({"models": [{**MODEL, "recipe": "x"}]}, "models.0.recipe"), ({"models": [{**MODEL, "out": "x"}]}, "models.0.out"),
    ({"models": [{**MODEL, "calib": "x"}]}, "models.0.calib"), ({"models": [MODEL, dict(MODEL)]}, "models.1"),
    ({"models": [MODEL, {"file": "other/model.pth"}]}, "models.1"),
    ({"models": [{**MODEL, "mean": {"r": 1}}]}, "models.0.mean"), ({"models": [{"file": ""}]}, "models.0.file"),
    ({"recipes": [{"name": "a", "edits": []}]}, "recipes.0.edits"), ({"recipes": [{"set": []}]}, "recipes.0.name"),
    ({"recipes": [{"name": "a", "set": "b=1"}]}, "recipes.0.set"), ({"recipes": [4]}, "recipes.0"),
    ({"recipes": ["a", {"name": "b", "models": ["modle"]}]}, "recipes.1.models.0"),
    ({"recipes": [{"name": "a", "models": []}]}, "recipes.0.models"),
    ({"recipes": [{"name": "a", "models": ["model", "model"]}]}, "recipes.0.models.1"),
    ({"recipes": [{"name": "a", "seeds": [1, 1]}]}, "recipes.0.seeds.1"),
    ({"recipes": [{"name": "a", "seeds": [-1]}]}, "recipes.0.seeds.0"),
    ({"recipes": ["a", "a"]}, "recipes.1"), ({"targets": ["onnx", {"name": "onnx"}]}, "targets.1"),
    ({"targets": [{"name": "onnx", "profile": []}]}, "targets.0.profile"),
    ({"best": [{"accuracy": ">= 90"}]}, "best.0"), ({"best": [{"accuracy": "good", "minimize": "size"}]},
                                                    "best.0.accuracy"),
    ({"resources": {"cpus": 0}}, "resources.cpus"), ({"resources": {"memory": float("nan")}}, "resources.memory"),
    ({"resources": {"cores": 2}}, "resources.cores"),
])
def test_what_is_wrong_names_its_field(tmp_path, changes, field):
    with pytest.raises(InputError) as found:
        load(study(tmp_path, **changes))
    assert found.value.field == field and field in found.value.what and found.value.exit_code == 2
    assert str(tmp_path / "study.yaml") in str(found.value)


@pytest.mark.parametrize("text", [
    "", "[]", "models", "models: [", "a: &a [*a]", "a: &a 1\nb: *a", "models: 1\nmodels: 2", "[" * 5000,
    "!!python/object/apply:os.mkdir [evil]", "models: !!binary x", "\x00", "? [a]\n: b", "seeds: [" + "9" * 6000 + "]",
])
def test_hostile_yaml_is_refused(tmp_path, text, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as found:
        load(path)
    assert found.value.field and not (tmp_path / "evil").exists()


def test_no_file_a_folder_and_a_file_that_is_too_long(tmp_path):
    (tmp_path / "long.yaml").write_text("#" * (MAX_BYTES + 1))
    for path, why in ((tmp_path / "none.yaml", "does not exist"), (tmp_path, "is a folder"),
                      (tmp_path / "long.yaml", "longer than")):
        with pytest.raises(InputError, match=why) as found:
            load(path)
        assert found.value.field == "study"


def test_every_option_of_a_build_may_stand_there(tmp_path):
    """None is left out because its kind of value is not known: each is given once, as the text of a value."""
    options = model_options()
    said = {name: True if option.switch else "1" for name, option in options.items()}
    assert {"arch", "calib_data", "eval_data", "mean", "resize", "decoder", "max_drop", "parity_samples"} <= set(said)
    path = study(tmp_path, models=[{**MODEL, **said}])
    assert len(load(path).models[0].words) == len(options)
    assert yaml.safe_load(path.read_text())["models"][0]["file"] == "model.pth"


def test_the_study_of_the_document_is_one(tmp_path):
    text = (ROOT / "docs" / "sweep.md").read_text()
    (tmp_path / "study.yaml").write_text(text.split("```yaml\n")[1].split("```")[0])
    read = load(tmp_path / "study.yaml")
    assert len(read.content.seeds) == 3 and read.content.best[0].text == "accuracy >= float - 0.5, minimize size"
    assert len(cells_of(read)) == 2 * 3 * 3
