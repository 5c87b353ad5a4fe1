"""What is free is measured, in a container too, and half of it is the bound."""

import pytest

from isobit.pipeline import memory
from isobit.pipeline.errors import InputError
from isobit.pipeline.memory import available_memory, check_memory


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
