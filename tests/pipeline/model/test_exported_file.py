"""Exported programs: what a file can say to run code, or to take all memory, is refused before torch reads it."""

import contextlib
import json
import os
import random
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from isobit.pipeline.capture.capture import capture
from isobit.pipeline.errors import CompileError, InputError
from isobit.pipeline.model.exported_file import is_exported, load_exported
from isobit.pipeline.model.modelfile import load_model
from tests.examples import hostile


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return hostile.export_small(tmp_path_factory.mktemp("good") / "small.pt2")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A current folder with a module that betrays its import."""
    (tmp_path / "evil_module.py").write_text(f"import os\nos.mkdir({hostile.MARKER!r})\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def built(path):
    """The file as far as a dry run takes it."""
    return capture(load_model(path).exported, torch.zeros(1, 3, 6, 6))


def test_a_good_program_computes_as_torch_loads_it(good):
    x = torch.randn(3, 3, 6, 6)
    program, expected = load_exported(good, False), torch.export.load(good)
    assert torch.equal(program.module()(x), expected.module()(x))
    assert [node.name for node in program.graph.nodes] == [node.name for node in expected.graph.nodes]
    modules = [node.meta.get("nn_module_stack") for node in expected.graph.nodes if node.op == "call_function"]
    assert [n.meta.get("nn_module_stack") for n in program.graph.nodes if n.op == "call_function"] == modules
    assert torch.equal(built(good).graph(x), expected.module()(x))


@pytest.mark.parametrize("suffix", [".pt2", ".pth"])
@pytest.mark.parametrize("name", hostile.PROGRAMS)
def test_a_hostile_program_is_refused_and_runs_nothing(good, name, suffix, folder):
    path = hostile.write(hostile.PROGRAMS[name](hostile.members(good)), folder / f"evil{suffix}")
    with pytest.raises(CompileError) as caught:
        built(path)
    assert caught.value.exit_code == 2
    assert not os.path.exists(hostile.MARKER)


@pytest.mark.parametrize("name", ["expression", "name_of_input", "tree_enum", "tree_default", "sample_pickle"])
def test_the_payloads_do_run_where_the_file_is_trusted(good, name, folder, monkeypatch):
    monkeypatch.delitem(sys.modules, "evil_module", raising=False)
    path = hostile.write(hostile.PROGRAMS[name](hostile.members(good)), folder / "evil.pt2")
    with contextlib.suppress(Exception):  # some run and fail afterwards
        load_model(path, trust_pickle=True).exported.module()
    sys.modules.pop("evil_module", None)
    assert os.path.exists(hostile.MARKER)


def test_an_input_too_large_is_refused_before_a_sample_of_it_is_made(good, folder):
    path = hostile.write(hostile.PROGRAMS["input_too_large"](hostile.members(good)), folder / "evil.pt2")
    with pytest.raises(InputError, match="values a sample"):
        load_model(path)


def test_the_field_is_named(good, folder):
    path = hostile.write(hostile.PROGRAMS["operator_from_file"](hostile.members(good)), folder / "evil.pt2")
    with pytest.raises(InputError, match=r"nodes\[1\].target is 'torch.ops.aten.from_file.default'") as caught:
        load_model(path)
    assert "`trust_pickle=True`" in caught.value.hint


def test_no_string_of_a_program_runs_as_code(good, folder):
    content = hostile.members(good)
    count = sum(1 for _ in hostile.string_places(json.loads(content[hostile.MODEL])))
    chosen = random.Random(0).sample(range(count), 60)
    payloads = [hostile.CODE, f"x\n{hostile.CODE}", f"', {hostile.CODE}, '", f'"); {hostile.CODE} #']
    for place in chosen:
        def edit(program, place=place):
            container, key = list(hostile.string_places(program))[place]
            container[key] = payloads[place % len(payloads)]

        path = hostile.write(hostile.edited(content, edit), folder / "evil.pt2")
        with contextlib.suppress(CompileError):  # a string may also be data
            built(path)
        assert not os.path.exists(hostile.MARKER), place


def test_a_name_that_stands_twice_in_the_archive_is_refused(good, folder):
    content = hostile.members(good)
    evil = hostile.PROGRAMS["expression"](content)[hostile.MODEL]
    hostile.write(content, folder / "evil.pt2")
    with zipfile.ZipFile(folder / "evil.pt2", "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(f"small/{hostile.MODEL}", evil)
    with pytest.raises(InputError, match="stands twice"):
        load_model(folder / "evil.pt2")


def old_layout(good, folder, **changed):
    """The layout of torch.export.save before torch 2.8, written from a program that torch loaded."""
    from torch._export.serde.serialize import serialize

    artifact = serialize(torch.export.load(good))
    content = {
        "version": b"8.0", "serialized_exported_program.json": artifact.exported_program,
        "serialized_state_dict.pt": artifact.state_dict, "serialized_constants.pt": artifact.constants,
        "serialized_example_inputs.pt": artifact.example_inputs, **changed,
    }  # fmt: skip
    return hostile.write(content, Path(folder) / "old.pth", folder="")


@pytest.mark.filterwarnings("ignore")
def test_the_old_layout_is_read_the_same_way(good, folder):
    path = old_layout(good, folder)
    assert is_exported(path)
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(load_model(path).exported.module()(x), torch.export.load(good).module()(x))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("member", ["state_dict", "constants", "example_inputs"])
def test_pickles_in_the_old_layout_are_refused(good, folder, member):
    path = old_layout(good, folder, **{f"serialized_{member}.pt": hostile.pickled({"a": hostile.Evil()})})
    with pytest.raises(InputError, match="can run any code"):
        load_model(path)
    assert not os.path.exists(hostile.MARKER)


@pytest.mark.filterwarnings("ignore")
def test_expressions_in_the_old_layout_are_refused(good, folder):
    from torch._export.serde.serialize import serialize

    program = serialize(torch.export.load(good)).exported_program
    evil = hostile.PROGRAMS["expression"]({hostile.MODEL: program})[hostile.MODEL]
    with pytest.raises(InputError, match="expr_str"):
        load_model(old_layout(good, folder, **{"serialized_exported_program.json": evil}))
    assert not os.path.exists(hostile.MARKER)
