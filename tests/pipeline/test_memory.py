"""What is free is measured, in a container too, and half of it is the bound."""

import subprocess
import sys
from pathlib import Path

import pytest

from isobit.pipeline import memory
from isobit.pipeline.errors import InputError
from isobit.pipeline.memory import available_memory, check_memory

ROOT = Path(__file__).parents[2]


def test_the_least_of_machine_and_container_counts(tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:   4000 kB\n")
    (tmp_path / "max").write_text("3000000\n")
    (tmp_path / "current").write_text("1000000\n")
    (tmp_path / "none").write_text("max\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CONTAINER", ((tmp_path / "none", tmp_path / "current"), (tmp_path / "a",) * 2))
    assert available_memory() == 4000 * 1024
    monkeypatch.setattr(memory, "_CONTAINER", ((tmp_path / "max", tmp_path / "current"),))
    assert available_memory() == 2_000_000
    monkeypatch.setattr(memory, "_CONTAINER", ())
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "gone")
    assert available_memory() > 1 << 20


def test_more_than_half_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    check_memory(500, "it", "there", "less")
    with pytest.raises(InputError, match="it takes 501 bytes of memory, and 1,000 are free") as caught:
        check_memory(501, "it", "there", "less")
    assert caught.value.where == "there" and caught.value.hint == "less"


FAULTS = """
import resource, sys, torch
from isobit.pipeline.memory import keep_freed_memory
if sys.argv[1] == "kept" and not keep_freed_memory():
    sys.exit(77)
for turn in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.zeros(16 << 20).add_(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_tensors_of_a_step_take_the_memory_of_the_last_step():
    faults = {}
    for how in ("as it comes", "kept"):
        found = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, cwd=ROOT)
        if found.returncode == 77:
            pytest.skip("the C library has no mallopt")
        faults[how] = int(found.stdout)
    assert faults["kept"] * 10 < faults["as it comes"]
