"""The mutation tool: it damages what it says, sees what a judge overlooks, and leaves the artifact as it was."""

import numpy as np
import pytest

from isobit.pipeline.artifact.manifest import file_table
from tests.examples.sealed import seal, write_documents
from tools.check.mutate_artifact import judge_as_process, judge_here, mutants, survivors

BLIND = 'print("PASS")\n'
SEEING = """
import sys
from pathlib import Path
from isobit.backends.device.golden import read_golden
from isobit.backends.device.replay import broken_files, read_manifest, verdict
folder = Path(__file__).parent
def check():
    broken = broken_files(folder, read_manifest(folder), ["golden.npz", "model"])
    return broken or [] * len(read_golden(folder, ["a"]))
sys.exit(verdict(check))
"""


@pytest.fixture
def artifact(tmp_path):
    folder = tmp_path / "artifact"
    folder.mkdir()
    (folder / "model").write_bytes(b"model")
    codes = np.zeros((2, 3), np.uint8)
    floats = codes.astype(np.float32)
    np.savez(folder / "golden.npz", **{"input": floats, "logits": floats + 1, "code:a": codes})
    write_documents(folder)
    return folder


def names_of(artifact, runner, judge=judge_here):
    (artifact / "run.py").write_text(runner)
    seal(artifact)
    before = file_table(artifact)
    found = survivors(artifact, mutants(artifact, flips=4), judge)
    assert file_table(artifact) == before
    return [line.partition(": exit status")[0] for line in found]


def test_a_judge_that_sees_nothing_is_told_every_damage(artifact):
    names = names_of(artifact, BLIND)
    assert {"model gone", "golden.npz led elsewhere", "manifest without the file model"} <= set(names)
    assert not any(name.startswith(("nothing", "report.md")) for name in names)


def test_a_judge_that_replays_nothing_misses_changed_numbers_alone(artifact):
    assert all(name.endswith("changed") for name in names_of(artifact, SEEING))


def test_a_process_judges_alike(artifact):
    (artifact / "run.py").write_text(BLIND)
    assert judge_as_process(artifact) == (0, "PASS\n") == judge_here(artifact)
